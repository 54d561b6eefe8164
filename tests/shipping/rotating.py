"""A log that is rotated, and the simplest sender and receiver that there can be, joined in one.

`Reader` takes the files that `Rotation` offers and remembers by stream how far it came, as a master does. Its
connection may break at any line, and before or after the acknowledgement.
"""

import os
import shutil
import time
from pathlib import Path

from decnet_logship.generations import Register
from decnet_logship.rotation import LINGER_SECS, Rotation
from decnet_logship.tail import Cut, Hole, LogFile, Replaced

LABEL = b"<134>1 - w1 their.log - - - "
MOST_ROTATED = 40


class Reader:
    """Reads all there is; `restart` is a new process with what was written down."""

    def __init__(self, path: Path, *, ours: bool = False) -> None:
        self.path = path
        self.ours = ours
        self.master: dict[str, list[bytes]] = {}
        self.ends: dict[str, int] = {}
        self._room: int | None = None  # how many lines arrive before the connection breaks
        self._acks = True
        self.state = path.parent / "state" / "files.json"
        self.restart()

    def restart(self) -> None:
        """Begin anew with what was written down, as after kill -9."""
        self.register = Register(self.state)
        self.rotation = Rotation(self.path, self.register, None if self.ours else LABEL, 8192)

    def read(self) -> None:
        """Read until nothing is left, and write down how far."""
        self.ship(None)
        self.remember()

    def remember(self) -> None:
        """Write down how far it came, as the daemon does every second while something happens."""
        self.rotation.remember()
        self.register.write()

    def ship(self, count: int | None, *, acked: bool = True) -> None:
        """Connect, and read until nothing is left, or until the connection breaks; nothing is written down.

        Args:
            count: so many lines arrive; what else was read by then does not. None for a connection that holds.
            acked: whether it is heard that they arrived.
        """
        self._room, self._acks = count, acked
        for _ in range(200):
            file = self.rotation.next_file()
            if file is None:
                return
            offset = self.ends.get(file.generation, 0)
            try:
                if not file.seek(offset) and not self.rotation.shortened(file, offset):
                    continue
                self.rotation.placed(file)
                final = self.rotation.is_final(file)
                if not self._take(file) or not final:
                    return
            except Replaced:
                self.rotation.replaced(file)
            else:
                self.rotation.finish(file)

    def _take(self, file: LogFile) -> bool:
        """Read to the end; False when the connection broke."""
        stream = file.generation
        while (piece := file.read()) is not None:
            if isinstance(piece, Hole):
                self.ends[stream] = file.offset
                continue
            lines = text_of(piece).split(b"\n")[:-1]
            arrived = lines[: self._room]
            is_broken = len(arrived) < len(lines)
            if arrived:
                self.master.setdefault(stream, []).extend(arrived)
            arrived_bytes = sum(len(line) + 1 for line in arrived)
            self.ends[stream] = self.ends.get(stream, 0) + arrived_bytes if is_broken else file.offset
            if self._acks:
                file.acked(self.ends[stream])
            if is_broken:
                return False
            self._room = None if self._room is None else self._room - len(arrived)
        return True

    @property
    def lines(self) -> list[bytes]:
        """Everything that the master has, without labels, in the order of its streams."""
        prefix = b"" if self.ours else LABEL
        assert all(line.startswith(prefix) for lines in self.master.values() for line in lines)
        return [line.removeprefix(prefix) for lines in self.master.values() for line in lines]


def text_of(piece: bytes | Cut) -> bytes:
    return piece.line if isinstance(piece, Cut) else piece


class Their:
    """A log as other programs write it, with the ways in which it is rotated."""

    def __init__(self, path: Path, beginning: bytes = b"", *, recent: bool = False) -> None:
        self.path = path
        self.beginning = beginning
        self.written: list[bytes] = []
        self.count = 0
        self.recent = recent  # all of it was written a moment ago, so that no rotated file is final
        self.now = time.time() - (1 if recent else 10_000)
        self.write(3)

    def write(self, count: int, padding: int = 60) -> None:
        """Append numbered lines; a file that is new begins with the same words as all before it."""
        lines = [b"line %d %s" % (self.count + number, b"x" * padding) for number in range(count)]
        if self.beginning and not (self.path.exists() and self.path.stat().st_size):
            lines.insert(0, self.beginning)
        with self.path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))
        self.count += count
        self.written += lines
        self.later()

    def later(self) -> None:
        """Let time pass; unless all is recent, so much that a rotated file counts as final."""
        self.now += 0.001 if self.recent else 2 * LINGER_SECS
        os.utime(self.path, (self.now, self.now))

    def settle(self) -> None:
        """Make files that were written a moment ago final: of the future, which is not a moment ago either."""
        for path in self.path.parent.glob(f"{self.path.name}*"):
            written_at = path.stat().st_mtime + 10_000
            os.utime(path, (written_at, written_at))
        self.now += 10_000
        self.recent = False

    def shift(self) -> None:
        """Move .2 to .3 and .1 to .2, and so on, as logrotate does."""
        for number in range(MOST_ROTATED, 0, -1):
            old = self.path.with_name(f"{self.path.name}.{number}")
            if old.exists():
                old.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))

    def rotate_by_rename(self) -> None:
        self.shift()
        self.path.rename(self.path.with_name(f"{self.path.name}.1"))
        self.write(1)

    def rotate_by_copy(self) -> None:
        self.shift()
        copy = self.path.with_name(f"{self.path.name}.1")
        shutil.copyfile(self.path, copy)
        self.now += 0.0001 if self.recent else 1
        os.utime(copy, (self.now, self.now))
        os.truncate(self.path, 0)
