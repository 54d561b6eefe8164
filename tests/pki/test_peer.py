from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl

import httpx
import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from decnet_core.errors import TrustError
from decnet_core.identity import MASTER, MASTER_HOST
from decnet_core.peer import Peer, admit, bind_peer, peer_in, peer_of
from decnet_core.pki import certificates, tls
from tests.pki.world import AGENT, LOGSHIP, WAIT_SECS, Echo, lay_down

BROKEN = (httpx.TransportError, ssl.SSLError, OSError)


async def who(scope, _receive, send):
    """Answer with the caller's identity, fingerprint and address."""
    if scope["type"] != "http":
        return
    try:
        peer = peer_in(scope)
        body = f"{peer.identity} {peer.fingerprint} {peer.address}".encode()
    except TrustError as error:
        body = error.message.encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Served:
    """A real uvicorn on loopback with the protocol class that the docstring of `decnet_core.peer` shows."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.refused: list[tuple[str, str]] = []
        self.asked = 0
        served = self

        class PeerProtocol(H11Protocol):
            def connection_made(self, transport):
                super().connection_made(transport)
                self.app = admit(self.app, transport, lambda error, at: served.refused.append((error.message, at)))

        async def counted(scope, receive, send):
            served.asked += scope["type"] == "http"
            await who(scope, receive, send)

        config = uvicorn.Config(
            counted,
            http=PeerProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            ssl_context_factory=lambda _config, _default: context,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)

    async def __aenter__(self):
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]))
        return self

    async def __aexit__(self, *_):
        self._server.should_exit = True
        await asyncio.wait_for(self._task, WAIT_SECS)

    async def get(self, context: ssl.SSLContext, **headers: str) -> str:
        async with httpx.AsyncClient(verify=context, timeout=WAIT_SECS, trust_env=False) as client:
            answer = await client.get(
                f"https://127.0.0.1:{self.port}/", headers=headers, extensions={"sni_hostname": MASTER_HOST}
            )
            assert answer.status_code == 200
            return answer.text


@pytest.fixture
def master(ca, tmp_path):
    return ca.files(tmp_path / "master", MASTER)


@pytest.fixture
def agent(ca, tmp_path):
    return ca.files(tmp_path / "agent", AGENT)


@pytest.fixture(autouse=True)
def _quiet_uvicorn(caplog):
    caplog.set_level(logging.CRITICAL, "uvicorn.error")


@pytest.fixture
def forged(ca, tmp_path):
    """Lay down an identity that the CA signed and the product never would."""

    def make(**named):
        key = certificates.generate_key()
        return lay_down(tmp_path / "forged", key, ca.forge(key, **named), ca.pem)

    return make


async def test_the_application_sees_who_calls(master, agent):
    async with Served(tls.server_context(master)) as server:
        text = await server.get(tls.client_context(agent, agent.ca))
    der = ssl.PEM_cert_to_DER_cert(agent.certificate.read_text())
    assert text == f"{AGENT} {certificates.fingerprint(der)} 127.0.0.1"


async def test_a_header_makes_no_peer(master, agent):
    async with Served(tls.server_context(master)) as server:
        text = await server.get(
            tls.client_context(agent, agent.ca), **{"decnet.peer": str(MASTER), "x-forwarded-for": "10.0.0.9"}
        )
    assert text.startswith("agent@web-1 ")
    assert text.endswith(" 127.0.0.1")


async def test_many_connections_keep_their_peers(master, agent, ca, tmp_path):
    logship = ca.files(tmp_path / "logship", LOGSHIP)
    contexts = [tls.client_context(files, files.ca) for files in (agent, logship)] * 5
    async with Served(tls.server_context(master)) as server:
        texts = await asyncio.gather(*map(server.get, contexts))
    assert [text.split()[0] for text in texts] == [str(AGENT), str(LOGSHIP)] * 5


async def test_an_impostor_and_the_nameless_never_reach_the_application(master, impostor, tmp_path):
    strangers = [None, impostor.files(tmp_path / "impostor", AGENT)]
    async with Served(tls.server_context(master)) as server:
        for stranger in strangers:
            with pytest.raises(BROKEN):
                await server.get(tls.client_context(stranger, master.ca))
        assert (server.asked, server.refused) == (0, [])  # the handshake failed: no protocol was made


async def test_older_tls_never_reaches_the_application(master, agent):
    old = tls.client_context(agent, agent.ca)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with Served(tls.server_context(master)) as server:
        with pytest.raises(BROKEN):
            await server.get(old)
        assert server.asked == 0


async def test_enrolment_has_no_peer(master):
    async with Served(tls.server_context(master, clients=tls.Clients.STRANGERS)) as server:
        assert await server.get(tls.client_context(None, master.ca)) == "The peer presented no certificate"
        assert server.refused == []


FORGERIES = {
    "no usage stated": ({"usage": []}, "is not for a client"),
    "an identity of no role": ({"cn": "root@web-1", "uris": ["decnet:root@web-1"]}, "is not a DECNET identity"),
    "two identities": ({"uris": [f"decnet:{AGENT}", f"decnet:{MASTER}"]}, "exactly one"),
    "no identity": ({"uris": []}, "exactly one"),
    "a CN of somebody else": ({"cn": str(MASTER)}, "its subject another"),
}


@pytest.mark.parametrize("kind", FORGERIES)
async def test_a_certificate_that_openssl_accepts_and_we_do_not(master, forged, kind):
    named, message = FORGERIES[kind]
    files = forged(**named)
    async with Served(tls.server_context(master)) as server:
        with pytest.raises(BROKEN):
            await server.get(tls.client_context(files, files.ca))
        assert server.asked == 0
        [(why, address)] = server.refused
    assert message in why
    assert address == "127.0.0.1"


async def test_a_request_in_the_handshakes_last_packet_is_not_heard(master, forged):
    """The request arrives with the client's Finished: asyncio would deliver it to a protocol that merely closes."""
    files = forged(usage=[])

    async with Served(tls.server_context(master)) as server, asyncio.timeout(WAIT_SECS):
        assert await request_with_finished(server.port, tls.client_context(files, files.ca)) == b""
    assert len(server.refused) == 1
    assert server.asked == 0


async def request_with_finished(port: int, context: ssl.SSLContext) -> bytes:
    """Send certificate, Finished and a request in one write; return what comes back, undeciphered."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=MASTER_HOST)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        client.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        writer.write(outgoing.read())
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_the_refusing_application_answers_403(forged, master):
    """The second line, should a transport deliver bytes after its abort."""
    files = forged(usage=[])
    sent = []

    async def send(message):
        sent.append(message)

    async with Echo(tls.server_context(master)) as server:
        with contextlib.suppress(ConnectionError):
            await server.hear(tls.client_context(files, files.ca))
        await admit(who, server.transports[0])({"type": "http"}, None, send)
        assert server.transports[0].is_closing()
    assert sent[0]["status"] == 403


async def test_a_client_knows_its_server_too(master, agent):
    async with Echo(tls.server_context(master)) as server, asyncio.timeout(WAIT_SECS):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=tls.client_context(agent, agent.ca), server_hostname=MASTER_HOST
        )
        peer = peer_of(writer.transport)
        writer.transport.abort()
    assert peer is not None
    assert peer.identity == MASTER


async def test_a_server_that_states_no_usage_is_refused_by_us(agent, forged):
    files = forged(usage=[])
    async with Echo(tls.server_context(files)) as server, asyncio.timeout(WAIT_SECS):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=tls.client_context(agent, agent.ca), server_hostname=AGENT.host
        )
        with pytest.raises(TrustError, match="is not for a server"):
            peer_of(writer.transport)
        writer.transport.abort()


async def test_a_plain_connection_has_no_peer():
    async with Echo(None) as server, asyncio.timeout(WAIT_SECS):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert peer_of(writer.transport) is None
        writer.transport.abort()


async def test_binding_adds_to_the_extensions_and_leaves_the_scope():
    peer = Peer(AGENT, "00" * 32, "10.0.0.1")
    seen = []

    async def app(scope, _receive, _send):
        seen.append(scope)

    scope = {"type": "http", "extensions": {"tls": {}}}
    await bind_peer(app, peer)(scope, None, None)
    assert scope == {"type": "http", "extensions": {"tls": {}}}
    assert seen == [{"type": "http", "extensions": {"tls": {}, "decnet.peer": peer}}]
    assert bind_peer(app, None) is app
