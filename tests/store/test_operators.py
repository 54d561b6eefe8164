from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from decnet_core.errors import Conflict, NotFound, TrustError
from decnet_master.store import Granted, IssuedCertificate, Store
from decnet_master.store.certificates import KEPT_AFTER_END
from decnet_master.store.operators import MAX_CURRENT
from tests.store.samples import LATER, NOW

DAY = timedelta(days=1)
END = NOW + DAY


def certificate(key: str, issuer: str = "ca", ends=END) -> IssuedCertificate:
    return IssuedCertificate(
        f"print of {key}", "operator@alice", ends, f"serial of {key}", key, issuer, f"pem of {key}"
    )


async def let_in(store: Store, name: str = "alice", key: str = "k1", now=NOW, **named) -> Granted:
    return await store.operators.let_in(name, key, now, lambda: certificate(key, **named))


async def current(store: Store, *presented: tuple[str, str], now=NOW) -> frozenset:
    return await store.operators.current_among(presented, now)


ALICE = ("alice", "print of k1")


async def test_who_was_let_in_is_current_under_its_own_name_alone(store: Store) -> None:
    assert await current(store, ALICE) == frozenset()
    assert await let_in(store) == Granted("pem of k1", issued=True)
    assert await current(store, ALICE, ("bob", "print of k1"), ("alice", "print of k2")) == {ALICE}
    assert await store.operators.current_among([], NOW) == frozenset()


async def test_nobody_outlives_his_certificate(store: Store) -> None:
    await let_in(store)
    assert await current(store, ALICE, now=END - timedelta(seconds=1)) == {ALICE}
    assert await current(store, ALICE, now=END) == frozenset()
    with pytest.raises(TrustError, match="not let in"):
        await store.operators.renew(ALICE, "k2", END, lambda: certificate("k2", ends=END + DAY))


async def test_the_same_key_gets_the_same_certificate(store: Store) -> None:
    await let_in(store)
    assert await let_in(store, now=LATER) == Granted("pem of k1", issued=False)
    (alice,) = await store.operators.list(LATER)
    assert (alice.name, alice.created_at, alice.certificates, alice.ends_at) == ("alice", NOW, 1, END)


async def test_revoked_is_refused_at_once_and_on_record(store: Store) -> None:
    await let_in(store)
    await let_in(store, "bob", "k2")
    for by in ("bob", "(master)"):  # the first one counts
        alice = await store.operators.revoke("alice", by, LATER)
        assert (alice.revoked_at, alice.revoked_by, alice.certificates, alice.ends_at) == (LATER, "bob", 0, None)
    assert await current(store, ALICE, ("bob", "print of k2")) == {("bob", "print of k2")}
    with pytest.raises(TrustError, match="operator@alice is not let in"):
        await store.operators.renew(ALICE, "k3", LATER, lambda: certificate("k3"))
    assert [one.name for one in await store.operators.list(LATER) if one.revoked_at] == ["alice"]
    with pytest.raises(NotFound, match="no operator carol"):
        await store.operators.revoke("carol", "bob", LATER)


async def test_a_revoked_key_is_never_let_in_again_but_its_operator_may_be(store: Store) -> None:
    await let_in(store)
    await store.operators.revoke("alice", "bob", NOW)
    for name in ("alice", "mallory"):
        with pytest.raises(TrustError, match="was revoked"):
            await let_in(store, name)
    assert (await store.operators.list(NOW))[0].revoked_at == NOW, "what is refused changes nothing"
    assert [one.name for one in await store.operators.list(NOW)] == ["alice"]
    await let_in(store, key="k2", now=LATER)
    assert await current(store, ALICE, ("alice", "print of k2")) == {("alice", "print of k2")}
    (alice,) = await store.operators.list(LATER)
    assert (alice.revoked_at, alice.revoked_by) == (None, None)


async def test_a_renewal_keeps_the_certificate_that_it_shows(store: Store) -> None:
    await let_in(store)
    for issued in (True, False):
        assert await store.operators.renew(ALICE, "k2", LATER, lambda: certificate("k2", ends=END + DAY)) == Granted(
            "pem of k2", issued=issued
        )
    assert await current(store, ALICE, ("alice", "print of k2")) == {ALICE, ("alice", "print of k2")}
    (alice,) = await store.operators.list(LATER)
    assert (alice.certificates, alice.ends_at) == (2, END + DAY)
    with pytest.raises(TrustError):
        await store.operators.renew(("bob", "print of k1"), "k3", LATER, lambda: certificate("k3"))


async def test_an_operator_has_so_many_and_what_has_ended_is_forgotten(store: Store) -> None:
    for number in range(MAX_CURRENT):
        await let_in(store, key=f"k{number}")
    with pytest.raises(Conflict, match=f"has {MAX_CURRENT} certificates"):
        await let_in(store, key="more")
    assert await current(store, ("alice", "print of k3")), "the last one that was let in"
    much_later = END + KEPT_AFTER_END + DAY
    assert (await let_in(store, key="more", now=much_later, ends=much_later + DAY)).issued
    assert not await current(store, ("alice", "print of k3"), now=much_later)


async def test_when_a_certificate_was_last_used_is_known_to_the_minute(store: Store) -> None:
    await let_in(store)
    (alice,) = await store.operators.list(NOW)
    assert alice.seen_at is None
    for seconds, noted in ((0, 0), (59, 0), (60, 60), (100, 60)):
        await current(store, ALICE, now=NOW + timedelta(seconds=seconds))
        (alice,) = await store.operators.list(NOW)
        assert alice.seen_at == NOW + timedelta(seconds=noted)


async def test_who_depends_on_a_ca(store: Store) -> None:
    for name, key in (("alice", "a"), ("bob", "b"), ("carol", "c"), ("dave", "d")):
        await let_in(store, name, key, issuer="old")
    for name, key in (("alice", "a2"), ("bob", "b2")):
        await let_in(store, name, key, issuer="new")
    await current(store, ("alice", "print of a2"))  # bob was given one, and has not shown it
    await store.operators.revoke("dave", "bob", NOW)
    assert await store.operators.depending_on("old", NOW) == ("bob", "carol")
    assert await store.operators.depending_on("old", END + DAY) == ()


async def test_two_who_let_the_same_one_in_at_once(store: Store) -> None:
    results = await asyncio.gather(
        let_in(store, key="k1"), let_in(store, key="k2"), let_in(store, key="k3"), return_exceptions=True
    )
    granted = [one for one in results if isinstance(one, Granted)]
    assert granted
    assert all(isinstance(one, Granted | Conflict) for one in results), results
    (alice,) = await store.operators.list(NOW)
    assert alice.certificates == len(granted)
