from __future__ import annotations

import pytest

from decnet_core.errors import Conflict, NotFound, TrustError
from decnet_master.store import Store, TokenState
from tests.store.samples import LATER, NOW, enrol, redemption


async def test_tokens_are_listed_with_how_they_stand(store: Store) -> None:
    for number, name in enumerate(("open", "used", "revoked"), 1):
        await enrol(store, name, f"{number:016x}")
    await store.hosts.redeem(f"{2:016x}", "hash", "csr", NOW, lambda _: redemption())
    revoked = await store.tokens.revoke(f"{3:016x}", NOW)
    assert (revoked.host, revoked.state, revoked.created_at, revoked.expires_at) == ("revoked", "revoked", NOW, LATER)

    async def states(now):
        return {token.host: token.state for token in await store.tokens.list(now)}

    assert await states(NOW) == {"open": TokenState.OPEN, "used": TokenState.USED, "revoked": TokenState.REVOKED}
    assert await states(LATER) == {"open": TokenState.ENDED, "used": TokenState.USED, "revoked": TokenState.REVOKED}


async def test_a_revoked_token_gives_nothing_and_its_name_is_free(store: Store) -> None:
    await enrol(store, "w1")
    for _ in range(2):
        await store.tokens.revoke("a" * 16, NOW)
    with pytest.raises(TrustError, match="was revoked"):
        await store.hosts.redeem("a" * 16, "hash", "csr", NOW, lambda _: redemption())
    with pytest.raises(TrustError, match="not known"):  # who does not hold the secret does not learn it
        await store.hosts.redeem("a" * 16, "wrong", "csr", NOW, lambda _: redemption())
    await enrol(store, "w1", "b" * 16)
    assert await store.hosts.redeem("b" * 16, "hash", "csr", NOW, lambda _: redemption()) == "{}"


async def test_a_used_or_unknown_token_cannot_be_revoked(store: Store) -> None:
    await enrol(store, "w1")
    await store.hosts.redeem("a" * 16, "hash", "csr", NOW, lambda _: redemption())
    with pytest.raises(Conflict, match="used already, by w1") as told:
        await store.tokens.revoke("a" * 16, NOW)
    assert "decommission w1" in told.value.advice
    with pytest.raises(NotFound):
        await store.tokens.revoke("b" * 16, NOW)
