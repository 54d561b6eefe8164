"""Whom a change of the fleet concerns: those whose deckies change or are not as they shall be, and nobody else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar

from decnet_core.fleet import DeckyPhase, DeckySpec, DeckyState, ShardReport
from decnet_master.store import IssuedCertificate, Redemption, Store
from decnet_master.swarmctl.changes import Changes
from decnet_master.swarmctl.messages import DeployRequest, WorkerResult


class Busy:
    """A dispatcher all of whose workers are at work on something."""

    busy: ClassVar[frozenset[str]] = frozenset({"w1", "w2", "w3"})


class Away(Busy):
    """All workers are sent their shards, and none answers."""

    async def apply(self, *_: object, **__: object) -> list[WorkerResult]:
        return []


async def join(store: Store, *names: str) -> None:
    now = datetime.now(UTC)
    for number, name in enumerate(names):
        certificate = IssuedCertificate(f"{number:064x}", f"agent@{name}", now + timedelta(days=1))
        redemption = Redemption("{}", "192.0.2.1", 8765, 8766, "0", (certificate,))
        token = f"{number:016x}"
        await store.hosts.create(name, token, "hash", now + timedelta(minutes=5), now)
        await store.hosts.redeem(token, "hash", "digest", now, lambda _host, made=redemption: made)


async def place(store: Store, **deckies: str) -> int:
    generation = await store.fleet.next_generation(datetime.now(UTC))
    await store.fleet.place(
        generation, [(host, DeckySpec(name=name, services=("ssh",))) for host, name in deckies.items()]
    )
    return generation


async def test_a_busy_worker_whose_deckies_stay_is_not_told_again(store: Store):
    await join(store, "w1", "w2", "w3")
    generation = await place(store, w1="a", w2="b", w3="c")
    for host, name in (("w1", "a"), ("w2", "b"), ("w3", "c")):
        state = DeckyState(name=name, phase=DeckyPhase.FAILED if host == "w3" else DeckyPhase.RUNNING)
        await store.fleet.record(ShardReport(host=host, generation=generation, deckies=(state,)))
    changes = Changes(store, Busy(), "secret")  # type: ignore[arg-type]
    begun = await changes.begin(DeployRequest(count=1, hosts=("w2",)))
    assert [host.name for host in begun.hosts] == ["w2", "w3"]
    assert begun.unasked == {"w3"}

    # what w1 says of the generation that it was busy with counts all the same
    again = DeckyState(name="a", phase=DeckyPhase.STOPPED)
    await store.fleet.record(ShardReport(host="w1", generation=generation, deckies=(again,)))
    assert {decky.spec.name: decky.phase for decky in await store.fleet.current()}["a"] is DeckyPhase.STOPPED
