from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from decnet_core.errors import Conflict, TrustError
from decnet_core.identity import Identity, Role
from decnet_master.store import IssuedCertificate, Redemption, Store
from decnet_master.store.certificates import KEPT_AFTER_END
from tests.store.samples import LATER, NOW, enrol

AGENT, LOGSHIP = Identity(Role.AGENT, "w1"), Identity(Role.LOGSHIP, "w1")
WEEK = timedelta(days=7)
OLD_CA, NEW_CA = "0" * 64, "1" * 64


def certificate(number: int, identity: Identity = AGENT, *, issuer: str = OLD_CA, ends=NOW + WEEK) -> IssuedCertificate:
    return IssuedCertificate(
        f"{number:064x}", str(identity), ends, f"{number:x}", f"key{number}", issuer, f"pem{number}"
    )


async def join(store: Store, name: str = "w1", number: int = 1, **more) -> None:
    await enrol(store, name, f"{number:016x}")
    given = (certificate(number, Identity(Role.AGENT, name), **more),)
    answer = Redemption("{}", "192.0.2.1", 8765, 8766, "0.1.0", given)
    await store.hosts.redeem(f"{number:016x}", "hash", "csr", NOW, lambda _: answer)


class Issuer:
    """Issues numbered certificates, and keeps what it was asked for."""

    def __init__(self, first: int = 2, issuer: str = OLD_CA, ends=NOW + WEEK) -> None:
        self.number, self.issuer, self.ends = first, issuer, ends
        self.asked: list[tuple[set[str], str | None]] = []

    def __call__(self, identities: frozenset[str], address: str | None) -> tuple[IssuedCertificate, ...]:
        self.asked.append((set(identities), address))
        given = []
        for identity in sorted(identities):
            made = certificate(self.number, Identity.parse(identity), issuer=self.issuer, ends=self.ends)
            given.append(
                IssuedCertificate(made.fingerprint, identity, self.ends, "", self.keys[identity], self.issuer, made.pem)
            )
            self.number += 1
        return tuple(given)

    async def renew(self, store: Store, keys: dict[Identity, str], *, holder=AGENT, shown=1, now=NOW, **more):
        self.keys = {str(identity): digest for identity, digest in keys.items()}
        return await store.certificates.renew(holder, f"{shown:064x}", self.keys, now, self, **more)


async def test_new_keys_get_certificates_and_the_same_keys_the_same_ones(store: Store) -> None:
    await join(store)
    issuer = Issuer()
    first = await issuer.renew(store, {AGENT: "a", LOGSHIP: "l"})
    assert first.issued == 2
    assert issuer.asked == [({str(AGENT), str(LOGSHIP)}, "192.0.2.1")]
    assert first.pems == {str(AGENT): "pem2", str(LOGSHIP): "pem3"}
    again = await issuer.renew(store, {AGENT: "a", LOGSHIP: "other"})
    assert again.pems == {str(AGENT): "pem2", str(LOGSHIP): "pem4"}
    assert again.issued == 1
    assert await store.certificates.is_current(AGENT, f"{2:064x}", NOW)


async def test_a_key_whose_certificate_has_ended_gets_another(store: Store) -> None:
    await join(store)
    issuer = Issuer(ends=NOW + timedelta(hours=1))
    await issuer.renew(store, {AGENT: "a"})
    later = await issuer.renew(store, {AGENT: "a"}, now=NOW + timedelta(hours=2))
    assert (later.pems, later.issued) == ({str(AGENT): "pem3"}, 1)


async def test_two_requests_of_one_key_at_one_moment_get_one_certificate(store: Store) -> None:
    await join(store)
    issuer = Issuer()
    answers = await asyncio.gather(*(issuer.renew(store, {AGENT: "a"}) for _ in range(4)))
    assert {answer.pems[str(AGENT)] for answer in answers} == {"pem2"}
    assert sum(answer.issued for answer in answers) == 1


@pytest.mark.parametrize(
    ("holder", "shown"),
    [(LOGSHIP, 1), (Identity(Role.UPDATER, "w1"), 1), (AGENT, 99), (Identity(Role.AGENT, "w2"), 1), (AGENT, 7)],
    ids=["logship", "updater", "unknown certificate", "another host", "another host's certificate"],
)
async def test_only_the_agent_with_a_current_certificate_renews(store: Store, holder: Identity, shown: int) -> None:
    await join(store)
    await join(store, "w3", 7)
    issuer = Issuer()
    with pytest.raises(TrustError, match="may not renew") as refused:
        await issuer.renew(store, {AGENT: "a"}, holder=holder, shown=shown)
    assert "decnet-agent join" in refused.value.advice
    assert issuer.asked == []


async def test_a_decommissioned_worker_does_not_renew_not_even_when_its_name_is_back(store: Store) -> None:
    await join(store)
    await store.hosts.decommission("w1", NOW)
    with pytest.raises(TrustError):
        await Issuer().renew(store, {AGENT: "a"})
    assert not await store.certificates.is_current(AGENT, f"{1:064x}", NOW)
    await join(store, number=5)
    with pytest.raises(TrustError):
        await Issuer().renew(store, {AGENT: "a"})
    assert not await store.certificates.is_current(AGENT, f"{1:064x}", NOW)
    assert (await Issuer(10).renew(store, {AGENT: "a"}, shown=5)).issued == 1


async def test_what_issuing_raises_undoes_everything(store: Store) -> None:
    await join(store)

    def broken(_identities, _address):
        raise TrustError("the CA has ended")

    with pytest.raises(TrustError, match="ended"):
        await store.certificates.renew(AGENT, f"{1:064x}", {str(AGENT): "a"}, NOW, broken)
    assert (await store.certificates.standings())[0].used_issuer is None


async def test_a_serial_used_twice_is_a_conflict(store: Store) -> None:
    await join(store)
    with pytest.raises(Conflict):
        await Issuer(first=1).renew(store, {AGENT: "a"})


async def test_a_certificate_is_current_for_its_own_identity_alone(store: Store) -> None:
    await join(store)
    assert await store.certificates.is_current(AGENT, f"{1:064x}", NOW)
    for identity in (LOGSHIP, Identity(Role.AGENT, "w2"), Identity(Role.UPDATER, "w1")):
        assert not await store.certificates.is_current(identity, f"{1:064x}", NOW)


async def test_a_change_of_cas_is_over_when_the_new_one_was_seen(store: Store) -> None:
    await join(store)
    await join(store, "w2", 5)

    async def standings():
        return [(s.host, s.issuer, s.used_issuer) for s in await store.certificates.standings()]

    assert await standings() == [("w1", OLD_CA, None), ("w2", OLD_CA, None)]
    await store.certificates.is_current(AGENT, f"{1:064x}", NOW)
    issuer = Issuer(issuer=NEW_CA)
    await issuer.renew(store, {AGENT: "a", LOGSHIP: "l"}, now=LATER)
    assert await standings() == [("w1", NEW_CA, OLD_CA), ("w2", OLD_CA, None)]
    await store.certificates.is_current(AGENT, f"{2:064x}", LATER)
    assert await standings() == [("w1", NEW_CA, NEW_CA), ("w2", OLD_CA, None)]
    await store.hosts.decommission("w2", LATER)
    assert [standing.host for standing in await store.certificates.standings()] == ["w1"]


async def test_an_address_is_learnt_where_none_is_known(store: Store) -> None:
    await enrol(store, "w1")
    answer = Redemption("{}", None, 8765, 8766, "0.1.0", (certificate(1),))
    await store.hosts.redeem("a" * 16, "hash", "csr", NOW, lambda _: answer)
    issuer = Issuer()
    await issuer.renew(store, {AGENT: "a"}, address="192.0.2.9")
    await issuer.renew(store, {AGENT: "b"}, address="192.0.2.10")
    assert [address for _, address in issuer.asked] == ["192.0.2.9", "192.0.2.9"]
    assert (await store.hosts.get("w1")).address == "192.0.2.9"


async def test_what_has_long_ended_is_forgotten(store: Store) -> None:
    await join(store, ends=NOW + timedelta(hours=1))
    issuer = Issuer(ends=NOW + KEPT_AFTER_END + WEEK)
    await issuer.renew(store, {AGENT: "a"})
    assert await store.certificates.is_current(AGENT, f"{1:064x}", NOW)
    await issuer.renew(store, {AGENT: "b"}, shown=2, now=NOW + KEPT_AFTER_END + timedelta(hours=2))
    assert not await store.certificates.is_current(AGENT, f"{1:064x}", NOW)
    assert await store.certificates.is_current(AGENT, f"{2:064x}", NOW)
