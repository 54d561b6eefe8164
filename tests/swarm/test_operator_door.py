"""Who may steer from elsewhere: operators whom the master let in, while it does. `test_doors` has the strangers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import structlog
from starlette.responses import JSONResponse
from structlog.testing import capture_logs

from decnet_agent import joining
from decnet_agent.settings import AgentSettings
from decnet_core.daemon import Ready
from decnet_core.endpoints import Endpoint, listen
from decnet_core.enrolment import JoinToken
from decnet_core.errors import ConfigError, Conflict
from decnet_core.identity import MASTER_HOST, WORKER_ROLES, Identity, Role
from decnet_core.peer import Peer, bind_peer
from decnet_core.pki.certificates import generate_key, make_csr
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.pki.tls import client_context, server_context
from decnet_master.enrolment.issuer import Issuer
from decnet_master.http_server import serve
from decnet_master.rate_limit import RateLimit
from decnet_master.settings import MasterSettings
from decnet_master.store import IssuedCertificate, Store
from decnet_master.swarmctl import app as swarmctl
from decnet_master.swarmctl import operator_door
from decnet_master.swarmctl.operator_door import ON_THE_MASTER, OperatorDoor
from decnet_master.swarmctl.routes import behind_certificates, behind_secret
from tests.pki.world import DAY, Ca, now
from tests.swarm.master import Template, controller_client, port_of, running
from tests.swarm.operators import ADDRESS, let_in, operator_client

WAIT_SECS = 60.0
CUT_SECS = 5.0

pytestmark = pytest.mark.slow  # a controller over mutual TLS for each test


@pytest.fixture
def settings(template: Template, tmp_path: Path) -> MasterSettings:
    return template.copy(tmp_path).model_copy(update={"operator_address": ADDRESS})


@pytest.fixture
async def alice(controller: httpx.AsyncClient, tmp_path: Path) -> StoredIdentity:
    return await let_in(controller, tmp_path / "alice", "alice")


@pytest.fixture
async def remote(swarm: swarmctl.App, alice: StoredIdentity) -> AsyncIterator[httpx.AsyncClient]:
    """A client with alice's certificate."""
    async with operator_client(port(swarm), alice.files) as client:
        yield client


def port(swarm: swarmctl.App) -> int:
    assert swarm.operator_socket is not None
    return port_of(swarm.operator_socket)


def lines(logs: list, event: str) -> list[dict]:
    return [line for line in logs if line["event"] == event]


def csr_of(name: str = "alice") -> str:
    return make_csr(generate_key(), Identity(Role.OPERATOR, name)).decode("ascii")


async def test_what_an_operator_asks_for_is_on_record_with_its_name(remote: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        assert (await remote.get("/health")).status_code == 200
        assert (await remote.post("/hosts", json={"name": "w1"})).status_code == 201
        assert (await remote.post("/hosts", json={"name": "w1"})).status_code == 409
        assert (await remote.get("/nowhere%1b[2J")).status_code == 404
    asked = [(line["operator"], line["method"], line["path"], line["status"]) for line in lines(logs, "operator.asked")]
    assert asked == [
        ("alice", "GET", "/health", 200),
        ("alice", "POST", "/hosts", 201),
        ("alice", "POST", "/hosts", 409),
        ("alice", "GET", "/nowhere\\x1b[2J", 404),
    ]
    assert {line["address"] for line in lines(logs, "operator.asked")} == {"127.0.0.1"}


async def test_every_other_role_of_our_ca_is_refused(
    swarm: swarmctl.App,
    settings: MasterSettings,
    controller: httpx.AsyncClient,
    remote: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    worker = AgentSettings.load(data_directory=tmp_path / "w1")
    answer = await controller.post("/hosts", json={"name": "w1"})
    await asyncio.to_thread(joining.join, worker, JoinToken.parse(answer.json()["token"]))
    for home, role in [
        *((worker.identities_directory, role) for role in WORKER_ROLES),
        (settings.identities_directory, Role.MASTER),
    ]:
        stored = KeyStore(home).load(role, now())
        with capture_logs() as logs:
            async with operator_client(port(swarm), stored.files) as client:
                for path in ("/health", "/hosts", "/nowhere", "/docs", "/openapi.json"):
                    answer = await client.get(path)
                    assert (answer.status_code, answer.json()["type"]) == (403, "urn:decnet:problem:not-trusted"), role
        refused = lines(logs, "operator.refused")
        assert [line["peer"] for line in refused] == [str(stored.identity)] * 5
        assert not lines(logs, "operator.asked")
        assert (await remote.get("/health")).status_code == 200


async def test_an_operator_that_was_never_let_in_is_refused(
    swarm: swarmctl.App, settings: MasterSettings, remote: httpx.AsyncClient, tmp_path: Path
) -> None:
    """A copy of the CA's key makes perfect certificates, also for the name of one who is let in."""
    issuing = Issuer.open(settings, now()).authorities.issuing
    ca = Ca(issuing._key, issuing.certificate)
    for name in ("alice", "mallory"):
        files = ca.files(tmp_path / f"forged {name}", Identity(Role.OPERATOR, name))
        with capture_logs() as logs:
            async with operator_client(port(swarm), files) as client:
                assert (await client.get("/hosts")).status_code == 403
        assert [line["reason"] for line in lines(logs, "operator.refused")] == [f"operator@{name} is not let in here"]
    assert (await remote.get("/health")).status_code == 200


async def test_refusals_are_told_so_often_and_no_more(store: Store, settings: MasterSettings) -> None:
    issuing = Issuer.open(settings, now()).authorities.issuing
    granted = IssuedCertificate("a" * 64, "operator@alice", now() + DAY, "1", "key", issuing.fingerprint, "pem")
    await store.operators.let_in("alice", "key", now(), lambda: granted)
    door = OperatorDoor(JSONResponse({}), store.operators, refusals=RateLimit(3, every_secs=3600.0))

    async def ask(identity: Identity, fingerprint: str) -> int:
        app = bind_peer(behind_certificates(door), Peer(identity, fingerprint, "192.0.2.7"))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"https://{MASTER_HOST}") as client:
            return (await client.get("/hosts")).status_code

    with capture_logs() as logs:
        lost = [await ask(Identity(Role.AGENT, "w1"), "b" * 64) for _ in range(5)]
        revoked = [await ask(Identity(Role.OPERATOR, "alice"), "c" * 64) for _ in range(5)]
    assert lost == revoked == [403, 403, 403, 429, 429]
    assert [line["peer"] for line in lines(logs, "operator.refused")] == ["agent@w1"] * 3 + ["operator@alice"] * 3
    assert await ask(Identity(Role.OPERATOR, "alice"), "a" * 64) == 200, "who may is not counted"


async def test_revoked_means_refused_at_the_next_request(
    remote: httpx.AsyncClient, controller: httpx.AsyncClient, swarm: swarmctl.App, tmp_path: Path
) -> None:
    bob = await let_in(controller, tmp_path / "bob", "bob")
    assert (await remote.get("/hosts")).status_code == 200
    async with operator_client(port(swarm), bob.files) as his:
        with capture_logs() as logs:
            answer = await his.post("/operators/alice/revoke")
            assert (answer.status_code, answer.json()["revoked_by"]) == (200, "bob")
            for path in ("/hosts", "/operators/renew"):
                try:
                    refused = await remote.post(path, json={"csr": csr_of()})
                except httpx.TransportError:  # its connection was cut first, which is as good; the next one is answered
                    refused = await remote.post(path, json={"csr": csr_of()})
                assert refused.status_code == 403
        (revoked,) = lines(logs, "operator.revoked")
        assert (revoked["operator"], revoked["by"]) == ("alice", "bob")
        assert "operator@alice is not let in here" in {line["reason"] for line in lines(logs, "operator.refused")}
        assert (await his.get("/health")).status_code == 200
        listed = {one["name"]: one for one in (await his.get("/operators")).json()["operators"]}
    assert listed["alice"]["revoked_by"] == "bob"
    assert (listed["alice"]["certificates"], listed["bob"]["certificates"]) == (0, 1)
    assert listed["bob"]["seen_at"] is not None
    assert (await controller.post("/operators/bob/revoke")).json()["revoked_by"] == ON_THE_MASTER
    assert (await controller.post("/operators/carol/revoke")).status_code == 404


async def test_operators_are_let_in_on_the_master_alone(
    remote: httpx.AsyncClient, controller: httpx.AsyncClient
) -> None:
    answer = await remote.post("/operators", json={"name": "mallory", "csr": csr_of("mallory")})
    assert (answer.status_code, answer.json()["detail"]) == (403, "Operators are let in on the master alone")
    assert [one["name"] for one in (await controller.get("/operators")).json()["operators"]] == ["alice"]


@pytest.mark.parametrize(
    ("name", "csr", "status"),
    [
        ("master", csr_of(), 409),
        ("decnet-master", csr_of(), 409),
        ("o" * 56, csr_of(), 422),
        ("Alice", csr_of(), 422),
        (ON_THE_MASTER, csr_of(), 422),
        ("alice", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", 400),
        ("alice", "x" * 9000, 422),
    ],
)
async def test_what_is_not_signed(controller: httpx.AsyncClient, name: str, csr: str, status: int) -> None:
    answer = await controller.post("/operators", json={"name": name, "csr": csr})
    assert answer.status_code == status, answer.text
    assert (await controller.get("/operators")).json()["operators"] == []


async def test_who_has_the_secret_is_named_so_in_every_line() -> None:
    named: list[str] = []

    async def rooms(scope, receive, send) -> None:
        named.append(structlog.contextvars.get_contextvars()["operator"])
        await JSONResponse({})(scope, receive, send)

    app = behind_secret(rooms, "the secret", Endpoint("127.0.0.1", 8770))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8770") as client:
        assert (await client.get("/", headers={"authorization": "Bearer the secret"})).status_code == 200
    assert named == [ON_THE_MASTER]


async def test_the_name_is_the_signers_and_not_the_requests(controller: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        answer = await controller.post("/operators", json={"name": "bob", "csr": csr_of("alice")})
    assert [line["identity"] for line in lines(logs, "request.overreached")] == ["operator@bob"]
    assert answer.json()["name"] == "bob"
    assert [one["name"] for one in (await controller.get("/operators")).json()["operators"]] == ["bob"]


async def test_a_renewal_is_the_operators_own(remote: httpx.AsyncClient, controller: httpx.AsyncClient) -> None:
    csr = csr_of("bob")  # what it asks for is ignored
    first, again = [await remote.post("/operators/renew", json={"csr": csr}) for _ in range(2)]
    assert (first.status_code, first.json()["name"]) == (200, "alice")
    assert first.json() == again.json(), "an answer that was lost costs nothing"
    refused = await controller.post("/operators/renew", json={"csr": csr})
    assert refused.status_code == 403, "nobody in particular asks there"
    (alice,) = (await controller.get("/operators")).json()["operators"]
    assert alice["certificates"] == 2


async def test_it_answers_as_decnet_master_alone(
    swarm: swarmctl.App, alice: StoredIdentity, remote: httpx.AsyncClient
) -> None:
    """A page in a browser that holds the certificate reaches the port, and cannot choose this name."""
    for host in ("127.0.0.2", "localhost", "master.example", f"{MASTER_HOST}.example"):
        async with operator_client(port(swarm), alice.files, host=host) as client:
            answer = await client.get("/hosts")
            assert answer.status_code == 403, host
            assert "name" in answer.json()["detail"]
    assert (await remote.get("/hosts", headers={"host": f"{MASTER_HOST}:8772"})).status_code == 200


async def test_the_secret_opens_nothing_there(
    swarm: swarmctl.App, settings: MasterSettings, alice: StoredIdentity, remote: httpx.AsyncClient
) -> None:
    secret = controller_client(settings, 1).headers["authorization"]
    with pytest.raises(httpx.TransportError), capture_logs():
        async with httpx.AsyncClient(verify=client_context(None, alice.files.ca), trust_env=False) as client:
            await client.get(
                f"https://127.0.0.2:{port(swarm)}/hosts",
                headers={"authorization": secret, "host": MASTER_HOST},
                extensions={"sni_hostname": MASTER_HOST},
            )
    assert (await remote.get("/health")).status_code == 200


async def test_who_is_revoked_in_the_midst_of_an_answer_is_cut_off(
    store: Store, controller: httpx.AsyncClient, settings: MasterSettings, alice: StoredIdentity, tmp_path: Path
) -> None:
    assert operator_door.MUSTER_SECS <= CUT_SECS / 2, "every connection is looked at twice in the time that is promised"
    bob = await let_in(controller, tmp_path / "bob", "bob")
    begun: asyncio.Queue[str] = asyncio.Queue()
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def endless(scope, receive, _send) -> None:
        name = operator_door.steerer(scope)
        assert structlog.contextvars.get_contextvars()["operator"] == name, "in every line on his behalf"
        begun.put_nowait(name)
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.put_nowait(name)

    door, ready = OperatorDoor(endless, store.operators, muster_secs=0.02), Ready(1)
    tls = server_context(KeyStore(settings.identities_directory).load(Role.MASTER, now()).files)
    listening = listen(Endpoint("127.0.0.2", 0), "operator-address")
    with closing(listening), capture_logs() as logs:
        tasks = [
            asyncio.create_task(serve(behind_certificates(door), listening, ready=ready, tls=tls, guests=door)),
            asyncio.create_task(door.muster()),
        ]
        try:
            async with asyncio.timeout(WAIT_SECS):
                await ready.wait()
                async with (
                    operator_client(port_of(listening), alice.files) as hers,
                    operator_client(port_of(listening), bob.files) as his,
                ):
                    asking = asyncio.create_task(hers.get("/fleet")), asyncio.create_task(his.get("/fleet"))
                    assert {await begun.get(), await begun.get()} == {"alice", "bob"}
                    await store.operators.revoke("alice", "bob", now())
                    with pytest.raises(httpx.TransportError):
                        await asking[0]
                    assert await ended.get() == "alice"
                    assert not asking[1].done()
                    for _ in range(3):  # she is told why, and not cut off before
                        assert (await hers.get("/fleet")).status_code == 403
                    asking[1].cancel()
                    await asyncio.gather(*asking, return_exceptions=True)
                    assert await ended.get() == "bob"
                while door._connected:
                    await asyncio.sleep(0.01)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert [line["operator"] for line in lines(logs, "operator.cut")] == ["alice"]
    asked = {(line["operator"], line["path"], line["status"]) for line in lines(logs, "operator.asked")}
    assert asked == {("alice", "/fleet", 0), ("bob", "/fleet", 0)}, "also what was never answered is on record"


async def test_a_change_of_the_ca_waits_for_operators(
    remote: httpx.AsyncClient, controller: httpx.AsyncClient, swarm: swarmctl.App, tmp_path: Path
) -> None:
    bob = await let_in(controller, tmp_path / "bob", "bob")
    assert (await controller.post("/pki/rotate")).json()["operators"] == ["alice", "bob"]
    store = KeyStore(tmp_path / "alice")
    csr = make_csr(store.create_key(Role.OPERATOR), Identity(Role.OPERATOR, "alice")).decode("ascii")
    grant = (await remote.post("/operators/renew", json={"csr": csr})).json()
    renewed = store.store(Role.OPERATOR, grant["certificate"].encode(), grant["ca_pem"].encode(), now())
    async with operator_client(port(swarm), renewed.files) as client:
        assert (await client.get("/pki")).json()["operators"] == ["bob"], "alice was seen with her new one"
        refused = await client.post("/pki/retire", json={"force": False})
        assert (refused.status_code, refused.json()["detail"]) == (409, "Operators still depend on the old CA: bob")
        assert (await client.post("/operators/bob/revoke")).status_code == 200
        assert (await client.post("/pki/retire", json={"force": False})).status_code == 200
    async with operator_client(port(swarm), renewed.files) as client:
        assert (await client.get("/health")).status_code == 200
    with capture_logs() as logs, pytest.raises(httpx.TransportError):
        async with operator_client(port(swarm), bob.files) as client:  # trusts the old CA alone
            await client.get("/health")
    assert not lines(logs, "operator.asked")


def test_it_does_not_take_in_the_controllers_own_port(settings: MasterSettings) -> None:
    with pytest.raises(ConfigError, match="takes in the controller's own port") as told:
        swarmctl.build(
            settings.model_copy(update={"controller_address": "127.0.0.1:18770", "operator_address": "0.0.0.0:18770"})
        )
    assert "0.0.0.0:8772" in told.value.advice


async def test_an_address_that_is_taken_or_none_is_told_at_once(settings: MasterSettings, swarm: swarmctl.App) -> None:
    with pytest.raises(Conflict, match="Another process listens"):
        swarmctl.build(settings.model_copy(update={"operator_address": f"127.0.0.2:{port(swarm)}"}))
    with pytest.raises(ConfigError, match="is not an address"):
        swarmctl.build(settings.model_copy(update={"operator_address": "master"}))


async def test_without_a_ca_nobody_is_served(settings: MasterSettings) -> None:
    (settings.ca_directory / "ca.crt").unlink()
    (settings.ca_directory / "ca.key").unlink()
    with pytest.raises(ConfigError, match="no certificate authority") as told:
        async with running(swarmctl.build(settings)):
            pass
    assert "decnet-master init" in told.value.advice


async def test_without_the_setting_nobody_elsewhere_is_served(template: Template, tmp_path: Path) -> None:
    app = swarmctl.build(template.copy(tmp_path / "other"))
    async with running(app):
        assert app.operator_socket is None
