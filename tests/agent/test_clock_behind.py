"""A worker that starts before its clock is set: nothing of it gives up, because its certificates only seem too new."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import decnet_agent.app
import decnet_logship.app
from decnet_agent.settings import AgentSettings
from decnet_core.errors import ExitCode, IdentityNotBegun
from decnet_core.identity import WORKER_ROLES, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.keystore import KeyStore
from decnet_logship.settings import LogshipSettings
from decnet_updater.app import App as UpdaterApp
from decnet_updater.settings import UpdaterSettings
from tests.pki.world import Ca, now

DAEMONS: dict[Role, Callable[[Path], object]] = {
    Role.AGENT: lambda data: decnet_agent.app.build(AgentSettings.load(data_directory=data), tap=False),
    Role.LOGSHIP: lambda data: decnet_logship.app.build(LogshipSettings.load(data_directory=data)),
    Role.UPDATER: lambda data: UpdaterApp.build(
        UpdaterSettings.load(data_directory=data, updater_address="127.0.0.1:0")
    ),
}


def test_every_daemon_of_a_worker_is_looked_at() -> None:
    assert set(DAEMONS) == set(WORKER_ROLES)


@pytest.mark.parametrize("role", DAEMONS)
def test_a_certificate_of_tomorrow_is_tried_again(role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "decnet.ini"
    config.touch()
    monkeypatch.setenv("DECNET_CONFIG", str(config))
    ca, tomorrow, identity = Ca.make(), now() + timedelta(days=1), Identity(role, "w1")
    store = KeyStore(tmp_path / "identities")
    leaf = ca.issue(identity, store.create_key(role), at=tomorrow)
    store.store(role, certificates.certificate_pem(leaf), ca.pem, tomorrow)
    with pytest.raises(IdentityNotBegun, match="not valid before") as behind:
        DAEMONS[role](tmp_path)
    assert behind.value.exit_code == ExitCode.UNAVAILABLE
    assert "clock" in behind.value.advice
