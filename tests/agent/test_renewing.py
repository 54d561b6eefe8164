"""When the serving agent renews, and what it does when that fails."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from decnet_agent import inspection, renewing
from decnet_agent.renewing import keep_renewed, renew_in_a_process
from decnet_agent.settings import AgentSettings
from decnet_core.errors import TrustError
from decnet_core.identity import Identity, Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity
from tests.pki.world import DAY, Ca, certificates, now

AGENT = Identity(Role.AGENT, "w1")


class Renewals:
    """Counts attempts; each fails until `works`, and then stores a certificate as a renewal does."""

    def __init__(self, folder: Path, age: timedelta, lifetime: timedelta) -> None:
        self.ca = Ca.make(now() - 60 * DAY)
        self.folder = folder
        self.count = 0
        self.works = True
        self.store(age, lifetime)
        self.identity = LiveIdentity.open(KeyStore(folder), Role.AGENT, now() - age)
        self.changed = asyncio.Event()

    def store(self, age: timedelta, lifetime: timedelta) -> None:
        store = KeyStore(self.folder)
        leaf = self.ca.issue(AGENT, store.create_key(Role.AGENT), at=now() - age, lifetime=lifetime)
        store.store(Role.AGENT, certificates.certificate_pem(leaf), self.ca.pem, now() - age)

    async def attempt(self) -> str | None:
        self.count += 1
        self.changed.set()
        if not self.works:
            return "the master does not answer"
        self.store(timedelta(), 7 * DAY)
        return None

    async def attempts(self, number: int, **more) -> list[dict]:
        """Run the loop until there were so many attempts, and a little on; return what it logged."""
        with capture_logs() as logs:
            task = asyncio.create_task(keep_renewed(self.identity, self.attempt, look_secs=0.001, **more))
            try:
                async with asyncio.timeout(10):
                    while self.count < number:
                        await self.changed.wait()
                        self.changed.clear()
                    for _ in range(20):
                        await asyncio.sleep(0.001)
            finally:
                task.cancel()
        return logs


async def test_what_is_due_is_renewed_once_and_used(tmp_path: Path) -> None:
    renewals = Renewals(tmp_path, 6 * DAY, 7 * DAY)
    before = renewals.identity.stored
    logs = await renewals.attempts(1)
    assert renewals.count == 1
    assert renewals.identity.stored != before
    assert [line["event"] for line in logs] == ["identity.changed"]


@pytest.mark.parametrize(("age", "lifetime"), [(DAY, 7 * DAY), (4.5 * DAY, 7 * DAY)])
async def test_what_is_not_due_is_left_alone(tmp_path: Path, age: timedelta, lifetime: timedelta) -> None:
    renewals = Renewals(tmp_path, age, lifetime)
    await renewals.attempts(0)
    assert renewals.count == 0


async def test_what_has_ended_is_not_tried(tmp_path: Path) -> None:
    renewals = Renewals(tmp_path, 8 * DAY, 7 * DAY)
    await renewals.attempts(0)
    assert renewals.count == 0


async def test_a_failure_is_told_and_tried_again_after_growing_pauses(tmp_path: Path) -> None:
    renewals = Renewals(tmp_path, 6 * DAY, 7 * DAY)
    renewals.works = False
    logs = await renewals.attempts(4, first_delay_secs=0.005)
    failures = [line for line in logs if line["event"] == "renewal.failed"]
    assert len(failures) == renewals.count >= 4
    assert failures[0]["reason"] == "the master does not answer"
    assert failures[0]["ends"] == renewals.identity.stored.not_after.isoformat()
    renewals.count = 0
    await renewals.attempts(1, first_delay_secs=1e9)
    assert renewals.count == 1, "it waits"


async def test_the_process_says_why_it_could_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ini = tmp_path / "decnet.ini"
    ini.write_text(f"[decnet]\ndata-directory = {tmp_path / 'data'}\n")
    monkeypatch.setenv("DECNET_CONFIG", str(ini))
    reason = await renew_in_a_process()
    assert reason is not None
    assert "has not joined a master" in reason
    assert "what to do: Run `decnet-agent join`" in reason


async def test_a_process_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would read its configuration from a pipe that nobody writes."""
    import os

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setenv("DECNET_CONFIG", str(pipe))
    monkeypatch.setattr(renewing, "ATTEMPT_SECS", 0.5)
    assert await renew_in_a_process() == "it did not end within 0 s"


def test_doctor_tells_a_renewal_that_is_late(tmp_path: Path) -> None:
    settings = AgentSettings.load(data_directory=tmp_path)
    Renewals(settings.identities_directory, DAY, 7 * DAY)
    assert "renewed by itself after" in inspection._check_identity(settings)
    Renewals(settings.identities_directory, 6 * DAY, 7 * DAY)
    with pytest.raises(TrustError, match="should have been renewed at") as told:
        inspection._check_identity(settings)
    assert "decnet-agent renew" in told.value.advice
