from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from decnet_core.errors import Conflict, DecnetError, NotFound, TrustError
from decnet_master.store import HostStatus, Redemption, Store
from tests.store.samples import LATER, NOW, enrol, redemption

TOKEN = "a" * 16


async def test_a_host_enrols_joins_and_is_decommissioned(store: Store) -> None:
    created = await store.hosts.create("w1", TOKEN, "hash", LATER, NOW)
    assert (created.status, created.created_at, created.enrolled_at) == (HostStatus.ENROLLED, NOW, None)
    assert not await store.hosts.is_active("w1")

    seen: list[str] = []

    def issue(host: str) -> Redemption:
        seen.append(host)
        return redemption("reply")

    assert await store.hosts.redeem(TOKEN, "hash", "csr", NOW, issue) == "reply"
    assert seen == ["w1"]
    host = await store.hosts.get("w1")
    assert (host.status, host.address, host.agent_port, host.updater_port) == ("active", "192.0.2.1", 8765, 8766)
    assert (host.version, host.enrolled_at) == ("0.1.0", NOW)
    assert await store.hosts.is_active("w1")
    assert await store.hosts.is_active("w1", "f" * 64)
    assert not await store.hosts.is_active("w1", "0" * 64)
    assert not await store.hosts.is_active("w2")

    gone = await store.hosts.decommission("w1", LATER)
    assert gone.status is HostStatus.DECOMMISSIONED
    assert not await store.hosts.is_active("w1")
    assert await store.hosts.list() == [gone]


async def test_a_taken_name_is_refused(store: Store) -> None:
    await enrol(store, "w1")
    with pytest.raises(Conflict):
        await enrol(store, "w1", "b" * 16)
    await store.hosts.redeem(TOKEN, "hash", "csr", NOW, lambda _: redemption())
    with pytest.raises(Conflict):
        await store.hosts.create("w1", "c" * 16, "hash", LATER, LATER + timedelta(days=1))


async def test_a_name_whose_token_ended_unused_may_have_another(store: Store) -> None:
    await enrol(store, "w1")
    await store.hosts.create("w1", "b" * 16, "hash", LATER + timedelta(hours=1), LATER)
    with pytest.raises(TrustError, match="not known"):
        await store.hosts.redeem(TOKEN, "hash", "csr", NOW, lambda _: redemption())
    assert await store.hosts.redeem("b" * 16, "hash", "csr", LATER, lambda _: redemption("second")) == "second"


async def test_old_certificates_stay_revoked_when_the_name_comes_back(store: Store) -> None:
    await enrol(store, "w1")
    await store.hosts.redeem(TOKEN, "hash", "csr", NOW, lambda _: redemption())
    await store.hosts.decommission("w1", NOW)
    with pytest.raises(TrustError):  # not even its own reply again
        await store.hosts.redeem(TOKEN, "hash", "csr", NOW, lambda _: redemption())
    await enrol(store, "w1", "b" * 16)
    await store.hosts.redeem("b" * 16, "hash", "csr2", NOW, lambda _: redemption("{}", "1" * 64))
    assert not await store.hosts.is_active("w1", "f" * 64)
    assert await store.hosts.is_active("w1", "1" * 64)


async def test_many_may_create_one_name_and_one_wins(store: Store) -> None:
    tries = [store.hosts.create("w1", f"{n:016x}", "hash", LATER, NOW) for n in range(8)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(not isinstance(result, Conflict) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 7


@pytest.mark.parametrize(
    ("token_id", "secret_hash", "when"),
    [("b" * 16, "hash", NOW), (TOKEN, "other", NOW), (TOKEN, "hash", LATER)],
    ids=["unknown", "wrong secret", "ended"],
)
async def test_a_bad_token_is_refused(store: Store, token_id: str, secret_hash: str, when) -> None:
    await enrol(store, "w1")
    with pytest.raises(TrustError):
        await store.hosts.redeem(token_id, secret_hash, "csr", when, lambda _: pytest.fail("issued"))
    assert (await store.hosts.get("w1")).status is HostStatus.ENROLLED


async def test_the_same_csrs_get_the_same_reply_even_late(store: Store) -> None:
    await enrol(store, "w1")
    await store.hosts.redeem(TOKEN, "hash", "csr", NOW, lambda _: redemption("first"))
    again = await store.hosts.redeem(TOKEN, "hash", "csr", LATER, lambda _: pytest.fail("issued twice"))
    assert again == "first"
    with pytest.raises(TrustError, match="used already"):
        await store.hosts.redeem(TOKEN, "hash", "other csr", NOW, lambda _: pytest.fail("issued twice"))


async def test_issuing_that_fails_leaves_the_token_good(store: Store) -> None:
    await enrol(store, "w1")

    def refuse(_host: str) -> Redemption:
        raise TrustError("That CSR is broken")

    with pytest.raises(TrustError, match="CSR is broken"):
        await store.hosts.redeem(TOKEN, "hash", "csr", NOW, refuse)
    assert await store.hosts.redeem(TOKEN, "hash", "csr", NOW, lambda _: redemption("good")) == "good"


async def test_a_certificate_that_is_known_already_undoes_the_join(store: Store) -> None:
    await enrol(store, "w1")
    await enrol(store, "w2", "b" * 16)
    await store.hosts.redeem(TOKEN, "hash", "csr", NOW, lambda _: redemption())
    with pytest.raises(Conflict):
        await store.hosts.redeem("b" * 16, "hash", "csr", NOW, lambda _: redemption())
    assert (await store.hosts.get("w2")).status is HostStatus.ENROLLED


async def test_of_many_that_redeem_one_token_exactly_one_wins(store: Store, url: str) -> None:
    await enrol(store, "w1")
    issued: list[str] = []

    def issuer(reply: str):
        def issue(_host: str) -> Redemption:
            issued.append(reply)
            return redemption(reply)

        return issue

    async with await Store.open(url) as other:  # another process's pool, as it were
        tries = [
            room.redeem(TOKEN, "hash", f"csr {n % 8}", NOW, issuer(f"reply {n % 8}"))
            for n, room in enumerate([store.hosts, other.hosts] * 8)
        ]
        results = await asyncio.gather(*tries, return_exceptions=True)
    replies = [result for result in results if isinstance(result, str)]
    assert len(issued) == 1
    assert replies == issued * 2  # each digest asked twice: the winner's two askers got one answer
    assert all(isinstance(result, str | TrustError) for result in results)


async def test_seen_moves_forward_only(store: Store) -> None:
    await enrol(store, "w1")
    await store.hosts.seen("w1", "0.2.0", LATER)
    await store.hosts.seen("w1", "0.1.0", NOW)
    host = await store.hosts.get("w1")
    assert (host.version, host.seen_at) == ("0.2.0", LATER)


@pytest.mark.parametrize("name", ["nobody", "a\0b", "\udc80", "x" * 100_000])
async def test_unknown_names_are_not_found(store: Store, name: str) -> None:
    for call in (store.hosts.get(name), store.hosts.decommission(name, NOW), store.users.get(name)):
        with pytest.raises(NotFound):
            await call
    assert not await store.hosts.is_active(name, name)
    await store.hosts.seen(name, name, NOW)


async def test_every_error_has_advice(store: Store) -> None:
    with pytest.raises(DecnetError) as refused:
        await store.hosts.get("nobody")
    assert refused.value.advice
