"""Which of one log's files is to be shipped next, and what becomes of each; `survey` looks at them.

    <path>                       the one that is written
    <path>.*, <path>-*           what it was rotated to, by rename or by copying and truncating

A file is a generation that is known (`generations`), by place and bytes; or, moved or copied, by its bytes; or, of our
own event log, by the generation in its first line. What is at the path and is none of these begins a generation, and
so does what was rotated while nobody looked: files younger than the last known generation that is no longer at the
path. Older ones were there before the log was followed and are left alone, and so is any second copy.

Our own event log is `events.log`; the agent rotates it by rename to `events.log.<generation>`, writes a generation into
each first line, and never writes a rotated file again. Once the master has such a file it is removed here. Nothing else
is ever removed or written by this program.

Rotation by rename: the open file is drained. It is final once another one stands at the path; of a log that others
write, only when it was not written for `LINGER_SECS`, because a daemon writes on until it is told to reopen.
Rotation by copy and truncation: a read finds the file `Replaced`; what the master lacks of it is read from the copy.

A file that cannot be looked at or read holds up no other: it is left out for a while, and said. What cannot be had is
said too: a generation that is gone before the master had it is `file.lost`, compressed files are not read, and a copy
made before the last lines were written loses them, which is that way of rotating.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog

from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_core.shipping.control import MAX_LINE_BYTES
from decnet_logship.generations import Generation, Register, boot_id
from decnet_logship.survey import Found, Place, Survey, is_copy, is_still, survey
from decnet_logship.tail import Foreign, LogFile, Replaced, unreadable

LINGER_SECS = 5.0
_TRIES = 3  # a rotation while we look; the next wake-up looks again
ASIDE_SECS = 300.0
"""After so long a rotated file that could not be read is tried again: a mode is set in minutes, a disk mended later."""

log = structlog.get_logger()


class Rotation:
    """The files of one log.

    Args:
        path: the log.
        register: remembers generations over restarts.
        label: stands before each line of a file that others write; None for our own event log.
        max_line_bytes: longer lines are cut.

    Attributes:
        path: as given.
        gaps, lost_bytes: generations that were gone before the master had them, and how much of them at least.
    """

    def __init__(
        self, path: Path, register: Register, label: bytes | None = None, max_line_bytes: int = MAX_LINE_BYTES
    ) -> None:
        self._register = register
        self._label = label
        self._max_line_bytes = max_line_bytes
        self._file: LogFile | None = None
        self._is_placed = False  # the master said where the file goes on
        self._queue: deque[Found] = deque()
        self._moved: dict[str, Place] = {}  # streams that were cut out of a file; its device and inode
        self._done: set[str] = set()  # streams of our own log that are finished, or were cut
        self._differing: set[str] = set()  # streams of which the master has another line than the file
        self._ignored: set[Path] = set()
        self._unread: set[Path] = set()  # of which was told that they cannot be looked at
        self._aside: dict[Place, float] = {}  # files that could not be read to their end: when to try again
        self.path = path
        self.gaps = 0
        self.lost_bytes = 0

    @property
    def is_ours(self) -> bool:
        """Whether it is the event log that the agent writes."""
        return self._label is None

    @property
    def file(self) -> LogFile | None:
        """The file that is being shipped."""
        return self._file

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._is_placed = False

    def next_file(self) -> LogFile | None:
        """Return the oldest file that the master is not known to have whole; None while there is none.

        It stays open in here, through any number of connections, until `finish`, `replaced` or `shortened`: what was
        rotated and compressed or removed meanwhile is still shipped.

        Raises:
            Foreign: what stands at the path is no regular file, or is no event log of ours.
            Unavailable: a file cannot be read, or its generation cannot be remembered.
        """
        for _ in range(_TRIES):
            if self._file is not None:
                break
            if not self._queue or self._queue[0].is_live:
                # What stands at the path may have been rotated, more than once, while the file before was shipped.
                self._queue = deque(self._to_ship())
            if self._queue:
                self._file = self._opened(self._queue.popleft())
        return self._file

    def is_final(self, file: LogFile) -> bool:
        """Tell whether the file grows no more; from then on a half line at its end counts.

        Raises:
            Unreadable: it cannot be read.
            Unavailable: what stands at the path cannot be looked at.
        """
        try:
            if file.is_at(self.path) or not _is_there(self.path):
                return False
            age_secs = time.time() - file.stat().st_mtime
            if not self.is_ours and 0 <= age_secs < LINGER_SECS:
                return False
            file.end_stream()
        except OSError as cause:
            raise unreadable(file.path, cause) from cause
        return True

    def set_aside(self) -> None:
        """Take note that the file cannot be read: a rotated one is tried again later, after the others.

        The log itself has none behind it; it is tried again like a master that is away.
        """
        file = self._file
        with suppress(Unavailable):  # the folder's fault is none of the file's
            if file is None or file.is_at(self.path) or not _is_there(self.path):
                return
            self._set_aside(file)

    def _set_aside(self, file: LogFile) -> None:
        there = file.stat()
        now = time.monotonic()
        self._aside = {place: until for place, until in self._aside.items() if now < until}
        self._aside[there.st_dev, there.st_ino] = now + ASIDE_SECS
        log.error("file.set_aside", path=str(file.path), stream=file.generation, again_in_secs=ASIDE_SECS)
        self._queue.clear()
        self.close()

    def placed(self, file: LogFile) -> None:
        """Take note that the master said where the file goes on, and that the file has that place."""
        self._is_placed = True
        self._moved.pop(file.generation, None)
        self.remember()

    def remember(self) -> None:
        """Take note of how far the file is acknowledged; `Register.write` makes it durable."""
        file = self._file
        if file is None or not self._is_placed:
            return
        with suppress(OSError, Replaced):
            file.prove()
            seen = Generation.of(file)
            file.prove()  # it was not truncated while it was looked at
            self._register.put(self.path, seen)

    def finish(self, file: LogFile) -> None:
        """Take note that the master has all lines of a final file; one that the agent rotated is removed.

        It is kept when the master has not acknowledged every byte of it as it is: one that grew all the same, or that
        holds another line than the master has.
        """
        is_whole = file.stat().st_size <= file.acked_bytes and file.generation not in self._differing
        self._end(file, "" if is_whole else "the master does not have all that it holds")

    def _end(self, file: LogFile, kept: str) -> None:
        """Be done with a file; if it is to be kept, for this reason."""
        size_bytes = file.stat().st_size
        log.info("stream.finished", stream=file.generation, size_bytes=size_bytes)
        self._done.add(file.generation)
        try:
            self._register.put(self.path, Generation.of(file, finished=True))
        except OSError as cause:  # the master has it all the same; the next start asks it
            kept = kept or unreadable(file.path, cause).message
        rotated = self.path.with_name(f"{self.path.name}.{file.generation}")
        if self.is_ours and file.is_at(rotated):
            with suppress(OSError):  # or a kill after the removal would make the next start report it as lost
                self._register.write()
            if not kept:
                kept = _removed(rotated)
            if kept:
                log.warning("file.kept", path=str(rotated), reason=kept)
            else:
                log.info("file.removed", path=str(rotated))
                self._register.drop(self.path, file.generation)
        self.close()

    def replaced(self, file: LogFile) -> None:
        """Take note that the file's bytes are other ones now; what the master lacks is looked for in a copy."""
        log.warning("file.truncated", path=str(file.path), stream=file.generation, acked_bytes=file.acked_bytes)
        there = file.stat()
        self._moved[file.generation] = (there.st_dev, there.st_ino)
        self._queue.clear()
        self.close()

    def shortened(self, file: LogFile, offset: int) -> bool:
        """Take note that a file does not hold the offset at which the master says that it goes on.

        A rotated file of which a power cut took the end, or a copy without the last lines, is finished. One that is
        long enough, but has other bytes before the offset than the master (a power cut took a block of it), is shipped
        from there on, and kept. A file that was cut while this machine ran goes on under another name, wherever it lies
        by now, and a copy of it is looked for. Our own event log after a power cut is left until the agent, which
        begins another file after each boot, has rotated it.

        Returns:
            whether it goes on, and stands there.

        Raises:
            RemoteProtocolError: it is to be tried again later.
            Replaced, Unavailable: as `LogFile.seek`.
        """
        known = self._register.find(self.path, file.generation)
        was_running = known is not None and known.boot_id == boot_id()
        if not file.is_at(self.path):
            # What lies where it lay was cut; what lies elsewhere is a copy, made too early.
            if was_running and known is not None and known.lay_at(file.stat()):
                self.replaced(file)
                return False
            is_final = self.is_final(file)  # from then on a half line at its end counts
            if file.seek(offset, anyway=True):
                log.error("stream.differed", path=str(file.path), stream=file.generation, offset=offset)
                self._differing.add(file.generation)
                return True
            if self.is_ours and not is_final:
                self.close()
                raise RemoteProtocolError(f"There is no {self.path}", "Start the agent, which begins a new file.")
            self._end(file, "")
        elif self.is_ours and not was_running:
            self.close()
            raise RemoteProtocolError(
                f"The event log's file {file.generation} was cut below what the master has ({offset} bytes)",
                "Nothing but the agent may write it; start the agent, which then begins a new file.",
            )
        else:
            self.replaced(file)
        return False

    def waiting(self) -> list[tuple[Path, int]]:
        """List the files that the master is not known to have whole, each with how many bytes it is known to have.

        Raises:
            Foreign, Unavailable: as `next_file`.
        """
        acked = {one.stream: one.acked_bytes for one in self._register.of(self.path)}
        found = self._survey()
        if found.live_fault is not None:
            raise found.live_fault
        return [(file.path, acked.get(file.stream, 0)) for file in found.files if self._is_wanted(file)]

    def _opened(self, found: Found) -> LogFile | None:
        file = LogFile.open(found.path, self._max_line_bytes)
        if file is None or not is_still(file, found):
            if file is not None:
                file.close()
            self._queue.clear()  # rotated meanwhile: look again
            return None
        known = self._register.find(self.path, found.stream)
        file.generation = found.stream
        file.label = (self._label or b"") if known is None else known.label.encode("ascii")
        file.acked_bytes = 0 if known is None else known.acked_bytes
        try:
            if known is None and found.stream != found.header:
                self._register.put(self.path, Generation.of(file))
                self._register.write()
        except OSError as cause:
            file.close()
            self._register.drop(self.path, found.stream)
            raise Unavailable(
                f"Cannot remember the generations of {self.path}: {cause.strerror}",
                "Let the user who runs logship write the data-directory.",
            ) from cause
        return file

    def _to_ship(self) -> list[Found]:
        """Find the files to ship, oldest first, and say what is gone."""
        found = self._survey()
        self._account(found)
        for file in found.files:
            if not file.stream and not file.is_live and file.path not in self._ignored:
                self._ignored.add(file.path)
                log.info("file.ignored", path=str(file.path), reason="a copy, older than what is followed, or no log")
        wanted = [file for file in found.files if self._is_wanted(file)]
        if found.live_fault is not None and not wanted:
            raise found.live_fault
        return wanted

    def _survey(self) -> Survey:
        """Look at all files, oldest first, name those that are generations, and tell of those that cannot be read."""
        known = {one.stream: one for one in self._register.of(self.path)}
        found = survey(self.path, known, self._done, self._moved, is_ours=self.is_ours)
        for path, (fault, _) in found.unread.items():
            if path not in self._unread and path != self.path:  # that one's ends the connection, which says why
                log.error("file.unreadable", path=str(path), reason=fault.message, advice=fault.advice)
        self._unread = set(found.unread)
        if found.live_fault is None:
            self._name_strangers(found.files, found.live, next(reversed(known.values()), None))
        return found

    def _is_wanted(self, found: Found) -> bool:
        known = self._register.find(self.path, found.stream)
        is_done = found.stream in self._done or (known is not None and known.finished)
        is_aside = time.monotonic() < self._aside.get(found.place, 0.0) and not found.is_live
        return bool(found.stream) and (found.grew or not is_done) and not is_aside

    def _name_strangers(self, files: list[Found], live: Found | None, youngest: Generation | None) -> None:
        """Give a generation to the file at the path, and to what was rotated while nobody looked.

        Raises:
            Foreign: the file at the path is no event log of ours.
        """
        agent_rotates = self.is_ours and live is not None and live.header != ""
        if youngest is not None and not agent_rotates and (live is None or live.stream != youngest.stream):
            bound = {found.stream: found for found in files if found.stream}
            at = bound.get(youngest.stream)
            since_ns = youngest.mtime_ns if at is None else at.stat.st_mtime_ns
            for found in files:
                is_younger = found.stat.st_mtime_ns > since_ns and not found.is_live
                if is_younger and not found.stream and not any(is_copy(found, one) for one in bound.values()):
                    found.stream = secrets.token_hex(16)
        if live is not None and not live.stream and live.stat.st_size:
            if self.is_ours and not live.header and youngest is None and not any(found.header for found in files):
                raise Foreign(
                    f"{self.path} is no event log of ours: its first line holds no generation",
                    "Restart the agent, which moves it aside and begins a new file.",
                )
            live.stream = secrets.token_hex(16)

    def _account(self, found: Survey) -> None:
        """Say what is gone, and forget what is finished and gone."""
        there = {file.stream for file in found.files}
        known = self._register.of(self.path)
        for one in known:
            is_youngest = one is known[-1]  # its time still tells what is younger
            if one.stream in there or (one.finished and is_youngest) or found.may_hide(one):
                continue
            lost_bytes = 0 if one.finished else one.size_bytes - one.acked_bytes
            if lost_bytes > 0:
                self.lost_bytes += lost_bytes
                self.gaps += 1
                log.error("file.lost", path=str(self.path), stream=one.stream, at_least_bytes=lost_bytes)
            if is_youngest:
                self._register.put(self.path, replace(one, finished=True))
            else:
                self._register.drop(self.path, one.stream)


def _is_there(path: Path) -> bool:
    """Tell whether something stands at a path; raises Unavailable when that cannot be told."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as cause:
        advice = "Let the user who runs logship read its folder."
        raise Unavailable(f"Cannot look at {path}: {cause.strerror}", advice) from cause
    return True


def _removed(path: Path) -> str:
    """Remove a file; return why it could not be done."""
    try:
        path.unlink()
    except OSError as cause:
        return cause.strerror or type(cause).__name__
    return ""
