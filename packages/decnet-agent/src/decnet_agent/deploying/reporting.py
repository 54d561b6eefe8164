"""What became of a shard, as the master is told."""

from __future__ import annotations

from collections.abc import Mapping

from decnet_agent.deploying.planning import ExistingDecky, Plan, World
from decnet_core.fleet import DeckyPhase, DeckySpec, DeckyState, Shard, ShardReport


def report(
    host: str,
    shard: Shard,
    plan: Plan,
    failures: Mapping[str, str],
    contested: Mapping[str, str],
    *,
    before: World,
    after: World,
) -> ShardReport:
    """Tell of every decky of the shard, and of those that were removed.

    Args:
        host: this worker.
        shard: what was asked for.
        plan: what came of it.
        failures: deckies whose step failed, with the reason.
        contested: deckies whose address another machine has, with its MAC.
        before, after: what the engine held.
    """
    there = {decky.name: decky for decky in after.deckies if decky.complete}
    states: dict[str, DeckyState] = {}
    for spec in shard.deckies:
        if spec.name not in states:
            error = plan.refused.get(spec.name) or failures.get(spec.name)
            states[spec.name] = _state(spec, plan, there.get(spec.name), error, contested.get(spec.name))
    gone = {decky.name for decky in before.deckies} - {decky.name for decky in after.deckies}
    return ShardReport(
        host=host, generation=shard.generation, deckies=tuple(states.values()), removed=tuple(sorted(gone))
    )


def _state(
    spec: DeckySpec, plan: Plan, existing: ExistingDecky | None, error: str | None, contested_by: str | None
) -> DeckyState:
    given = plan.assignments.get(spec.name)
    running = existing is not None and existing.running
    if error is None and not running:
        error = "its container ended as soon as it was started; `docker logs` on the worker shows its last words"
    return DeckyState(
        name=spec.name,
        phase=DeckyPhase.FAILED if error is not None else DeckyPhase.RUNNING,
        services=spec.services,
        ip=None if given is None else given.ip,
        mac=None if given is None else given.mac,
        container=None if existing is None else existing.container,
        error=error,
        moved_from=None if given is None else given.moved_from,
        moved_because=None if given is None else given.moved_because,
        contested_by=contested_by,
    )
