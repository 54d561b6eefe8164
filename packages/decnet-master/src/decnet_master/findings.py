"""What is wrong with the evidence's way from the workers to the database, said the same everywhere.

`look` asks the database once and judges; the API's health and metrics and `decnet-master status` show it. A grave
finding means that evidence is not being stored, or not as it should be; the others that it soon may not be, that one
worker's is missing, or that a worker does not answer the controller or cannot be made as it shall be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from decnet_master.store import Heartbeat, Store
from decnet_master.store.doorbook import ListenerState
from decnet_master.store.shipping import Overview

LETTER_WINDOW = timedelta(minutes=10)

INGESTER_STANDS = timedelta(seconds=30)
"""A transaction may take as long; a healthy ingester moves several times a second."""

SWARM = "swarm"
"""The part of a finding that is of the workers' agents; all others are of the evidence's way."""

NAMED = 5
"""Workers in a sentence."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with what to do about it."""

    part: str
    grave: bool
    message: str
    advice: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What was seen, and what is wrong with it; `dead_letters` are the recent ones, counted up to the alarm."""

    overview: Overview
    dead_letters: int
    wrong: tuple[Finding, ...]

    def of(self, part: str) -> Finding | None:
        """Return the first thing that is wrong with a part."""
        return next((finding for finding in self.wrong if finding.part == part), None)


async def look(store: Store, dead_letter_alarm: int, now: datetime) -> Findings:
    """Ask the database and judge.

    Args:
        store: open.
        dead_letter_alarm: so many lines that are no event within `LETTER_WINDOW` are too many.
        now: aware UTC.

    Raises:
        Unavailable, RetryLater: the database does not answer.
    """
    overview = await store.shipping.overview(now)
    letters = await store.shipping.recent_dead_letters(now - LETTER_WINDOW, dead_letter_alarm)
    beats = (await store.heartbeats.list()).values()
    wrong = [*_of_listener(overview, now), *_of_letters(letters, dead_letter_alarm), *_of_workers(overview)]
    wrong += of_agents(beats)
    return Findings(overview, letters, tuple(sorted(wrong, key=lambda finding: not finding.grave)))


def of_agents(beats: Collection[Heartbeat]) -> Iterator[Finding]:
    """Judge what the controller hears from the workers' agents; nothing of it is grave."""
    if away := [beat.host for beat in beats if beat.unreachable_since is not None]:
        yield Finding(
            SWARM,
            False,
            f"The agents of {len(away)} of {len(beats)} workers cannot be reached: {_named(away)}",
            "Run `decnet-master swarm check`; they are asked again, and made as they shall be when they are back.",
        )
    if stuck := [beat for beat in beats if beat.is_given_up]:
        yield Finding(
            SWARM,
            False,
            f"{len(stuck)} of {len(beats)} workers cannot be made as they shall be: "
            f"{_named([beat.host for beat in stuck])}; {stuck[0].host}: {stuck[0].repair}",
            "Correct what is named; it is tried again within the hour, and at once by `deploy --count 0`.",
        )


def _of_listener(overview: Overview, now: datetime) -> Iterator[Finding]:
    state = overview.listener
    if state is None:
        # Nobody listened ever. Without workers that ship it is a master that was made just now, or one that only shows.
        if waiting := [worker.host for worker in overview.workers if worker.should_ship]:
            yield Finding(
                "listener",
                True,
                f"The listener has not been heard yet; {len(waiting)} of {len(overview.workers)} workers should ship: "
                f"{_named(waiting)}",
                "Start it, or look into its log; workers keep their lines meanwhile.",
            )
        return
    if not overview.listening:
        yield Finding(
            "listener",
            True,
            f"The listener has not been heard since {state.reported_at:%Y-%m-%d %H:%M:%S} UTC",
            "Start it, or look into its log; workers keep their lines meanwhile.",
        )
        return
    if state.stalled is not None:
        yield Finding("journal", True, "Nothing is acknowledged", state.stalled)
    elif (nearly := _nearly_full(state)) is not None:
        yield nearly
    if state.waits_since is not None and now - state.waits_since > INGESTER_STANDS:
        yield Finding(
            "ingester",
            True,
            f"The ingester has stored nothing since {state.waits_since:%Y-%m-%d %H:%M:%S} UTC, "
            f"{state.backlog_lines} lines wait",
            "Start it, or look into its log: a database that is away or full is named there.",
        )


def _nearly_full(state: ListenerState) -> Finding | None:
    if state.journal_bytes > state.quota_bytes - state.quota_bytes // 4:
        message = f"The journal holds {state.journal_bytes >> 20} MiB of the {state.quota_bytes >> 20} that it may"
        return Finding("journal", False, message, "See whether the ingester keeps up, or raise journal-quota-mib.")
    if state.free_bytes < state.min_free_bytes + state.min_free_bytes // 2:
        message = f"The journal's disk has {state.free_bytes >> 20} MiB left, {state.min_free_bytes >> 20} must stay"
        return Finding("journal", False, message, "Free space under the data-directory.")
    return None


def _of_letters(letters: int, alarm: int) -> Iterator[Finding]:
    if letters >= alarm:
        minutes = LETTER_WINDOW // timedelta(minutes=1)
        yield Finding(
            "dead-letters",
            True,
            f"{letters} lines or more that are no event came within {minutes} minutes",
            "They are kept with the reason in dead_letters; the ingester's log names the worker. "
            "A release that does not fit, or a third party's sender, is the usual cause.",
        )


def _of_workers(overview: Overview) -> Iterator[Finding]:
    silent = [worker.host for worker in overview.workers if worker.silent_since is not None]
    if silent:
        yield Finding(
            "workers",
            False,
            f"Nothing comes from {len(silent)} of {len(overview.workers)} workers: {_named(silent)}",
            "Run `decnet-master swarm check`, and `decnet-logship status` on the worker.",
        )


def _named(hosts: list[str]) -> str:
    return ", ".join(hosts[:NAMED]) + (", …" if len(hosts) > NAMED else "")
