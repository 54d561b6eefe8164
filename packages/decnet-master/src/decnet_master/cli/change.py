"""Show what a change of the fleet would do, and what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decnet_master.cli import terminal
from decnet_master.cli.outcome import judge

if TYPE_CHECKING:
    from decnet_master.swarmctl.fleet_messages import FleetPlan
    from decnet_master.swarmctl.messages import FleetReply

_SHOWN = 20
"""Of names in a sentence; `--json` has all."""


def show_plan(plan: FleetPlan, *, as_json: bool) -> None:
    """Print a plan, whole."""
    if as_json:
        terminal.print_json(plan.model_dump(mode="json"))
        return
    if plan.steps:
        terminal.print_table(
            ("", "decky", "worker", "services", "MAC"),
            [(step.action, step.name, step.host, " ".join(step.services), step.mac) for step in plan.steps],
        )
    terminal.say(_summary(plan))
    show_notes(plan)
    if plan.unsettled:
        terminal.say(f"Not as they should be, and sent their part again: {_names(plan.unsettled)}")
    terminal.say(
        f"Nothing was done. The same command with --plan {plan.id} does this, or nothing if it is another by then."
    )


def show_notes(plan: FleetPlan) -> None:
    """Print what a plan leaves as it is though somebody might think otherwise."""
    if plan.undeclared:
        terminal.say(f"In the fleet and not declared: {_names(plan.undeclared)}; --prune removes them.")
    if plan.allowed:
        terminal.say(f"What `mutate` may do to them is another: {_names(plan.allowed)}.")
    for stray in plan.strays[:_SHOWN]:
        terminal.say(f"{stray.name} stays on {stray.host}: {stray.why}. To move it, tear it down and apply again.")
    if len(plan.strays) > _SHOWN:
        terminal.say(f"… and {len(plan.strays) - _SHOWN} more that stay where they are.")


def show_reply(reply: FleetReply, *, as_json: bool, none_is_fine: bool) -> None:
    """Print what was done and what came of it at each worker.

    Raises:
        PartialFailure: some workers failed.
        DecnetError: all did, or there is none and that is not fine.
    """
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
    else:
        changed = [("added", name) for name in reply.added]
        changed += [("changed", name) for name in reply.changed]
        changed += [("removed", name) for name in reply.removed]
        if changed or reply.results:
            terminal.say(f"Generation {reply.generation}")
        else:
            terminal.say(f"Nothing to change; the fleet is generation {reply.generation}.")
        if changed:
            terminal.print_table(("", "decky"), changed)
        if reply.results:
            terminal.print_table(
                ("worker", "ok", "deckies"),
                [
                    (row.host, terminal.yes(row.ok), len(row.report.deckies) if row.report else None)
                    for row in reply.results
                ],
            )
        for row in reply.results:
            if not row.ok:
                terminal.say_failure(row.host, row.error, row.advice)
    judge([(row.host, row.ok) for row in reply.results], "are as they should be", none_is_fine=none_is_fine)


def _summary(plan: FleetPlan) -> str:
    if not plan.steps:
        return f"Nothing to change: {plan.kept} deckies stay as they are."
    counts = {action: sum(step.action == action for step in plan.steps) for action in ("add", "change", "remove")}
    return (
        f"{counts['add']} to add, {counts['change']} to change, {counts['remove']} to remove; "
        f"{plan.kept} stay as they are (on top of generation {plan.generation})"
    )


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
