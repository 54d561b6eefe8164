from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from datetime import timedelta

import pytest

from decnet_core.errors import TrustError
from decnet_core.identity import MASTER
from decnet_core.pki import certificates, tls
from decnet_core.pki.tls import client_context, server_context, unverified_context
from tests.pki.world import AGENT, DAY, LOGSHIP, SERVER, WAIT_SECS, Ca, Echo, lay_down, now

# What a refused client sees: an alert, a reset or an early end.
REFUSED = (ssl.SSLError, ConnectionError)


@pytest.fixture
def master(ca, tmp_path):
    return ca.files(tmp_path / "master", MASTER)


@pytest.fixture
def agent(ca, tmp_path):
    return ca.files(tmp_path / "agent", AGENT)


async def test_two_of_ours_meet(master, agent):
    async with Echo(server_context(master)) as server:
        assert await server.hear(client_context(agent, agent.ca)) == b"hello\n"
        chosen = server.transports[0].get_extra_info("ssl_object")
        assert chosen.version() == "TLSv1.3"
        assert chosen.compression() is None


def test_only_the_private_ca_is_a_root(ca, master, agent):
    for context in (server_context(master), client_context(agent, agent.ca)):
        assert context.get_ca_certs(binary_form=True) == [ssl.PEM_cert_to_DER_cert(ca.pem.decode())]
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3


async def test_a_client_without_a_certificate_is_refused(master):
    async with Echo(server_context(master)) as server:
        with pytest.raises(REFUSED):
            await server.hear(client_context(None, master.ca))
        assert server.transports == []


async def test_an_impostors_client_is_refused(master, impostor, tmp_path):
    files = impostor.files(tmp_path / "impostor", AGENT)
    async with Echo(server_context(master)) as server:
        with pytest.raises(REFUSED):
            await server.hear(client_context(files, master.ca))
        assert server.transports == []


async def test_an_impostors_server_is_refused(agent, impostor, tmp_path):
    async with Echo(server_context(impostor.files(tmp_path / "impostor", MASTER))) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await server.hear(client_context(agent, agent.ca))


async def test_an_expired_client_is_refused(master, ca, tmp_path):
    files = ca.files(tmp_path / "old", AGENT, at=now() - timedelta(hours=2), lifetime=timedelta(hours=1))
    async with Echo(server_context(master)) as server:
        with pytest.raises(REFUSED):
            await server.hear(client_context(files, master.ca))


async def test_a_client_that_is_not_valid_yet_is_refused(master, ca, tmp_path):
    files = ca.files(tmp_path / "early", AGENT, at=now() + timedelta(hours=1))
    async with Echo(server_context(master)) as server:
        with pytest.raises(REFUSED):
            await server.hear(client_context(files, master.ca))
        assert server.transports == []


async def test_a_certificate_for_another_use_is_refused(master, ca, tmp_path):
    key = certificates.generate_key()
    files = lay_down(tmp_path / "server-only", key, ca.forge(key, usage=[SERVER]), ca.pem)
    async with Echo(server_context(master)) as server:
        with pytest.raises(REFUSED):
            await server.hear(client_context(files, master.ca))


async def test_logship_cannot_be_a_server(agent, ca, tmp_path):
    async with Echo(server_context(ca.files(tmp_path / "logship", LOGSHIP))) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
            await server.hear(client_context(agent, agent.ca), "web-1")


@pytest.mark.parametrize("name", ["web-2", "127.0.0.1", "agent@web-1"])
async def test_a_client_checks_the_name_it_dialled(master, agent, name):
    async with Echo(server_context(agent)) as server:
        assert await server.hear(client_context(master, master.ca), "web-1") == b"hello\n"
        with pytest.raises(ssl.SSLCertVerificationError):
            await server.hear(client_context(master, master.ca), name)


async def test_the_common_name_is_no_host_name(agent, ca, tmp_path):
    key = certificates.generate_key()
    files = lay_down(tmp_path / "cn", key, ca.forge(key, cn="decnet-master", dns=[]), ca.pem)
    async with Echo(server_context(files)) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await server.hear(client_context(agent, agent.ca))


async def test_older_tls_is_refused(master, agent):
    old = client_context(agent, agent.ca)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with Echo(server_context(master)) as server:
        with pytest.raises(REFUSED):
            await server.hear(old)


async def test_enrolment_asks_for_no_certificate(master, agent):
    async with Echo(server_context(master, clients=tls.Clients.STRANGERS)) as server:
        assert await server.hear(client_context(None, master.ca)) == b"hello\n"
        assert await server.hear(client_context(agent, master.ca)) == b"hello\n"
        assert [transport.get_extra_info("peercert") for transport in server.transports] == [None, None]


async def test_who_is_asked_may_show_nothing_but_nothing_foreign(master, agent, impostor, tmp_path):
    foreign = impostor.files(tmp_path / "impostor", AGENT)
    async with Echo(server_context(master, clients=tls.Clients.ASKED)) as server:
        assert await server.hear(client_context(None, master.ca)) == b"hello\n"
        assert await server.hear(client_context(agent, master.ca)) == b"hello\n"
        assert [bool(transport.get_extra_info("peercert")) for transport in server.transports] == [False, True]
        with pytest.raises(REFUSED):
            await server.hear(client_context(foreign, master.ca))


async def test_a_stranger_can_be_asked_for_its_ca(master):
    async with Echo(server_context(master, clients=tls.Clients.STRANGERS)) as server:
        assert await server.hear(unverified_context(), "anything") == b"hello\n"
    async with Echo(server_context(master)) as server:
        with pytest.raises(REFUSED):
            await server.hear(unverified_context())


async def test_no_session_can_be_resumed(master, agent):
    """A session outlives a revocation: the second handshake would not look at the certificate again."""
    context = client_context(agent, agent.ca)
    async with Echo(server_context(master)) as server:

        def one_connection(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
            import socket

            with (
                socket.create_connection(("127.0.0.1", server.port), WAIT_SECS) as raw,
                context.wrap_socket(raw, server_hostname="decnet-master", session=session) as connection,
            ):
                assert connection.recv(10) == b"hello\n"  # a ticket would have come before it
                return connection.session, connection.session_reused

        session, _ = await asyncio.to_thread(one_connection, None)
        assert session is None or not session.has_ticket
        _, reused = await asyncio.to_thread(one_connection, session)
        assert not reused


@pytest.mark.parametrize(("offered", "chosen"), [(["decnet-log/1"], "decnet-log/1"), (["http/1.1"], None), ([], None)])
async def test_alpn_is_offered_not_demanded(master, agent, offered, chosen):
    async with Echo(server_context(master, alpn=["decnet-log/1"])) as server:
        assert await server.hear(client_context(agent, agent.ca, alpn=offered)) == b"hello\n"
        assert server.transports[0].get_extra_info("ssl_object").selected_alpn_protocol() == chosen


def test_an_encrypted_key_is_an_error_not_a_prompt(master):
    master.key.write_bytes(certificates.key_pem(certificates.generate_key(), b"secret"))
    with pytest.raises(TrustError, match="no unencrypted PEM"):
        server_context(master)


def test_a_missing_ca_says_join(agent, tmp_path):
    with pytest.raises(TrustError) as caught:
        client_context(agent, tmp_path / "none.pem")
    assert "join" in caught.value.advice


async def test_connection_memory_is_bounded_on_demand(master, agent):
    before = sslproto.SSLProtocol.max_size
    tls.bound_connection_memory()
    try:
        async with Echo(server_context(master)) as server:
            assert await server.hear(client_context(agent, agent.ca)) == b"hello\n"
            assert len(server.transports[0]._ssl_protocol._ssl_buffer) == tls.READ_BUFFER_BYTES
    finally:
        sslproto.SSLProtocol.max_size = before


async def test_the_ca_may_change_under_a_fleet(ca, tmp_path):
    """Two roots trusted on both sides: either leaf works, in both directions."""
    after = Ca.make(name="Next CA", lifetime=DAY)
    both = ca.pem + after.pem
    files = {}
    for issuer, identity in ((ca, MASTER), (after, AGENT)):
        files[identity] = issuer.files(tmp_path / str(identity), identity)
        files[identity].ca.write_bytes(both)
    async with Echo(server_context(files[MASTER])) as server:
        assert await server.hear(client_context(files[AGENT], files[AGENT].ca)) == b"hello\n"
