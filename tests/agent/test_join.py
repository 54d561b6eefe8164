"""Joining the master's real enrolment endpoint, and what can go wrong on the way."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import pytest

from decnet_agent import cli, master_client
from decnet_agent.joining import has_joined, join, read_enrolment
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import ENROLMENT_FILE, JoinToken
from decnet_core.errors import ConfigError, Conflict, TrustError, Unavailable
from decnet_core.identity import MASTER, WORKER_ROLES, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import Clients, client_context, server_context
from decnet_master.enrolment.tokens import TokenMint
from decnet_master.store import Store
from decnet_master.swarmctl import app as swarmctl
from tests.pki.world import Ca
from tests.swarm.master import Template, port_of, running

pytestmark = pytest.mark.slow  # a master and a worker for each test


class Master:
    def __init__(self, app: swarmctl.App, store: Store, pin: str) -> None:
        self.endpoint = Endpoint("127.0.0.1", port_of(app.enrolment_socket))
        self._store = store
        self._pin = pin

    async def token(self, host: str = "w1", *, lifetime: timedelta = timedelta(minutes=10)) -> JoinToken:
        return await TokenMint(self._store, lambda: self._pin, lambda: self.endpoint).issue(
            host, lifetime, datetime.now(UTC)
        )

    async def revoke(self, token: JoinToken) -> None:
        await self._store.tokens.revoke(token.id, datetime.now(UTC))

    async def decommission(self, host: str) -> None:
        await self._store.hosts.decommission(host, datetime.now(UTC))


@pytest.fixture
async def master(template: Template, tmp_path: Path) -> AsyncIterator[Master]:
    settings = template.copy(tmp_path / "master")
    app = swarmctl.build(settings)
    async with running(app), await Store.open(settings.database) as store:
        yield Master(app, store, template.pin)


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    return AgentSettings.load(data_directory=tmp_path / "worker")


async def do(settings: AgentSettings, token: JoinToken) -> Identity:
    return await asyncio.to_thread(join, settings, token)


async def test_a_bare_host_becomes_a_worker(master, settings):
    assert await do(settings, await master.token()) == Identity(Role.AGENT, "w1")
    store = KeyStore(settings.identities_directory)
    for role in WORKER_ROLES:
        stored = store.load(role, datetime.now(UTC))
        assert stored.identity == Identity(role, "w1")
        assert stat.S_IMODE(stored.files.key.stat().st_mode) == 0o600
    enrolment = read_enrolment(settings.data_directory)
    assert enrolment is not None
    assert (enrolment.host, enrolment.master, enrolment.enrolment_port) == ("w1", "127.0.0.1", master.endpoint.port)
    assert not list(settings.data_directory.glob(".ca*"))


async def test_the_same_again_is_no_error_and_asks_nobody(master, settings):
    token = await master.token()
    await do(settings, token)
    before = KeyStore(settings.identities_directory).load(Role.AGENT, datetime.now(UTC))
    nobody = token.model_copy(update={"address": "127.0.0.1:1"})
    assert await do(settings, nobody) == Identity(Role.AGENT, "w1")
    assert KeyStore(settings.identities_directory).load(Role.AGENT, datetime.now(UTC)) == before


async def test_a_worker_does_not_become_another(master, settings):
    await do(settings, await master.token("w1"))
    with pytest.raises(Conflict, match="already, as w1"):
        await do(settings, await master.token("w2"))


@pytest.mark.parametrize("stored", [(), (Role.AGENT,), (Role.AGENT, Role.LOGSHIP), WORKER_ROLES])
async def test_an_attempt_that_broke_off_is_continued(master, settings, stored):
    """The answer was lost, or the host died while it stored it: the same keys are asked for again."""
    token = await master.token()
    await do(settings, token)
    (settings.data_directory / ENROLMENT_FILE).unlink()
    folder = settings.identities_directory
    for role in set(WORKER_ROLES) - set(stored):
        link = folder / role
        target = link.resolve()
        link.unlink()
        pending = folder / f"{role}.pending"
        target.rename(pending)
        for name in ("cert.pem", "ca.pem"):
            (pending / name).unlink()
    assert await do(settings, token) == Identity(Role.AGENT, "w1")
    for role in WORKER_ROLES:
        KeyStore(folder).load(role, datetime.now(UTC))


async def test_a_decommissioned_worker_joins_anew_with_new_keys(master, settings):
    await do(settings, await master.token())
    store = KeyStore(settings.identities_directory)
    before = {role: store.load(role, datetime.now(UTC)) for role in WORKER_ROLES}
    keys = {stored.files.key.read_bytes() for stored in before.values()}
    await master.decommission("w1")
    token = await master.token()
    for _ in range(2):  # the second time it has joined
        await do(settings, token)
        assert await asyncio.to_thread(has_joined, settings, token)
    for role in WORKER_ROLES:
        after = store.load(role, datetime.now(UTC))
        assert after.files.key.read_bytes() not in keys
        await asyncio.to_thread(master_client.confirm, master.endpoint, client_context(after.files, after.files.ca))


async def test_a_worker_whose_certificates_ended_joins_anew(master, settings):
    await do(settings, await master.token())
    store = KeyStore(settings.identities_directory)
    ended = Ca.make(datetime.now(UTC) - timedelta(days=30))
    then = datetime.now(UTC) - timedelta(days=8)
    for role in WORKER_ROLES:
        leaf = ended.issue(Identity(role, "w1"), store.create_key(role), at=then)
        store.store(role, certificates.certificate_pem(leaf), ended.pem, then)
    await master.decommission("w1")
    await do(settings, await master.token())
    for role in WORKER_ROLES:
        assert store.load(role, datetime.now(UTC)).identity == Identity(role, "w1")


async def test_a_worker_of_a_master_whose_ca_was_made_anew_joins_anew(master, settings):
    await do(settings, await master.token())
    store = KeyStore(settings.identities_directory)
    before = Ca.make(datetime.now(UTC) - timedelta(days=30))
    for role in WORKER_ROLES:
        leaf = before.issue(Identity(role, "w1"), store.create_key(role))
        store.store(role, certificates.certificate_pem(leaf), before.pem, datetime.now(UTC))
    await master.decommission("w1")
    token = await master.token()
    assert not await asyncio.to_thread(has_joined, settings, token)
    await do(settings, token)
    assert await asyncio.to_thread(has_joined, settings, token)
    elsewhere = token.model_copy(update={"pin": "0" * 64, "address": "192.0.2.1:8771"})
    with pytest.raises(Conflict, match="already, as w1"):
        await do(settings, elsewhere)


async def test_a_used_token_is_refused(master, settings, tmp_path):
    token = await master.token()
    await do(settings, token)
    with pytest.raises(TrustError, match="used"):
        await do(AgentSettings.load(data_directory=tmp_path / "other"), token)


async def test_an_ended_token_is_refused(master, settings):
    token = await master.token(lifetime=timedelta(seconds=-5))
    with pytest.raises(TrustError, match="ended") as raised:
        await do(settings, token)
    assert raised.value.advice.startswith("The token ended at ")
    assert read_enrolment(settings.data_directory) is None


async def test_another_ca_than_the_pinned_one_hears_nothing(settings, tmp_path):
    """An impostor with a certificate for the master's name gets the question for the CA, and not the token."""
    genuine = Ca.make()
    async with Impostor(tmp_path) as impostor:
        with pytest.raises(TrustError, match="another fingerprint"):
            await do(settings, impostor.token(pin=_pin(genuine)))
    assert impostor.heard.startswith(b"GET /ca ")
    assert impostor.heard.endswith(b"\r\n\r\n")
    assert not settings.data_directory.exists()


async def test_a_stranger_who_repeats_the_genuine_ca_does_not_get_the_token(settings, tmp_path):
    """He can show the CA, which is public, but holds no key of a certificate that it issued."""
    genuine = Ca.make()
    async with Impostor(tmp_path, shown=genuine.pem) as impostor:
        with pytest.raises(TrustError, match="is not the master of this token"):
            await do(settings, impostor.token(pin=_pin(genuine)))
    assert impostor.heard.startswith(b"GET /ca ")
    assert impostor.heard.endswith(b"\r\n\r\n")


async def test_a_revoked_token_is_refused(master, settings):
    token = await master.token()
    await master.revoke(token)
    with pytest.raises(TrustError, match="was revoked") as raised:
        await do(settings, token)
    assert "swarm enroll" in raised.value.advice
    assert read_enrolment(settings.data_directory) is None


async def test_a_token_whose_host_is_gone_is_refused(master, settings):
    token = await master.token()
    await master.decommission("w1")
    with pytest.raises(TrustError, match="ended"):
        await do(settings, token)


@pytest.mark.parametrize(
    ("shift", "words"),
    [(timedelta(days=2), "expired"), (-timedelta(days=3), "not yet valid")],
    ids=["this clock is ahead", "this clock is behind"],
)
async def test_clocks_that_disagree_are_told(settings, tmp_path, shift, words):
    """What a wrong clock looks like: the master's certificate is of another time."""
    genuine = Ca.make(datetime.now(UTC) - timedelta(days=30))
    async with Impostor(tmp_path, ca=genuine, at=datetime.now(UTC) - shift) as server:
        with pytest.raises(TrustError, match="not valid at this host's time") as raised:
            await do(settings, server.token(pin=_pin(genuine)))
    assert words in raised.value.message
    assert "clock" in raised.value.advice
    assert server.heard.endswith(b"\r\n\r\n"), "the token was not sent"


@pytest.mark.parametrize(
    "identity", [Identity(Role.AGENT, "w2"), Identity(Role.UPDATER, "w2")], ids=["an agent", "an updater"]
)
async def test_a_server_of_our_ca_that_is_not_the_master_hears_nothing(settings, tmp_path, identity):
    """A worker's own certificate is of the right CA, and its names are not the master's."""
    genuine = Ca.make()
    async with Impostor(tmp_path, ca=genuine, identity=identity) as server:
        with pytest.raises(TrustError, match=r"is not the master of this token: .*decnet-master"):
            await do(settings, server.token(pin=_pin(genuine)))
    assert server.heard.endswith(b"\r\n\r\n")


async def test_nobody_answers(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unavailable, match="cannot be reached") as raised:
        await do(settings, _token(f"127.0.0.1:{port}", "0" * 64))
    assert raised.value.exit_code == 69


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
async def test_who_answers_speaks_no_tls(settings, noise):
    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.recv(4096)
        connection.sendall(noise)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        with pytest.raises(Unavailable, match="TLS"):
            await do(settings, _token(f"127.0.0.1:{server.getsockname()[1]}", "0" * 64))
        thread.join()


async def test_a_data_directory_that_cannot_be_made(master, tmp_path):
    (tmp_path / "file").write_text("")
    settings = AgentSettings.load(data_directory=tmp_path / "file/data")
    with pytest.raises(ConfigError):
        await do(settings, await master.token())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, to give files away")
async def test_root_gives_the_files_to_the_owner_of_the_directory(master, settings):
    settings.data_directory.mkdir()
    os.chown(settings.data_directory, 65534, 65534)
    await do(settings, await master.token())
    for path in settings.data_directory.rglob("*"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (65534, 65534), path


def test_tokens_from_everywhere(tmp_path, monkeypatch, capsys):
    """Each way reaches the same refusal of a damaged token; nothing of it is printed."""
    (tmp_path / "token").write_text("decnet-join.SECRET\n")
    with pytest.raises(TrustError):
        cli.run(["join", "decnet-join.SECRET"])
    with pytest.raises(TrustError):
        cli.run(["join", "--token-file", str(tmp_path / "token")])
    monkeypatch.setenv(cli.TOKEN_VARIABLE, "decnet-join.SECRET")
    with pytest.raises(TrustError) as raised:
        cli.run(["join"])
    assert "SECRET" not in raised.value.message + raised.value.advice + "".join(capsys.readouterr())
    monkeypatch.delenv(cli.TOKEN_VARIABLE)
    with pytest.raises(ConfigError):
        cli.run(["join"])
    with pytest.raises(ConfigError):
        cli.run(["join", "--token-file", str(tmp_path / "none")])


class Impostor:
    """A TLS server with a certificate of its own CA, or of one that is given; keeps all that it hears."""

    def __init__(
        self,
        folder: Path,
        shown: bytes | None = None,
        *,
        ca: Ca | None = None,
        identity: Identity = MASTER,
        at: datetime | None = None,
    ) -> None:
        ca = ca or Ca.make(name="Impostor")
        self._shown = ca.pem if shown is None else shown
        files = ca.files(folder / "impostor", identity, at=at)
        self._tls = server_context(files, clients=Clients.STRANGERS)
        self._server: asyncio.Server | None = None
        self.heard = b""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def token(self, pin: str) -> JoinToken:
        assert self._server is not None
        return _token(f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}", pin)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(20):
            self.heard += await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(self._shown)}\r\n\r\n".encode() + self._shown)
            self.heard += await reader.read()
        writer.close()


def _pin(ca: Ca) -> str:
    from decnet_core.pki.certificates import fingerprint

    return fingerprint(ca.certificate)


def _token(address: str, pin: str) -> JoinToken:
    ends = datetime.now(UTC) + timedelta(minutes=5)
    return JoinToken(address=address, pin=pin, id="0" * 16, secret="s" * 43, host="w1", expires_at=ends)


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine is configured for."""
    for name in os.environ:
        if name.startswith("DECNET_") and not name.startswith("DECNET_LAB"):
            monkeypatch.delenv(name)
    (tmp_path / "empty.ini").write_text("")
    monkeypatch.setenv("DECNET_CONFIG", str(tmp_path / "empty.ini"))
