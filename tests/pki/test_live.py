"""A daemon's identity changes under it: the next handshake has the new one, and nothing else notices."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import subprocess
import sys
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from decnet_core.errors import IdentityEnded, TrustError
from decnet_core.identity import MASTER, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import RENEW_AFTER, SPREAD, LiveIdentity, renewal_due
from decnet_core.pki.tls import Clients, client_context
from tests.pki.world import AGENT, DAY, WAIT_SECS, Ca, Echo, now

HOUR = timedelta(hours=1)


@pytest.fixture
def store(tmp_path) -> KeyStore:
    return KeyStore(tmp_path / "identities")


@pytest.fixture
def agent(ca, tmp_path):
    return ca.files(tmp_path / "agent", AGENT)


def renew(store, ca, identity=MASTER, *, trusted=None, **named):
    key = store.create_key(identity.role)
    leaf = ca.issue(identity, key, **named)
    pem = certificates.certificate_pem(leaf)
    return store.store(identity.role, pem, trusted or ca.pem, named.get("at", now()))


async def shown(port, context, name="decnet-master") -> str:
    """The fingerprint of the certificate that a server shows."""
    async with asyncio.timeout(WAIT_SECS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        try:
            assert await reader.readline() == b"hello\n"
            return certificates.fingerprint(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        finally:
            writer.transport.abort()


async def test_the_next_handshake_has_the_renewed_certificate_and_open_connections_stay(store, ca, agent):
    first = renew(store, ca)
    live = LiveIdentity.open(store, Role.MASTER, now())
    checking = client_context(agent, agent.ca)
    async with Echo(live.server_context()) as server:
        assert await shown(server.port, checking) == first.fingerprint
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=checking, server_hostname="decnet-master"
        )
        second = renew(store, ca)
        assert await shown(server.port, checking) == first.fingerprint  # it looks when it looks
        assert live.refresh(now())
        assert not live.refresh(now())
        assert live.stored == second
        assert await shown(server.port, checking) == second.fingerprint
        assert not writer.is_closing()
        assert await reader.readline() == b"hello\n"
        server.transports[1].write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        writer.transport.abort()


async def test_a_client_that_names_no_server_gets_the_renewed_one_too(store, ca, agent):
    renew(store, ca)
    live = LiveIdentity.open(store, Role.MASTER, now())
    second = renew(store, ca)
    live.refresh(now())
    nameless = client_context(agent, agent.ca)
    nameless.check_hostname = False
    async with Echo(live.server_context()) as server:
        assert await shown(server.port, nameless, "") == second.fingerprint


async def test_roots_come_and_go_with_the_identity(store, ca, tmp_path):
    """What a context that serves cannot do by itself: a CA that is trusted no more is refused at the next handshake."""
    after = Ca.make(name="Next CA", lifetime=30 * DAY)
    both = ca.pem + after.pem
    old, new = ca.files(tmp_path / "old", AGENT), after.files(tmp_path / "new", AGENT)
    for files in (old, new):
        files.ca.write_bytes(both)
    renew(store, ca)
    live = LiveIdentity.open(store, Role.MASTER, now())
    refused = (ssl.SSLError, ConnectionError)
    async with Echo(live.server_context()) as server:

        async def may(files) -> bool:
            try:
                return await server.hear(client_context(files, files.ca)) == b"hello\n"
            except refused:
                return False

        assert (await may(old), await may(new)) == (True, False)
        renew(store, ca, trusted=both)
        assert live.refresh(now())
        assert (await may(old), await may(new)) == (True, True)
        renew(store, after, trusted=after.pem)
        assert live.refresh(now())
        assert (await may(old), await may(new)) == (False, True)


async def test_every_invariant_of_a_servers_context_survives_a_change(store, ca, agent):
    renew(store, ca)
    live = LiveIdentity.open(store, Role.MASTER, now())
    front = live.server_context(alpn=["decnet-log/1"])
    renew(store, ca)
    live.refresh(now())
    async with Echo(front) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await server.hear(client_context(None, agent.ca))
        old = client_context(agent, agent.ca)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await server.hear(old)
        assert await server.hear(client_context(agent, agent.ca, ["decnet-log/1"])) == b"hello\n"
        chosen = server.transports[-1].get_extra_info("ssl_object")
        assert chosen.selected_alpn_protocol() == "decnet-log/1"
        assert chosen.context.num_tickets == front.num_tickets == 0
    asked = live.server_context(clients=Clients.ASKED)
    async with Echo(asked) as server:
        assert await server.hear(client_context(None, agent.ca)) == b"hello\n"


def test_a_clients_next_context_has_the_renewed_identity(store, ca):
    renew(store, ca, AGENT)
    live = LiveIdentity.open(store, Role.AGENT, now())
    first = live.client_context()
    assert live.client_context() is first
    renew(store, ca, AGENT)
    live.refresh(now())
    assert live.client_context() is not first
    assert live.client_context(["x"]) is not live.client_context()


@pytest.mark.parametrize("fault", ["open key", "foreign", "other host"])
def test_what_cannot_be_proved_is_told_once_and_not_taken(store, ca, impostor, fault):
    first = renew(store, ca, AGENT)
    live = LiveIdentity.open(store, Role.AGENT, now())
    context = live.client_context()
    other = Identity(Role.AGENT, "other") if fault == "other host" else AGENT
    second = renew(store, impostor if fault == "foreign" else ca, other)
    if fault == "open key":
        second.files.key.chmod(0o644)
    if fault == "foreign":
        second.files.ca.write_bytes(ca.pem)
    with capture_logs() as logs:
        assert not live.refresh(now())
        assert not live.refresh(now())
    assert [line["event"] for line in logs] == ["identity.refused"]
    assert live.stored == first
    assert live.client_context() is context
    third = renew(store, ca, AGENT)
    assert live.refresh(now())
    assert live.stored == third


def test_what_was_mended_is_taken(store, ca):
    renew(store, ca, AGENT)
    live = LiveIdentity.open(store, Role.AGENT, now())
    second = renew(store, ca, AGENT)
    second.files.key.chmod(0o644)
    assert not live.refresh(now())
    second.files.key.chmod(0o600)
    assert live.refresh(now())
    assert live.stored == second


async def test_watching_follows_and_tells_an_end(store, ca):
    then = now() - 2 * HOUR
    renew(store, ca, AGENT, at=then, lifetime=HOUR)
    live = LiveIdentity.open(store, Role.AGENT, then)  # it was good when the program started
    changed = asyncio.Event()
    with capture_logs() as logs:
        task = asyncio.create_task(live.watch(changed.set, every_secs=0.01))
        try:
            async with asyncio.timeout(WAIT_SECS):
                while "identity.ended" not in [line["event"] for line in logs]:
                    await asyncio.sleep(0.01)
                renew(store, ca, AGENT)
                await changed.wait()
        finally:
            task.cancel()
    assert [line["event"] for line in logs] == ["identity.ended", "identity.changed"]
    assert "decnet-agent join" in logs[0]["advice"]


async def test_one_that_has_ended_is_waited_for_and_one_that_is_missing_is_not(store, ca):
    with pytest.raises(TrustError, match="no agent identity"):
        await LiveIdentity.awaited(store, Role.AGENT)
    renew(store, ca, AGENT, at=now() - 2 * HOUR, lifetime=HOUR)
    with pytest.raises(IdentityEnded):
        LiveIdentity.open(store, Role.AGENT, now())
    with capture_logs() as logs:
        waiting = asyncio.create_task(LiveIdentity.awaited(store, Role.AGENT, 0.01))
        async with asyncio.timeout(WAIT_SECS):
            while not logs:
                await asyncio.sleep(0.01)
            second = renew(store, ca, AGENT)
            live = await waiting
    assert live.stored == second
    assert [line["event"] for line in logs] == ["identity.awaited"]


async def test_one_whose_time_has_not_come_is_waited_for(store, ca):
    renew(store, ca, AGENT)
    before = renew(store, ca, AGENT, at=now() + 2 * HOUR, lifetime=HOUR)
    with capture_logs() as logs:
        waiting = asyncio.create_task(LiveIdentity.awaited(store, Role.AGENT, 0.01))
        async with asyncio.timeout(WAIT_SECS):
            while not logs:
                await asyncio.sleep(0.01)
            now_valid = renew(store, ca, AGENT)
            live = await waiting
    assert live.stored == now_valid != before
    assert [line["event"] for line in logs] == ["identity.awaited"]


def test_renewal_is_due_at_two_thirds_and_spread(store, ca):
    dues = set()
    for _ in range(20):
        stored = renew(store, ca, AGENT)
        life = stored.not_after - stored.not_before
        due = (renewal_due(stored) - stored.not_before) / life
        assert RENEW_AFTER <= due < RENEW_AFTER + SPREAD
        assert renewal_due(stored) == renewal_due(store.load(Role.AGENT, now()))
        dues.add(due)
    assert max(dues) - min(dues) > SPREAD / 4


def test_renewals_of_a_fleet_are_spread_evenly():
    from decnet_core.pki.keystore import StoredIdentity

    start = now()
    step = 0x1_0000_0000 // 1000
    dues = [
        renewal_due(StoredIdentity(AGENT, None, start, start + 7 * DAY, f"{number * step:08x}"))
        for number in range(1000)
    ]
    gaps = [later - earlier for earlier, later in itertools.pairwise(dues)]
    assert max(gaps) < 2 * (7 * DAY * SPREAD / 1000)


def test_following_needs_no_certificate_library(store, ca):
    """It would cost each daemon 13 MB for good."""
    renew(store, ca, AGENT)
    code = (
        "import sys; from datetime import UTC, datetime; from pathlib import Path;"
        "from decnet_core.identity import Role; from decnet_core.pki.keystore import KeyStore;"
        "from decnet_core.pki.live import LiveIdentity, renewal_due;"
        "live = LiveIdentity.open(KeyStore(Path(sys.argv[1])), Role.AGENT, datetime.now(UTC));"
        "live.server_context(); live.client_context(); live.refresh(datetime.now(UTC)); renewal_due(live.stored);"
        "print('cryptography' in sys.modules)"
    )
    folder = str(store.in_use(Role.AGENT).parent)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "False\n"
