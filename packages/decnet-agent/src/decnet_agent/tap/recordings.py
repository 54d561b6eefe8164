"""From what the kernel tells of terminals to one recording for each, and an event when it is closed.

A recording is an asciicast (`asciicast`) in `<data-directory>/tap/recordings`, readable for root alone while it is
written, because passwords are typed at prompts. When its terminal ends it goes to the quarantine as any captured file
does, under its hash, and session.recorded tells of it.

Whose a terminal is, is whose the process is that holds its master: a login server's, mostly. A terminal that a program
of a visitor's opens within his own session (screen, script, sudo) shows on the outer one too and is not recorded twice;
where there is no outer one (`ssh host command`), it is. What belongs to no session is the decky's own machinery.

It ends when the kernel says so (nobody holds the other end; its number is given to a new one), when the process that
held the master is gone, or with its decky. A tap that ends leaves it as it is; the next one cuts off what was not
safe, and goes on writing if it reads on where we were. If it does not, the recording is closed, and what comes then is
another.

Bounds: `shown_bytes` and `typed_bytes` of each terminal, and `LIVE_BYTES` of all that are written. What lies beyond,
and what found no room in the kernel's ring, is counted; a remark in the recording says where it is missing, its event
how much, and evidence.dropped tells it too.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import structlog

from decnet_agent.evidence.channel import event_from_json, event_to_json
from decnet_agent.evidence.sender import evidence_dropped
from decnet_agent.tap import asciicast, procs
from decnet_agent.tap.asciicast import Cast
from decnet_agent.tap.attribution import Process
from decnet_agent.tap.observer import Emit, Observer, Watched, wall_time
from decnet_agent.tap.quarantine import Kept, Quarantine
from decnet_agent.tap.recording_files import RecordingFiles
from decnet_agent.tap.remembered import PLAIN, Codec, Remembered
from decnet_agent.tap.terminal_probes import TerminalRecord, decode
from decnet_agent.tap.terminal_programs import Kind
from decnet_core.errors import DecnetError
from decnet_core.events import Event, EventType

SHOWN_BYTES = 16 << 20
"""Hours of work at a shell; more is somebody's `yes`."""
TYPED_BYTES = 4 << 20
"""Apart from what is shown, so that no flood on the screen hides what is typed under it."""
LIVE_BYTES = 1 << 30
MAX_OPEN = 512
"""Terminals that are recorded at once; each is a file that is held open."""
RETRY_SECS = 5.0
"""Between two attempts to close a recording that could not be kept."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording. `ended` once nothing more comes; `draft` is the event that it becomes."""

    terminal: int
    namespace: int
    pid: int
    started_ns: int
    begun_ns: int
    last_ns: int
    draft: Event
    cast: Cast
    file_bytes: int
    shown_bytes: int = 0
    typed_bytes: int = 0
    missing_bytes: int = 0
    counted: tuple[int, int] = (0, 0)
    """What the kernel's counters said last: of what is shown, and typed."""
    ended: bool = False


def _write(recording: Recording) -> Any:
    cast = recording.cast
    tails = [tail.decode("latin-1") for tail in cast.tails]
    numbers = [recording.terminal, recording.namespace, recording.pid, recording.started_ns, recording.begun_ns]
    sizes = [recording.last_ns, recording.file_bytes, recording.shown_bytes, recording.typed_bytes]
    rest = [recording.missing_bytes, *recording.counted, recording.ended]
    return [event_to_json(recording.draft), [cast.columns, cast.rows, cast.at_secs, *tails], *numbers, *sizes, *rest]


def _read(data: Any) -> Recording:
    draft, (columns, rows, at_secs, shown_tail, typed_tail), *numbers, ended = data
    terminal, namespace, pid, started_ns, begun_ns, last_ns, file_bytes, shown, typed, missing, *counted = (
        int(number) for number in numbers
    )
    cast = Cast(int(columns), int(rows), float(at_secs), (shown_tail.encode("latin-1"), typed_tail.encode("latin-1")))
    event = event_from_json("", draft)
    first, second = counted
    return Recording(
        terminal, namespace, pid, started_ns, begun_ns, last_ns, event, cast, file_bytes, shown, typed, missing,
        (first, second), bool(ended),
    )  # fmt: skip


RECORDINGS: Codec[Recording] = Codec(_write, _read)


class Recordings:
    """All terminals that are recorded.

    Args:
        files: where they are written.
        commit: makes all that was emitted and remembered safe.
        shown_bytes: of one terminal's output that are recorded.
        typed_bytes: the same of its input.

    Attributes:
        table: by the names of their files; what a later tap must know to go on.
    """

    def __init__(
        self,
        files: RecordingFiles,
        quarantine: Quarantine,
        observer: Observer,
        emit: Emit,
        *,
        commit: Callable[[], None],
        shown_bytes: int = SHOWN_BYTES,
        typed_bytes: int = TYPED_BYTES,
    ) -> None:
        self._files, self._quarantine, self._observer, self._emit = files, quarantine, observer, emit
        self._commit = commit
        self._bounds = shown_bytes, typed_bytes
        self._live: dict[int, str] = {}
        """The recordings of terminals that live, by the terminal's address."""
        self._live_bytes = 0
        self._lost: dict[str, int] = {}
        """Bytes that are missing and not told of yet, by the reason."""
        self._ended = asyncio.Event()
        self.table: Remembered[str, Recording] = Remembered("recordings", PLAIN, RECORDINGS)

    def restored(self, *, gapless: bool) -> None:
        """Go on from what an earlier tap knew.

        Args:
            gapless: whether we read on where it was.
        """
        for name, recording in self.table.items():
            if not self._files.reopen(name, recording.file_bytes):
                self.table.pop(name)
                self._lose("recording-file", 1)
                continue
            self._live_bytes += recording.file_bytes
            if recording.ended:
                continue
            self._live[recording.terminal] = name
            if not gapless:
                self._append(name, recording, asciicast.remark(recording.cast, "the tap was away; this ends here"))
                self._end(name)
        for name in self._files.orphans(set(self.table)):
            self._adopt(name)
        if len(self.table) > len(self._live):
            self._ended.set()

    def take(self, data: bytes) -> None:
        """Take in one record of the kernel.

        Raises:
            RemoteProtocolError: it is none.
        """
        record = decode(data)
        if record.kind in (Kind.OPENED, Kind.ENDED):
            self._end(self._live.get(record.terminal))
            return
        name = self._live.get(record.terminal)
        if name is not None and not _same_holder(self._named(name), record):
            # A master is handed on between a server's own processes; the terminal is the same.
            recording = replace(self._named(name), pid=record.pid, started_ns=record.started_ns)
            self.table.put(name, recording)
        if name is None and record.kind is not Kind.RESIZED:
            name = self._begin(record)
        if name is not None:
            self._continue(name, record)

    def look(self, drain: Callable[[], object]) -> None:
        """End the recordings of processes that are gone, and tell what is missing.

        Args:
            drain: takes in what the kernel has told until now.
        """
        gone = [name for name in self._live.values() if self._is_gone(self._named(name))]
        if gone:
            drain()  # their last words may still be on their way
            for name in gone:
                if self._live.get(self._named(name).terminal) == name and self._is_gone(self._named(name)):
                    self._end(name)
        for reason, count in self._lost.items():
            log.warning("evidence.dropped", count=count, reason=reason)
            self._emit(evidence_dropped(count, reason, datetime.now(UTC)))
        self._lost.clear()

    def forget(self, decky: Watched) -> None:
        """End all recordings of a decky that is gone."""
        for name in list(self._live.values()):
            if self._named(name).namespace == decky.namespace:
                self._end(name)

    async def run(self) -> NoReturn:
        """Bring recordings that have ended to the quarantine, until cancelled."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            for name, recording in self.table.items():
                if recording.ended and not await self._keep(name, recording):
                    asyncio.get_running_loop().call_later(RETRY_SECS, self._ended.set)

    def close(self) -> None:
        """Close our descriptors; what is not ended waits for the next tap."""
        self._files.close()

    def _begin(self, record: TerminalRecord) -> str | None:
        decky = self._observer.decky(record.namespace)
        process = self._observer.find(record.namespace, record.pid)
        if decky is None or (process is not None and not self._is_a_visitors(process)):
            return None
        if len(self._live) >= MAX_OPEN:
            self._lose("terminals-full", len(record.data))
            return None
        begun_at = wall_time(record.at_ns)
        fields = {"started_at": begun_at.isoformat(), "terminal": f"pts/{record.number}"}
        draft = self._observer.event(decky, process, EventType.SESSION_RECORDED, fields, begun_at)
        cast = Cast(record.columns, record.rows)
        title = f"{decky.name} {fields['terminal']}" + (f" from {draft.src_ip}" if draft.src_ip else "")
        head = asciicast.header(cast, begun_at, title, event_to_json(draft))
        name = f"{secrets.token_hex(8)}.cast"
        try:
            self._files.make(name, head)
        except OSError as cause:
            log.warning("tap.recording_failed", reason=cause.strerror)
            self._lose("recording-failed", len(record.data))
            return None
        recording = Recording(
            record.terminal, record.namespace, record.pid, record.started_ns, record.at_ns, record.at_ns,
            draft, cast, len(head),
        )  # fmt: skip
        self._live[record.terminal] = name
        self._live_bytes += len(head)
        self.table.put(name, recording)
        return name

    def _adopt(self, name: str) -> None:
        """Take in a recording of which only its file is left: the machine was restarted."""
        try:
            head, last, file_bytes = self._files.adopt(name)
            draft = event_from_json("", json.loads(head)["about"])
            last_ns = int(float(json.loads(last)[0]) * 1e9) if last != head else 0
        except (OSError, ValueError, TypeError, KeyError, RecursionError, DecnetError) as cause:
            log.warning("tap.recording_failed", reason=f"{name} cannot be read: {type(cause).__name__}")
            self._lose("recording-file", 1)
            self._files.remove(name)
            return
        cast = Cast(at_secs=last_ns / 1e9)
        recording = Recording(0, 0, 0, 0, 0, last_ns, draft, cast, file_bytes, ended=True)
        self._live_bytes += file_bytes
        self._append(name, recording, asciicast.remark(cast, "the machine was restarted; this ends here"))

    def _is_a_visitors(self, process: Process) -> bool:
        """Tell whether a process's terminal is to be recorded."""
        session = process.session
        if session is None:
            return False
        return process.serving or not any(self._named(name).draft.session == session.id for name in self._live.values())

    def _continue(self, name: str, record: TerminalRecord) -> None:
        """Write one record down."""
        recording, typed = self._named(name), record.kind is Kind.TYPED
        at_secs = max(0, record.at_ns - recording.begun_ns) / 1e9
        cast, lines = asciicast.resized(recording.cast, at_secs, record.columns, record.rows)
        direction, before = ("typed" if typed else "shown"), recording.counted[typed]
        missing = record.missing_bytes - before if record.missing_bytes > before else 0
        if missing:
            lines += asciicast.remark(cast, f"{missing} bytes {direction} before this are missing")
            self._lose("terminal-ring-full", missing)
        shown, entered = recording.counted
        counted = (shown, record.missing_bytes) if typed else (record.missing_bytes, entered)
        taken = recording.typed_bytes if typed else recording.shown_bytes
        fits = taken < self._bounds[typed] and self._live_bytes < LIVE_BYTES
        if fits:
            cast, more = asciicast.transferred(cast, at_secs, record.data, typed=typed)
            lines += more
            taken += len(record.data)
            if taken >= self._bounds[typed]:
                lines += asciicast.remark(cast, f"what is {direction} from here on is not recorded")
        else:
            self._lose("recording-full", len(record.data))
            missing += len(record.data)
        recording = replace(
            recording,
            last_ns=record.at_ns,
            cast=cast,
            counted=counted,
            shown_bytes=recording.shown_bytes if typed else taken,
            typed_bytes=taken if typed else recording.typed_bytes,
            missing_bytes=recording.missing_bytes + missing,
        )
        self._append(name, recording, lines)

    def _append(self, name: str, recording: Recording, lines: bytes) -> None:
        if lines:
            try:
                self._files.append(name, recording.file_bytes, lines)
            except OSError as cause:
                log.warning("tap.recording_failed", reason=cause.strerror)
                self._lose("recording-failed", len(lines))
                recording = replace(recording, missing_bytes=recording.missing_bytes + len(lines))
            else:
                self._live_bytes += len(lines)
                recording = replace(recording, file_bytes=recording.file_bytes + len(lines))
        self.table.put(name, recording)

    def _end(self, name: str | None) -> None:
        """Take in that nothing more comes of a terminal."""
        if name is None:
            return
        recording = self._named(name)
        self._live.pop(recording.terminal, None)
        process = self._observer.find(recording.namespace, recording.pid)
        known = {} if process is None else self._observer.login_fields(process)
        draft = replace(recording.draft, fields={**recording.draft.fields, **known})
        self._append(name, replace(recording, draft=draft, ended=True), asciicast.ended(recording.cast))
        self._ended.set()

    async def _keep(self, name: str, recording: Recording) -> bool:
        """Bring one to the quarantine and tell of it; tell whether that was done."""
        try:
            kept = await asyncio.to_thread(self._quarantined, name, recording)
        except (DecnetError, OSError) as cause:
            log.warning("tap.quarantine_failed", reason=str(cause))
            return False
        self._emit(_told(recording, kept))
        if kept.stored_as is None:
            self._lose("quarantine-full", 1)
        self.table.pop(name)
        self._live_bytes -= recording.file_bytes
        self._files.mark_kept(name)
        self._commit()
        self._files.remove(name)
        return True

    def _quarantined(self, name: str, recording: Recording) -> Kept:
        fd = self._files.open(name)
        try:
            draft = recording.draft
            about: dict[str, object] = {
                "kind": "recording",
                "first_seen_at": draft.at.isoformat(),
                "decky": draft.decky,
            }
            about |= {"service": draft.service, "session": draft.session, "src_ip": draft.src_ip}
            return self._quarantine.keep(fd, {**about, "src_port": draft.src_port, **draft.fields})
        finally:
            os.close(fd)

    def _is_gone(self, recording: Recording) -> bool:
        process = self._observer.find(recording.namespace, recording.pid)
        # One that is not known may live all the same: its record found no room.
        return procs.namespace_of(recording.pid) != recording.namespace if process is None else process.ended

    def _named(self, name: str) -> Recording:
        recording = self.table.get(name)
        if recording is None:
            raise KeyError(name)
        return recording

    def _lose(self, reason: str, count: int) -> None:
        self._lost[reason] = self._lost.get(reason, 0) + count


def _same_holder(recording: Recording, record: TerminalRecord) -> bool:
    return (recording.pid, recording.started_ns) == (record.pid, record.started_ns)


def _told(recording: Recording, kept: Kept) -> Event:
    duration = timedelta(microseconds=(recording.last_ns - recording.begun_ns) // 1000)
    fields = {
        **recording.draft.fields,
        "sha256": kept.sha256,
        "size_bytes": str(kept.size_bytes),
        "duration_secs": f"{duration.total_seconds():.3f}",
    }
    if kept.stored_as is not None:
        fields["stored_as"] = kept.stored_as
    if kept.truncated or recording.missing_bytes:
        fields |= {"truncated": "true", "missing_bytes": str(recording.missing_bytes)}
    return replace(recording.draft, at=recording.draft.at + duration, fields=fields)
