"""Certificates without hands: renewed over real mutual TLS, the CA changed under a fleet that goes on working."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from decnet_agent import joining, master_client
from decnet_agent.renewal import Renewal, renew
from decnet_agent.renewing import renew_in_a_process
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import JoinToken, RenewRequest
from decnet_core.errors import IdentityEnded, RemoteProtocolError, RetryLater, TrustError, Unavailable
from decnet_core.identity import MASTER, WORKER_ROLES, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.certificates import generate_key, make_csr
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.pki.tls import client_context
from decnet_core.pki.verification import load_certificates
from decnet_master.enrolment.routes import RENEWALS
from decnet_master.settings import MasterSettings
from decnet_master.store import Store
from decnet_master.swarmctl import app as swarmctl
from tests.pki.world import Ca
from tests.swarm.agents import JoinedAgent, joined
from tests.swarm.master import controller_client, port_of, running

pytestmark = pytest.mark.slow  # a controller and workers over mutual TLS for each test


def now() -> datetime:
    return datetime.now(UTC)


async def token_for(controller: httpx.AsyncClient, name: str) -> JoinToken:
    answer = await controller.post("/hosts", json={"name": name})
    assert answer.status_code == 201, answer.text
    return JoinToken.parse(answer.json()["token"])


@pytest.fixture
async def worker(controller: httpx.AsyncClient, tmp_path: Path) -> AgentSettings:
    """A worker that has joined, `w1`."""
    settings = AgentSettings.load(data_directory=tmp_path / "w1")
    await asyncio.to_thread(joining.join, settings, await token_for(controller, "w1"))
    return settings


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def stored(settings: AgentSettings, role: Role = Role.AGENT) -> StoredIdentity:
    return KeyStore(settings.identities_directory).load(role, now())


async def renewed(settings: AgentSettings, *, forced: bool = True) -> Renewal:
    return await asyncio.to_thread(renew, settings, forced=forced)


def request(roles=WORKER_ROLES, host: str = "w1") -> RenewRequest:
    csrs = {role: make_csr(generate_key(), Identity(role, host)).decode() for role in roles}
    return RenewRequest(version="0.1.0", csrs=csrs)


async def ask(swarm: swarmctl.App, tls: ssl.SSLContext, wanted: RenewRequest):
    endpoint = Endpoint("127.0.0.1", port_of(swarm.enrolment_socket))
    return (await asyncio.to_thread(master_client.ask_to_renew, endpoint, tls, wanted))[0]


def context_of(identity: StoredIdentity) -> ssl.SSLContext:
    return client_context(identity.files, identity.files.ca)


async def test_all_identities_are_renewed_with_new_keys(worker: AgentSettings, store: Store) -> None:
    before = {role: stored(worker, role) for role in WORKER_ROLES}
    keys = {before[role].files.key.read_bytes() for role in WORKER_ROLES}
    done = await renewed(worker)
    assert done.renewed
    for role in WORKER_ROLES:
        after = stored(worker, role)
        assert after.identity == Identity(role, "w1")
        assert after.files.key.read_bytes() not in keys
        assert after.files.key.stat().st_mode & 0o777 == 0o600
        assert after.not_after - now() > timedelta(days=6, hours=23)
        assert await store.hosts.is_active("w1", after.fingerprint)
    (standing,) = await store.certificates.standings()
    assert standing.used_not_after == done.agent.not_after, "the new one was shown to the master"
    assert done.agent == stored(worker)


async def test_what_is_not_due_asks_nobody(worker: AgentSettings) -> None:
    joining.remember(
        worker.data_directory,
        joining.read_enrolment(worker.data_directory).model_copy(update={"enrolment_port": 1}),
    )
    before = stored(worker)
    assert await renewed(worker, forced=False) == Renewal(before, renewed=False)
    with pytest.raises(Unavailable):
        await renewed(worker)
    assert stored(worker) == before


async def test_a_sibling_that_is_damaged_is_mended(worker: AgentSettings) -> None:
    (worker.identities_directory / "logship").unlink()
    assert (await renewed(worker, forced=False)).renewed
    assert stored(worker, Role.LOGSHIP).identity == Identity(Role.LOGSHIP, "w1")


@pytest.mark.slow
async def test_the_agents_process_renews(
    worker: AgentSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ini = tmp_path / "decnet.ini"
    ini.write_text(f"[decnet]\ndata-directory = {worker.data_directory}\n")
    monkeypatch.setenv("DECNET_CONFIG", str(ini))
    before = stored(worker)
    assert await renew_in_a_process() is None
    assert stored(worker) == before, "nothing was due"
    (worker.identities_directory / "logship").unlink()
    assert await renew_in_a_process() is None
    assert stored(worker) != before
    assert stored(worker, Role.LOGSHIP).not_after > now()


async def test_the_same_requests_get_the_same_certificates(worker: AgentSettings, swarm: swarmctl.App) -> None:
    keys = {role: generate_key() for role in WORKER_ROLES}
    wanted = [  # signed anew each time: other bytes, the same keys
        RenewRequest(
            version="0.1.0", csrs={role: make_csr(key, Identity(role, "w1")).decode() for role, key in keys.items()}
        )
        for _ in range(3)
    ]
    first, *again = [await ask(swarm, context_of(stored(worker)), each) for each in wanted]
    assert wanted[0].csrs != wanted[1].csrs
    assert again == [first, first]


async def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_keys(
    worker: AgentSettings, swarm: swarmctl.App
) -> None:
    """What a kill between asking and storing leaves: keys that wait, and certificates that nobody has."""
    store = KeyStore(worker.identities_directory)
    waiting = {role: store.create_key(role) for role in WORKER_ROLES}
    lost = await ask(
        swarm,
        context_of(stored(worker)),
        RenewRequest(
            version="0.1.0", csrs={role: make_csr(key, Identity(role, "w1")).decode() for role, key in waiting.items()}
        ),
    )
    await renewed(worker)
    for role in WORKER_ROLES:
        assert stored(worker, role).files.certificate.read_text() == lost.certificates[role]


@pytest.mark.parametrize("role", [Role.LOGSHIP, Role.UPDATER])
async def test_only_the_agent_renews(worker: AgentSettings, swarm: swarmctl.App, role: Role) -> None:
    with pytest.raises(TrustError, match="may not renew"):
        await ask(swarm, context_of(stored(worker, role)), request([role]))


async def test_a_request_that_names_another_host_is_refused(worker: AgentSettings, swarm: swarmctl.App) -> None:
    with capture_logs() as logs:
        with pytest.raises(TrustError, match="asks for another name or for rights"):
            await ask(swarm, context_of(stored(worker)), request(host="w2"))
        reply = await ask(swarm, context_of(stored(worker)), request())
    told = [line["identities"] for line in logs if line["event"] == "request.overreached"]
    assert told == [sorted(str(Identity(role, "w1")) for role in WORKER_ROLES)]
    leaf = load_certificates(reply.certificates[Role.AGENT].encode())[0]
    assert leaf.subject.rfc4514_string() == "CN=agent@w1"


async def test_the_masters_identity_is_not_renewed_for_a_worker(worker: AgentSettings, swarm: swarmctl.App) -> None:
    csr = make_csr(generate_key(), MASTER).decode()
    with pytest.raises(RemoteProtocolError):
        await ask(swarm, context_of(stored(worker)), RenewRequest(version="0.1.0", csrs={Role.MASTER: csr}))


async def test_strangers_do_not_renew(worker: AgentSettings, swarm: swarmctl.App, tmp_path: Path) -> None:
    ca = stored(worker).files.ca
    with pytest.raises(TrustError, match="presented no certificate"):
        await ask(swarm, client_context(None, ca), request())
    foreign = Ca.make(name="DECNET CA").files(tmp_path / "foreign", Identity(Role.AGENT, "w1"))
    with pytest.raises(Unavailable):
        await ask(swarm, client_context(foreign, ca), request())
    await renewed(worker)  # it goes on answering


async def test_a_certificate_that_has_ended_renews_nothing(
    worker: AgentSettings, swarm: swarmctl.App, settings: MasterSettings
) -> None:
    """Neither the worker tries, nor would the master take it."""
    from decnet_master.enrolment.issuer import Issuer

    keys = KeyStore(worker.identities_directory)
    then = now() - timedelta(days=8)
    key = keys.create_key(Role.AGENT)
    authority = Issuer.open(settings, now()).authorities.issuing
    backdated = Ca(authority._key, authority.certificate)
    # A week that is over, from a CA that was there before it.
    key_pem = certificates.certificate_pem(
        backdated.forge(key, cn="agent@w1", uris=["decnet:agent@w1"], dns=["w1"], at=then)
    )
    ended = keys.store(Role.AGENT, key_pem, authority.certificate_pem, then)
    with pytest.raises(IdentityEnded) as told:
        await renewed(worker)
    for words in ("swarm decommission w1", "swarm enroll w1", "decnet-agent join"):
        assert words in told.value.advice
    with pytest.raises(Unavailable):
        await ask(swarm, context_of(ended), request())


async def test_a_decommissioned_worker_is_refused_at_its_next_request(
    worker: AgentSettings, controller: httpx.AsyncClient, swarm: swarmctl.App
) -> None:
    before = stored(worker)
    await controller.post("/hosts/w1/decommission")
    with pytest.raises(TrustError, match="refuses to let this host renew"):
        await renewed(worker)
    assert stored(worker) == before
    with pytest.raises(TrustError, match="not current"):
        await asyncio.to_thread(
            master_client.confirm, Endpoint("127.0.0.1", port_of(swarm.enrolment_socket)), context_of(before)
        )


async def test_a_worker_that_asks_without_end_is_slowed_down(worker: AgentSettings, swarm: swarmctl.App) -> None:
    tls = context_of(stored(worker))
    for _ in range(RENEWALS):
        await ask(swarm, tls, request([Role.LOGSHIP]))
    with pytest.raises(RetryLater):
        await ask(swarm, tls, request([Role.LOGSHIP]))


async def test_who_holds_an_older_certificate_uses_up_no_renewals_of_the_present_one(
    worker: AgentSettings, swarm: swarmctl.App
) -> None:
    before = context_of(stored(worker))
    await renewed(worker)
    for _ in range(RENEWALS - 1):  # the first was the renewal
        await ask(swarm, before, request([Role.LOGSHIP]))
    with pytest.raises(RetryLater):
        await ask(swarm, before, request([Role.LOGSHIP]))
    await ask(swarm, context_of(stored(worker)), request([Role.LOGSHIP]))


async def test_the_master_repairs_a_certificate_that_has_ended(settings: MasterSettings) -> None:
    from decnet_master import installation

    keys = KeyStore(settings.identities_directory)
    authorities = installation.open_authorities(settings, now())
    then = now() - timedelta(days=8)
    key = keys.create_key(Role.MASTER)
    leaf = Ca(authorities.anchor._key, authorities.anchor.certificate).forge(
        key, cn=str(MASTER), uris=[f"decnet:{MASTER}"], dns=[MASTER.host], at=then
    )
    keys.store(Role.MASTER, certificates.certificate_pem(leaf), authorities.trusted_pem, then)
    with pytest.raises(IdentityEnded):
        keys.load(Role.MASTER, now())
    async with running(swarmctl.build(settings)):
        assert keys.load(Role.MASTER, now()).identity == MASTER


class Fleet:
    """Workers under one controller, their agents serving without a restart."""

    def __init__(self, controller: httpx.AsyncClient, folder: Path, stack: AsyncExitStack) -> None:
        self.controller, self._folder, self._stack = controller, folder, stack
        self.agents: dict[str, JoinedAgent] = {}

    async def join(self, name: str) -> None:
        token = await token_for(self.controller, name)
        self.agents[name] = await self._stack.enter_async_context(joined(token, self._folder))

    async def renew(self, name: str) -> None:
        agent = self.agents[name]
        await renewed(agent.settings)
        agent.identity.refresh(now())  # as its watch does

    async def answers(self) -> dict[str, bool]:
        reply = (await self.controller.post("/hosts/check")).json()
        return {row["host"]: row["ok"] for row in reply["results"]}

    async def pki(self, verb: str = "", **body: object) -> dict:
        answer = await (self.controller.post(f"/pki/{verb}", json=body) if verb else self.controller.get("/pki"))
        return {"status": answer.status_code, **answer.json()}

    async def moved(self) -> dict[str, bool]:
        return {row["host"]: row["moved"] for row in (await self.pki())["workers"]}


@pytest.fixture
async def fleet(controller: httpx.AsyncClient, tmp_path: Path, stack: AsyncExitStack) -> Fleet:
    fleet = Fleet(controller, tmp_path, stack)
    for name in ("w1", "w2"):
        await fleet.join(name)
    return fleet


async def test_the_ca_changes_under_a_working_fleet(fleet: Fleet, settings: MasterSettings) -> None:
    assert [row["role"] for row in (await fleet.pki())["authorities"]] == ["only"]
    begun = await fleet.pki("rotate")
    assert (begun["status"], begun["changing"]) == (200, True)
    old, new = (row["fingerprint"] for row in begun["authorities"])
    assert (await fleet.pki("rotate"))["status"] == 409
    assert await fleet.answers() == {"w1": True, "w2": True}
    assert await fleet.moved() == {"w1": False, "w2": False}

    await fleet.renew("w1")
    await fleet.join("w3")  # its token names the old CA, and it trusts both
    assert joining.read_enrolment(fleet.agents["w3"].settings.data_directory).host == "w3"
    assert await fleet.answers() == {"w1": True, "w2": True, "w3": True}
    assert await fleet.moved() == {"w1": True, "w2": False, "w3": True}
    refused = await fleet.pki("retire")
    assert refused["status"] == 409
    assert "1 of 3 workers still depend on the old CA: w2" in refused["detail"]
    assert "decnet-agent renew --now" in refused["advice"]

    await fleet.renew("w2")
    done = await fleet.pki("retire")
    assert (done["status"], done["changing"]) == (200, False)
    assert [row["fingerprint"] for row in done["authorities"]] == [new]
    assert await fleet.answers() == {"w1": True, "w2": True, "w3": True}
    assert [path.name for path in settings.ca_directory.glob("retired-*")] == [f"retired-{old[:16]}.crt"]
    await fleet.renew("w3")
    ca_pem = stored(fleet.agents["w3"].settings).files.ca.read_bytes()
    assert [certificates.fingerprint(root) for root in load_certificates(ca_pem)] == [new]
    assert (await token_for(fleet.controller, "w4")).pin == new


@pytest.mark.slow
async def test_a_change_survives_a_restart_of_the_controller(settings: MasterSettings) -> None:
    pins = []
    for verb in ("rotate", None, "retire", None):
        app = swarmctl.build(settings)
        async with running(app), controller_client(settings, port_of(app.controller_socket)) as controller:
            if verb:
                assert (await controller.post(f"/pki/{verb}", json={})).status_code == 200
            pins.append([row["fingerprint"] for row in (await controller.get("/pki")).json()["authorities"]])
    assert pins[0] == pins[1]
    assert pins[2] == pins[3] == pins[0][1:]


@pytest.mark.slow
async def test_forcing_cuts_off_who_did_not_renew_and_is_said_to(fleet: Fleet) -> None:
    await fleet.pki("rotate")
    await fleet.renew("w1")
    assert (await fleet.pki("retire", force=True))["status"] == 200
    assert await fleet.answers() == {"w1": True, "w2": False}
    with pytest.raises(TrustError, match="is not the master"):
        await fleet.renew("w2")


@pytest.mark.slow
async def test_an_open_token_of_the_old_ca_keeps_it(fleet: Fleet) -> None:
    token = await token_for(fleet.controller, "w9")
    await fleet.pki("rotate")
    for name in ("w1", "w2"):
        await fleet.renew(name)
    refused = await fleet.pki("retire")
    assert refused["status"] == 409
    assert "1 join tokens name the old CA" in refused["detail"]
    assert (await fleet.controller.post(f"/tokens/{token.id}/revoke")).status_code == 200
    assert (await fleet.pki("retire"))["status"] == 200


async def test_without_a_change_there_is_nothing_to_retire(fleet: Fleet) -> None:
    for force in (False, True):
        answer = await fleet.pki("retire", force=force)
        assert answer["status"] == 409
        assert "no old CA" in answer["detail"]
