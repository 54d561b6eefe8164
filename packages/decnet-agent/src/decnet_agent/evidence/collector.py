"""Turn what deckies write to their consoles into events, each exactly once, and tell the taps what runs.

For every container with a decky's label one follower reads the console from where the event log ends for it
(`container:<id>`, see `console_cursor`), makes an event of each line (`guest_lines`) and waits until the appender has
made them durable before it reads on: the engine's own record is the buffer. A follower lives as long as its
container; it survives the engine's restarts, the container's, and our own crashes by its cursor.

`<run-directory>/deckies.json` says what runs, for the tap process, which has no engine's socket: a list of
`{name, container_id, pid1, image, services, ip, mac, rootfs}`, replaced as a whole whenever it changes. pid1 is the
host's pid of the decky's init, rootfs the merged overlay as the host sees it.

A container is removed only after `drained` came back: its last words are evidence too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from decnet_agent.engine.labels import LABEL_DECKY, LABEL_IP, LABEL_MAC, LABEL_SERVICES
from decnet_agent.engine.watch import ConsoleLine, EngineWatch, SeenContainer
from decnet_agent.evidence.appending import EventAppender
from decnet_agent.evidence.console_cursor import Place
from decnet_agent.evidence.guest_lines import HOST_SERVICE, read_line
from decnet_core.errors import NotFound, RemoteProtocolError, Unavailable
from decnet_core.events import Event, EventType, Trust
from decnet_core.identity import is_host_name
from decnet_core.pki.durable import replace_file

LOOK_SECS = 1.0
"""Between two lists of what runs; a start or stop of our own is seen at once."""

RESUME_SECS = 0.5
"""Before a console that ended is read again."""

LONGEST_RETRY_SECS = 10.0

DECKIES_MODE = 0o640

_NAMED = 5
"""Deckies in one line of the log; more are counted."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

log = structlog.get_logger()


class Collector:
    """Follows all deckies of one engine."""

    def __init__(self, watch: EngineWatch, appender: EventAppender, deckies_file: Path) -> None:
        self._watch = watch
        self._appender = appender
        self._deckies_file = deckies_file
        self._followers: dict[str, _Follower] = {}
        self._unread: dict[str, str] = {}
        self._written: bytes | None = None
        self._look_now = asyncio.Event()
        self._looked = asyncio.Condition()
        self._looks_begun = 0
        self._looks_done = 0

    def look(self) -> None:
        """Look at the engine at once: something was started or stopped."""
        self._look_now.set()

    async def drained(self, container: str, timeout_secs: float) -> bool:
        """Wait until all that a stopped container said is in the log; False when it took too long."""
        try:
            async with asyncio.timeout(timeout_secs):
                await self._look_again()
                follower = self._followers.get(container)
                if follower is not None:
                    await follower.at_end.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Collect for ever."""
        failing = False
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    await self._look(group)
                    failing = False
                except (Unavailable, RemoteProtocolError) as error:
                    if not failing:
                        log.warning("engine.lost", reason=error.message, advice=error.advice)
                    failing = True
                try:
                    async with asyncio.timeout(LOOK_SECS):
                        await self._look_now.wait()
                except TimeoutError:
                    pass
                self._look_now.clear()

    async def _look_again(self) -> None:
        """Wait for a look that begins after now: a container may be younger than the last one."""
        wanted = self._looks_begun + 1
        self.look()
        async with self._looked:
            await self._looked.wait_for(lambda: self._looks_done >= wanted)

    async def _look(self, group: asyncio.TaskGroup) -> None:
        self._looks_begun += 1
        this = self._looks_begun
        seen = {container.id: container for container in await self._watch.containers(LABEL_DECKY)}
        self._tell_unread()
        for container in seen.values():
            follower = self._followers.get(container.id)
            if follower is None and is_host_name(container.labels.get(LABEL_DECKY, "")):
                follower = _Follower(container, self._watch, self._appender, self._look_now, self._unread)
                self._followers[container.id] = follower
                group.create_task(follower.run(), name=f"console of {follower.decky}")
            if follower is not None:
                follower.see(running=container.running)
        for container_id in self._followers.keys() - seen.keys():
            self._followers.pop(container_id).gone()
        async with self._looked:
            self._looks_done = this
            self._looked.notify_all()
        await self._tell_taps(seen.values())

    def _tell_unread(self) -> None:
        """Tell in one line what could not be read, now that the engine answers: with it, hundreds are lost at once."""
        if self._unread:
            deckies, reasons = sorted(self._unread), sorted(set(self._unread.values()))
            self._unread.clear()
            log.warning("console.read_failed", count=len(deckies), deckies=deckies[:_NAMED], reason=reasons[0])

    async def _tell_taps(self, seen: Iterable[SeenContainer]) -> None:
        entries = []
        for container in seen:
            follower = self._followers.get(container.id)
            if container.running and follower is not None and (facts := await follower.facts()) is not None:
                pid1 = _pid1(facts)
                if pid1:
                    entries.append(_entry(container, facts, pid1))
        content = json.dumps(sorted(entries, key=lambda entry: str(entry["name"]))).encode()
        if content != self._written:
            try:
                self._deckies_file.parent.mkdir(parents=True, exist_ok=True)
                replace_file(self._deckies_file, content, DECKIES_MODE)
            except OSError as cause:
                log.warning("deckies_file.write_failed", path=str(self._deckies_file), reason=str(cause.strerror))
                return
            self._written = content


class _Follower:
    """Reads one container's console to its end, again and again while the container lives."""

    def __init__(
        self,
        container: SeenContainer,
        watch: EngineWatch,
        appender: EventAppender,
        changed: asyncio.Event,
        unread: dict[str, str],
    ) -> None:
        self.decky = container.labels[LABEL_DECKY]
        self.at_end = asyncio.Event()
        """Set while the container does not run and all that it said is in the log."""
        self._id = container.id
        self._source = f"container:{container.id}"
        self._watch = watch
        self._appender = appender
        self._changed = changed
        self._unread = unread
        self._running = container.running
        self._may_run = asyncio.Event()
        self._gone = False
        self._facts: Mapping[str, Any] | None = None

    def see(self, *, running: bool) -> None:
        """Take notice of how the engine lists the container."""
        if running != self._running:
            self._facts = None
        self._running = running
        if running:
            self._may_run.set()

    def gone(self) -> None:
        """Take notice that the container is no more."""
        self._gone = True
        self._may_run.set()

    async def facts(self) -> Mapping[str, Any] | None:
        """Return what the engine knows of the container; None when it is gone.

        Only a running container's are kept, and until its console ends: who restarts gets another first process.
        """
        if self._facts is not None:
            return self._facts
        try:
            facts = await self._watch.inspect(self._id)
        except NotFound:
            return None
        if _pid1(facts):
            self._facts = facts
        return facts

    async def run(self) -> None:
        delay_secs = RESUME_SECS
        while not self._gone:
            try:
                await self._read_to_end()
                delay_secs = RESUME_SECS
                await self._wait_until_it_runs_again()
            except NotFound:
                break
            except (Unavailable, RemoteProtocolError) as error:
                self._unread[self.decky] = error.message
                # an engine that ended has ended its containers, and started them again when it is back
                self._facts = None
                await asyncio.sleep(delay_secs)
                delay_secs = min(delay_secs * 2, LONGEST_RETRY_SECS)
        self.at_end.set()
        self._appender.forget(self._source)

    async def _read_to_end(self) -> None:
        facts = await self.facts()
        if facts is None:
            raise NotFound("The container is gone")
        self.at_end.clear()
        await self._read(facts, follow=True)

    async def _read(self, facts: Mapping[str, Any], *, follow: bool) -> None:
        place = Place(self._appender.cursor(self._source))
        tty = bool(facts.get("Config", {}).get("Tty"))
        async for lines in self._watch.console(self._id, tty=tty, since_ns=place.since_ns, follow=follow):
            await self._appender.append(self._events(lines, place))

    async def _wait_until_it_runs_again(self) -> None:
        # The engine ends the stream when the container stops, and when itself stops: ask which it was.
        self._facts = None
        facts = await self.facts()
        self._changed.set()
        if facts is None:
            raise NotFound("The container is gone")
        if facts.get("State", {}).get("Running"):
            await asyncio.sleep(RESUME_SECS)
            return
        self._running = False
        self._may_run.clear()
        # Under load the engine ends the stream of a container that ends before it has sent the last lines.
        await self._read(facts, follow=False)
        self.at_end.set()
        await self._may_run.wait()

    def _events(self, lines: list[ConsoleLine], place: Place) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            cursor = place.step(line.at_ns)
            at = _EPOCH + timedelta(microseconds=line.at_ns // 1000)
            if place.gap is not None:
                events.append(self._dropped(at, place.gap))
                place.gap = None
            # A terminal's empty lines and init's screen clearing are not words of anybody.
            if cursor is not None and line.text.strip():
                events.append(read_line(line.text, at=at, decky=self.decky, source=self._source, cursor=cursor))
        return events

    def _dropped(self, at: datetime, cursor: str) -> Event:
        log.error("console.lines_lost", decky=self.decky, reason="the engine rotated its record while nobody read it")
        return Event(
            at=at,
            decky=self.decky,
            service=HOST_SERVICE,
            event_type=EventType.EVIDENCE_DROPPED,
            trust=Trust.SENSOR,
            source=self._source,
            cursor=cursor,
            fields={"count": "unknown", "reason": "the engine rotated the console's record before it was read"},
        )


def _pid1(facts: Mapping[str, Any]) -> int:
    """Tell the host's pid of a running container's first process; 0 for one that does not run."""
    state = facts.get("State", {})
    return int(state.get("Pid") or 0) if state.get("Running") else 0


def _entry(container: SeenContainer, facts: Mapping[str, Any], pid1: int) -> dict[str, Any]:
    labels = container.labels
    merged = ((facts.get("GraphDriver") or {}).get("Data") or {}).get("MergedDir")
    return {
        "name": labels[LABEL_DECKY],
        "container_id": container.id,
        "pid1": pid1,
        "image": container.image,
        "services": [service for service in labels.get(LABEL_SERVICES, "").split(",") if service],
        "ip": labels.get(LABEL_IP),
        "mac": labels.get(LABEL_MAC),
        "rootfs": merged or f"/proc/{pid1}/root",
    }
