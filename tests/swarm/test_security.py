"""What strangers and lost workers try where workers join and renew: refused, logged, and it goes on answering."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from decnet_agent import joining, master_client
from decnet_agent.renewal import renew
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import JoinToken
from decnet_core.errors import DecnetError, TrustError
from decnet_core.identity import MASTER_HOST, WORKER_ROLES, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import client_context
from decnet_master.enrolment.issuer import Issuer
from decnet_master.settings import MasterSettings
from decnet_master.swarmctl.app import App
from tests.pki.world import CLIENT, Ca, lay_down, now
from tests.swarm.flood import Flood
from tests.swarm.master import port_of

HALF_OPEN = 10_000


@pytest.fixture
async def worker(controller: httpx.AsyncClient, tmp_path: Path) -> AgentSettings:
    settings = AgentSettings.load(data_directory=tmp_path / "w1")
    await join(controller, settings, "w1")
    return settings


async def join(controller: httpx.AsyncClient, settings: AgentSettings, name: str) -> JoinToken:
    answer = await controller.post("/hosts", json={"name": name})
    token = JoinToken.parse(answer.json()["token"])
    await asyncio.to_thread(joining.join, settings, token)
    return token


def context_of(settings: AgentSettings, role: Role = Role.AGENT) -> ssl.SSLContext:
    files = KeyStore(settings.identities_directory).load(role, now()).files
    return client_context(files, files.ca)


async def ask(swarm: App, tls: ssl.SSLContext, path: str) -> int:
    async with httpx.AsyncClient(verify=tls, trust_env=False) as client:
        url = f"https://127.0.0.1:{port_of(swarm.enrolment_socket)}{path}"
        return (await client.get(url, extensions={"sni_hostname": MASTER_HOST})).status_code


async def seen(swarm: App, tls: ssl.SSLContext) -> int:
    async with httpx.AsyncClient(verify=tls, trust_env=False) as client:
        url = f"https://127.0.0.1:{port_of(swarm.enrolment_socket)}/seen"
        return (await client.post(url, extensions={"sni_hostname": MASTER_HOST})).status_code


def lines(logs: list, event: str) -> list[str]:
    return [line.get("reason", "") for line in logs if line["event"] == event]


async def test_refusals_are_logged_with_their_reason(
    swarm: App, controller: httpx.AsyncClient, worker: AgentSettings, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        token = await join(controller, AgentSettings.load(data_directory=tmp_path / "w2"), "w2")
        with pytest.raises(TrustError):  # a stolen token, used again
            await asyncio.to_thread(joining.join, AgentSettings.load(data_directory=tmp_path / "thief"), token)
        assert lines(logs, "join.refused") == ["This join token was used already"]
        await controller.post("/hosts/w1/decommission")
        with pytest.raises(TrustError):
            await asyncio.to_thread(renew, worker, forced=True)
        assert lines(logs, "renewal.refused") == ["agent@w1 may not renew: its host is not active here"]
    assert token.secret not in str(logs)
    assert await ask(swarm, context_of(worker), "/ca") == 200


async def test_every_token_that_is_not_good_is_told_of(
    swarm: App, controller: httpx.AsyncClient, worker: AgentSettings, tmp_path: Path
) -> None:
    """Another master's under this one's pin; one that was revoked; one of a worker that was given up."""

    async def issued(name: str) -> JoinToken:
        return JoinToken.parse((await controller.post("/hosts", json={"name": name})).json()["token"])

    revoked, given_up, good = await issued("w2"), await issued("w3"), await issued("w4")
    assert (await controller.post(f"/tokens/{revoked.id}/revoke")).is_success
    assert (await controller.post("/hosts/w3/decommission")).is_success
    cases = (
        ("This join token is not known", good.model_copy(update={"id": "0" * 16})),
        ("This join token is not known", good.model_copy(update={"secret": "x" * 43})),
        ("This join token was revoked", revoked),
        ("This join token has ended", given_up),
    )
    for number, (reason, token) in enumerate(cases):
        thief = AgentSettings.load(data_directory=tmp_path / f"thief{number}")
        with capture_logs() as logs, pytest.raises(TrustError):
            await asyncio.to_thread(joining.join, thief, token)
        assert lines(logs, "join.refused") == [reason]
        assert token.secret not in str(logs)
        assert await ask(swarm, context_of(worker), "/renewed") == 204
    await asyncio.to_thread(joining.join, AgentSettings.load(data_directory=tmp_path / "w4"), good)


async def test_a_certificate_that_is_not_current_is_told_of(
    swarm: App, controller: httpx.AsyncClient, worker: AgentSettings, tmp_path: Path
) -> None:
    gone = AgentSettings.load(data_directory=tmp_path / "w2")
    await join(controller, gone, "w2")
    await controller.post("/hosts/w2/decommission")
    with capture_logs() as logs:
        assert await ask(swarm, context_of(gone), "/renewed") == 403
        assert await seen(swarm, context_of(gone)) == 403
    assert lines(logs, "peer.refused") == [
        "The certificate of agent@w2 is not current here",
        "agent@w2 is no agent of this master now",
    ]
    assert await ask(swarm, context_of(worker), "/renewed") == 204


@pytest.mark.parametrize("role", WORKER_ROLES)
async def test_a_workers_certificate_opens_nothing_of_the_controllers(
    swarm: App, worker: AgentSettings, role: Role
) -> None:
    for path in ("/hosts", "/tokens", "/pki", "/fleet/deckies", "/health"):
        assert await ask(swarm, context_of(worker, role), path) == 404
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port_of(swarm.controller_socket)}/hosts")
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "forged",
    [
        {"usage": []},
        {"uris": []},
        {"uris": ["decnet:agent@w1", "decnet:agent@w2"]},
        {"cn": "agent@w2"},
        {"uris": ["decnet:root@w1"], "cn": "root@w1"},
    ],
    ids=["no usage", "no identity", "two identities", "another name in the subject", "no such role"],
)
async def test_being_signed_by_the_ca_is_not_enough(
    swarm: App, settings: MasterSettings, worker: AgentSettings, tmp_path: Path, forged: dict
) -> None:
    """Certificates that the CA would never issue, with its key: the TLS library takes each of them."""
    issuing = Issuer.open(settings, now()).authorities.issuing
    ca = Ca(issuing._key, issuing.certificate)
    key = certificates.generate_key()
    values = {"cn": "agent@w1", "uris": ["decnet:agent@w1"], "dns": ["w1"], "usage": [CLIENT]} | forged
    files = lay_down(tmp_path / "forged", key, ca.forge(key, **values), ca.pem)
    with capture_logs() as logs, pytest.raises(httpx.TransportError):
        await ask(swarm, client_context(files, files.ca), "/renewed")
    assert len(lines(logs, "peer.refused")) == 1
    assert await ask(swarm, context_of(worker), "/renewed") == 204


async def test_a_certificate_that_was_never_recorded_is_not_current(
    swarm: App, settings: MasterSettings, worker: AgentSettings, tmp_path: Path
) -> None:
    """A copy of the CA's key makes perfect certificates; the books do not know them."""
    issuing = Issuer.open(settings, now()).authorities.issuing
    files = Ca(issuing._key, issuing.certificate).files(tmp_path / "copy", Identity(Role.AGENT, "w1"))
    assert await ask(swarm, client_context(files, files.ca), "/renewed") == 403
    assert await ask(swarm, context_of(worker), "/renewed") == 204


@pytest.mark.slow
async def test_ten_thousand_half_open_handshakes(
    swarm: App, controller: httpx.AsyncClient, worker: AgentSettings, tmp_path: Path
) -> None:
    """Each begins a handshake and goes no further; a worker joins and another renews in the midst of it."""
    with capture_logs() as logs:
        async with Flood(port_of(swarm.enrolment_socket), MASTER_HOST) as flood:
            await flood.pour(HALF_OPEN // 2)
            await _insist(asyncio.to_thread, renew, worker, forced=True)
            await flood.pour(HALF_OPEN // 2)
            await join(controller, AgentSettings.load(data_directory=tmp_path / "w2"), "w2")
            assert await ask(swarm, context_of(worker), "/renewed") == 204
    assert "handshakes.cut" in [line["event"] for line in logs]


async def _insist(call, *arguments, **named) -> None:
    """Try again as the agent does: a flood may cut an honest handshake too."""
    for attempt in range(5):
        try:
            await call(*arguments, **named)
        except DecnetError:
            if attempt == 4:
                raise
        else:
            return


async def test_confirming_is_for_the_holder_of_what_is_shown(
    swarm: App, worker: AgentSettings, controller: httpx.AsyncClient, tmp_path: Path
) -> None:
    endpoint = Endpoint("127.0.0.1", port_of(swarm.enrolment_socket))
    await asyncio.to_thread(master_client.confirm, endpoint, context_of(worker))
    ca = KeyStore(worker.identities_directory).load(Role.AGENT, now()).files.ca
    assert await ask(swarm, client_context(None, ca), "/renewed") == 403
    other = AgentSettings.load(data_directory=tmp_path / "w2")
    await join(controller, other, "w2")
    await controller.post("/hosts/w2/decommission")
    assert await ask(swarm, context_of(other), "/renewed") == 403
    assert await ask(swarm, context_of(worker), "/renewed") == 204
