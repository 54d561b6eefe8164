"""The same intruders at every door: each is refused, each is told of, and who may come in is served all the while."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from decnet_agent import joining
from decnet_agent.settings import AgentSettings
from decnet_core.enrolment import JoinToken
from decnet_core.identity import WORKER_ROLES, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import IdentityFiles, client_context
from decnet_master.enrolment.issuer import Issuer
from decnet_master.listener.server import ServerLimits
from decnet_master.settings import MasterSettings
from decnet_master.swarmctl.app import App
from tests.pki.world import Ca, lay_down, now
from tests.swarm.doors import HOST, OPERATOR, Door, open_doors
from tests.swarm.flood import Flood
from tests.swarm.master import Template, port_of
from tests.swarm.operators import let_in

pytestmark = [pytest.mark.slow, pytest.mark.long]  # a controller and workers over mutual TLS for each test

TOLD_SECS = 60.0
HALF_OPEN = 10_000
CUT_SECS = 5.0
MARGIN_SECS = 10.0  # for a machine that is busy with other things


class House:
    """The doors, the CA behind them, and who may come in."""

    def __init__(
        self, doors: dict[str, Door], ca: Ca, settings: MasterSettings, worker: AgentSettings, operator: Path
    ) -> None:
        self.doors = doors
        self._operator = operator
        self.ca = ca
        self._settings = settings
        self.worker = worker

    def visitor(self, door: Door) -> IdentityFiles:
        """The files of one who may come in."""
        homes = {Role.MASTER: self._settings.identities_directory, Role.OPERATOR: self._operator}
        home = homes.get(door.visitor.role, self.worker.identities_directory)
        return KeyStore(home).load(door.visitor.role, now()).files


@pytest.fixture
def settings(template: Template, tmp_path: Path) -> MasterSettings:
    return template.copy(tmp_path).model_copy(update={"operator_address": "127.0.0.1:0"})


@pytest.fixture
async def house(
    swarm: App, controller: httpx.AsyncClient, settings: MasterSettings, tmp_path: Path
) -> AsyncIterator[House]:
    issuing = Issuer.open(settings, now()).authorities.issuing
    ca = Ca(issuing._key, issuing.certificate)
    worker = AgentSettings.load(data_directory=tmp_path / HOST)
    answer = await controller.post("/hosts", json={"name": HOST})
    await asyncio.to_thread(joining.join, worker, JoinToken.parse(answer.json()["token"]))
    await let_in(controller, tmp_path / "operator", OPERATOR.host)
    assert swarm.operator_socket is not None
    ports = port_of(swarm.enrolment_socket), port_of(swarm.operator_socket)
    async with open_doors(settings, *ports, ca, tmp_path) as doors:
        yield House(doors, ca, settings, worker, tmp_path / "operator")


def forged(ca: Ca, folder: Path, identity: Identity, **values: object) -> IdentityFiles:
    """An identity as the CA would issue it, but for what is said; the key of its CA is in its hands."""
    key = certificates.generate_key()
    named = {"cn": str(identity), "uris": [f"decnet:{identity}"], "dns": [identity.host]}
    return lay_down(folder, key, ca.forge(key, **(named | values)), ca.pem)


async def told(logs: list, events: tuple[str, ...], reason: str = "") -> None:
    """Wait until a line that an operator sees tells of a refusal."""
    async with asyncio.timeout(TOLD_SECS):
        while not any(
            line["event"] in events and line["log_level"] == "warning" and reason in str(line) for line in logs
        ):
            await asyncio.sleep(0.01)


async def served(house: House, door: Door) -> bool:
    """Tell whether one who may come in does."""
    files = house.visitor(door)
    return await door.admits(files, files.ca)


@pytest.mark.parametrize(
    ("shifted", "reason"),
    [(timedelta(days=-30), "certificate has expired"), (timedelta(days=30), "certificate is not yet valid")],
    ids=["expired", "not yet valid"],
)
async def test_a_certificate_out_of_its_time(house: House, tmp_path: Path, shifted: timedelta, reason: str) -> None:
    for door in house.doors.values():
        assert await served(house, door), door.name
        files = forged(house.ca, tmp_path / door.name, door.visitor, at=now() + shifted)
        with capture_logs() as logs:
            assert not await door.admits(files, files.ca), door.name
            await told(logs, door.refusals, reason)
        assert await served(house, door), door.name


async def test_a_certificate_of_another_ca(house: House, tmp_path: Path) -> None:
    other = Ca.make(name="DECNET CA")
    for door in house.doors.values():
        files = other.files(tmp_path / f"other {door.name}", door.visitor)
        with capture_logs() as logs:
            assert not await door.admits(files, house.visitor(door).ca), door.name
            await told(logs, door.refusals)
        assert await served(house, door), door.name


async def test_no_certificate_at_all(house: House) -> None:
    for door in house.doors.values():
        ours = house.visitor(door).ca
        if door.name == "enrolment":  # who joins has none yet, and is told of the CA
            assert await door.admits(None, ours)
            continue
        with capture_logs() as logs:
            assert not await door.admits(None, ours), door.name
            await told(logs, door.refusals)
        assert await served(house, door), door.name


async def test_tls_below_1_3(house: House) -> None:
    for door in house.doors.values():
        files = house.visitor(door)
        context = client_context(files, files.ca, door.alpn)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        with capture_logs() as logs:
            assert await door.knock(context) == b"", door.name
            await told(logs, door.refusals)
        assert await served(house, door), door.name


async def test_a_workers_identity_opens_only_what_is_its_own(house: House) -> None:
    for name in ("agent", "updater", "listener", "operators"):
        for role in WORKER_ROLES:
            files = KeyStore(house.worker.identities_directory).load(role, now()).files
            door = house.doors[name]
            with capture_logs() as logs:
                admitted = await door.admits(files, files.ca)
                assert admitted == ((name, role) == ("listener", Role.LOGSHIP)), (name, role)
                if not admitted:
                    await told(logs, door.refusals, f"{role}@{HOST}")


async def test_an_operators_identity_opens_the_controller_alone(house: House) -> None:
    files = house.visitor(house.doors["operators"])
    for name in ("agent", "updater", "listener"):
        door = house.doors[name]
        with capture_logs() as logs:
            assert not await door.admits(files, files.ca), name
            await told(logs, door.refusals, str(OPERATOR))
    assert await served(house, house.doors["operators"])


async def test_a_live_connection_ends_with_its_host(house: House, controller: httpx.AsyncClient) -> None:
    door = house.doors["listener"]
    limits = ServerLimits()
    assert limits.muster_secs <= CUT_SECS / 2, "every live connection is looked at twice in the time that is promised"
    files = house.visitor(door)
    context = client_context(files, files.ca, door.alpn)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=context, server_hostname=door.server)
    with contextlib.closing(writer), capture_logs() as logs:
        writer.write(door.asks)
        async with asyncio.timeout(TOLD_SECS):
            assert (await reader.read(4096)).startswith(door.answered)
            await controller.post(f"/hosts/{HOST}/decommission")
            began = time.monotonic()
            with contextlib.suppress(OSError):
                while await reader.read(4096):
                    pass
        assert time.monotonic() - began < CUT_SECS + MARGIN_SECS
        await told(logs, ("sender.refused",), "not active in the books any more")
    assert not await door.admits(files, files.ca)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["agent", "updater", "listener"])
async def test_ten_thousand_half_open_handshakes(house: House, name: str) -> None:
    """Each begins a handshake and goes no further; who may come in is served in the midst of it, and at its end."""
    door = house.doors[name]

    async def insisted() -> bool:
        # Its own handshake may be among those that are cut: then it tries again, as a master and a logship do.
        for _ in range(5):
            if await served(house, door):
                return True
        return False

    with capture_logs() as logs:
        async with Flood(door.port, door.server) as flood:
            for _ in range(4):
                await flood.pour(HALF_OPEN // 4)
                assert await insisted()
        assert await insisted()
    assert "handshakes.cut" in [line["event"] for line in logs]
