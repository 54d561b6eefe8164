"""Joining over real TLS: what a token gives, and all that it does not."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from structlog.testing import capture_logs

from decnet_agent import joining
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import JoinRequest, JoinToken
from decnet_core.errors import Conflict, TrustError
from decnet_core.identity import MASTER_HOST, WORKER_ROLES, Identity, Role
from decnet_core.pki.certificates import generate_key, make_csr
from decnet_core.pki.der import Usage
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.pin import pinned_ca
from decnet_core.pki.tls import client_context
from decnet_core.pki.verification import load_certificates, verify_chain
from decnet_master.enrolment.tokens import TokenMint
from decnet_master.store import HostStatus, Store
from decnet_master.swarmctl.app import App
from tests.swarm.master import LISTENER_PORT, Template, port_of

REFUSED = 403


@pytest.fixture
def ca_file(template: Template) -> Path:
    return template.folder / "data" / "ca" / "ca.crt"


@pytest.fixture
async def joiner(swarm: App, ca_file: Path):
    """A client of the enrolment endpoint that checks who answers, as a worker does."""
    async with httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port_of(swarm.enrolment_socket)}",
        verify=client_context(None, ca_file),
        trust_env=False,
    ) as client:
        client.build_request = _named(client.build_request)  # type: ignore[method-assign]
        yield client


def _named(build):
    return lambda *arguments, **options: build(
        *arguments, **{**options, "extensions": {**(options.get("extensions") or {}), "sni_hostname": MASTER_HOST}}
    )


def roots_in(ca_file: Path) -> list[x509.Certificate]:
    return load_certificates(ca_file.read_bytes())


async def token_for(controller: httpx.AsyncClient, name: str, **more: int) -> JoinToken:
    answer = await controller.post("/hosts", json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    return JoinToken.parse(answer.json()["token"])


def request_of(token: JoinToken, csrs: dict[Role, str] | None = None, **more: object) -> JoinRequest:
    if csrs is None:
        csrs = {role: make_csr(generate_key(), Identity(role, token.host)).decode() for role in WORKER_ROLES}
    values = {"token_id": token.id, "secret": token.secret, "version": "0.1.0", "csrs": csrs, **more}
    return JoinRequest.model_validate(values)


async def post(joiner: httpx.AsyncClient, request: JoinRequest) -> httpx.Response:
    return await joiner.post("/join", content=request.model_dump_json(), headers={"content-type": "application/json"})


async def test_a_worker_joins(
    swarm: App,
    controller: httpx.AsyncClient,
    store: Store,
    tmp_path: Path,
    template: Template,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = await token_for(controller, "w1")
    assert token.pin == template.pin
    assert token.address == f"127.0.0.1:{port_of(swarm.enrolment_socket)}"
    (tmp_path / "decnet.ini").write_text("[updater]\nupdater-address = 192.0.2.7:18766\n")
    monkeypatch.setenv("DECNET_CONFIG", str(tmp_path / "decnet.ini"))
    agent = AgentSettings.load(data_directory=tmp_path / "worker", agent_address="127.0.0.1:18765")

    identity = await asyncio.to_thread(joining.join, agent, token)

    assert str(identity) == "agent@w1"
    host = await store.hosts.get("w1")
    assert (host.status, host.address) == (HostStatus.ACTIVE, "127.0.0.1")
    assert (host.agent_port, host.updater_port) == (18765, 18766)
    for role in WORKER_ROLES:
        stored = KeyStore(agent.identities_directory).load(role, datetime.now(UTC))
        assert stored.identity == Identity(role, "w1")
        assert await store.hosts.is_active("w1", stored.fingerprint)
    assert joining.read_enrolment(agent.data_directory).listener_port == LISTENER_PORT


async def test_a_wrong_pin_stops_the_worker_before_it_sends_anything(
    controller: httpx.AsyncClient, store: Store, tmp_path: Path
) -> None:
    token = (await token_for(controller, "w1")).model_copy(update={"pin": "0" * 64})
    agent = AgentSettings.load(data_directory=tmp_path / "worker")
    with pytest.raises(TrustError):
        await asyncio.to_thread(joining.join, agent, token)
    assert (await store.hosts.get("w1")).status is HostStatus.ENROLLED


async def test_the_ca_is_given_to_anybody(joiner: httpx.AsyncClient, template: Template) -> None:
    answer = await joiner.get("/ca")
    assert answer.status_code == 200
    assert pinned_ca(answer.content, template.pin)


async def test_the_same_keys_get_the_same_answer(controller: httpx.AsyncClient, joiner: httpx.AsyncClient) -> None:
    token = await token_for(controller, "w1")
    keys = {role: generate_key() for role in WORKER_ROLES}
    # ECDSA signs with fresh randomness: the same key asks in other bytes.
    asked = [
        request_of(token, {role: make_csr(key, Identity(role, "w1")).decode() for role, key in keys.items()})
        for _ in range(2)
    ]
    assert asked[0].csrs != asked[1].csrs
    first, again = [await post(joiner, request) for request in asked]
    assert first.status_code == again.status_code == 200
    assert first.content == again.content


async def test_a_used_token_gives_nothing_for_other_keys(
    controller: httpx.AsyncClient, joiner: httpx.AsyncClient
) -> None:
    token = await token_for(controller, "w1")
    assert (await post(joiner, request_of(token))).status_code == 200
    refused = await post(joiner, request_of(token))
    assert refused.status_code == REFUSED
    assert "used" in refused.json()["detail"]


async def test_of_racing_workers_one_wins(controller: httpx.AsyncClient, joiner: httpx.AsyncClient) -> None:
    token = await token_for(controller, "w1")
    answers = await asyncio.gather(*(post(joiner, request_of(token)) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200] + [REFUSED] * 4


async def test_an_expired_token_gives_nothing(store: Store, joiner: httpx.AsyncClient, template: Template) -> None:
    mint = TokenMint(store, lambda: template.pin, lambda: Endpoint("127.0.0.1", 1))
    token = await mint.issue("w1", timedelta(minutes=10), datetime.now(UTC) - timedelta(minutes=11))
    refused = await post(joiner, request_of(token))
    assert refused.status_code == REFUSED
    assert "ended" in refused.json()["detail"]


@pytest.mark.parametrize("change", [{"secret": "x" * 43}, {"token_id": "0" * 16}])
async def test_an_unknown_token_gives_nothing(
    controller: httpx.AsyncClient, joiner: httpx.AsyncClient, change: dict[str, str]
) -> None:
    token = await token_for(controller, "w1")
    refused = await post(joiner, request_of(token).model_copy(update=change))
    assert refused.status_code == REFUSED
    assert "not known" in refused.json()["detail"]


async def test_a_request_for_other_names_and_rights_is_refused(
    controller: httpx.AsyncClient, joiner: httpx.AsyncClient
) -> None:
    token = await token_for(controller, "w1")
    greedy = _greedy_csr()
    with capture_logs() as logs:
        answer = await post(joiner, request_of(token, dict.fromkeys(WORKER_ROLES, greedy)))
    assert answer.status_code == REFUSED
    assert "asks for another name or for rights" in answer.json()["detail"]
    told = [line["identities"] for line in logs if line["event"] == "request.overreached"]
    assert told == [sorted(str(Identity(role, "w1")) for role in WORKER_ROLES)]
    assert (await post(joiner, request_of(token))).status_code == 200, "the token stays good for its worker"


@pytest.mark.parametrize(
    "csrs",
    [
        {Role.LOGSHIP: "not pem"},
        {Role.AGENT: "not pem"},
        {Role.AGENT: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"},
        {},
    ],
    ids=["without an agent", "not PEM", "not DER", "none"],
)
async def test_a_broken_request_is_told_and_costs_no_token(
    controller: httpx.AsyncClient, joiner: httpx.AsyncClient, csrs: dict[Role, str]
) -> None:
    token = await token_for(controller, "w1")
    refused = await post(joiner, request_of(token, csrs))
    assert refused.status_code == 400
    assert refused.headers["content-type"] == "application/problem+json"
    assert (await post(joiner, request_of(token))).status_code == 200


async def test_the_masters_identity_is_not_for_workers(
    controller: httpx.AsyncClient, joiner: httpx.AsyncClient
) -> None:
    token = await token_for(controller, "w1")
    csr = make_csr(generate_key(), Identity(Role.AGENT, "w1")).decode()
    assert (await post(joiner, request_of(token, {Role.AGENT: csr, Role.MASTER: csr}))).status_code == 400


async def test_a_refusal_quotes_no_secret(controller: httpx.AsyncClient, joiner: httpx.AsyncClient) -> None:
    token = await token_for(controller, "w1")
    answer = await joiner.post("/join", json={"token_id": token.id, "secret": token.secret, "csrs": "hunter2"})
    assert answer.status_code == 422
    assert token.secret not in answer.text
    assert "hunter2" not in answer.text


async def test_a_large_body_is_refused(joiner: httpx.AsyncClient) -> None:
    answer = await joiner.post("/join", content=b"x" * (64 * 1024 + 1))
    assert answer.status_code == 413

    async def chunks():
        for _ in range(80):
            yield b"x" * 1024

    assert (await joiner.post("/join", content=chunks())).status_code == 413


async def test_tries_are_limited(joiner: httpx.AsyncClient, controller: httpx.AsyncClient) -> None:
    token = await token_for(controller, "w1")
    wrong = request_of(token).model_copy(update={"secret": "x" * 43})
    codes = [(await post(joiner, wrong)).status_code for _ in range(12)]
    assert codes[-1] == 429
    assert set(codes) == {REFUSED, 429}


async def test_there_is_nothing_else(joiner: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/openapi.json", "/hosts", "/redoc"):
        assert (await joiner.get(path)).status_code == 404


async def test_a_client_without_tls_13_is_refused(swarm: App) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.open_connection("127.0.0.1", port_of(swarm.enrolment_socket), ssl=context)


async def test_a_taken_name_and_a_reserved_one_are_told(controller: httpx.AsyncClient) -> None:
    await token_for(controller, "w1")
    for name, word in (("w1", "enrolled already"), ("decnet-master", "reserved"), ("localhost", "reserved")):
        answer = await controller.post("/hosts", json={"name": name})
        assert answer.status_code == 409
        assert word in answer.json()["detail"]
    assert (await controller.post("/hosts", json={"name": "Not_a_label"})).status_code == 422


async def test_a_second_join_of_another_host_is_a_conflict(controller: httpx.AsyncClient, tmp_path: Path) -> None:
    agent = AgentSettings.load(data_directory=tmp_path / "worker")
    await asyncio.to_thread(joining.join, agent, await token_for(controller, "w1"))
    with pytest.raises(Conflict):
        await asyncio.to_thread(joining.join, agent, await token_for(controller, "w2"))


async def test_a_decommissioned_workers_name_is_free_again(controller: httpx.AsyncClient) -> None:
    first = await token_for(controller, "w1")
    answer = await controller.post("/hosts/w1/decommission")
    assert (answer.status_code, answer.json()) == (200, {"host": "w1", "deckies": 0})
    assert (await controller.get("/hosts")).json()["hosts"][0]["status"] == "decommissioned"
    assert (await token_for(controller, "w1")).id != first.id
    assert (await controller.post("/hosts/w9/decommission")).status_code == 404


async def test_the_endpoint_serves_the_masters_certificate(swarm: App, ca_file: Path) -> None:
    context = client_context(None, ca_file)
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port_of(swarm.enrolment_socket), ssl=context, server_hostname=MASTER_HOST
    )
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    leaf = x509.load_der_x509_certificate(der)
    assert str(verify_chain(leaf, roots_in(ca_file), datetime.now(UTC), usage=Usage.SERVER)) == "master@decnet-master"


def _greedy_csr() -> str:
    """Ask for the master's name, a CA's rights and more."""
    key = generate_key()
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "master@decnet-master")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=3), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("decnet-master"), x509.UniformResourceIdentifier("decnet:master@decnet-master")]
            ),
            critical=False,
        )
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
