"""The kernel's queue of written files, twice, because what is read from it is gone with the process that read.

fanotify has no acknowledgement: an event that was read lives in a descriptor of ours until the file is kept, and a
SIGKILL takes it. So there are two groups with the same marks, and every event is in both:

    lead   is read and worked on
    rear   keeps an event (and the file itself, also when it has no name any more) until what lead gave of it is done;
           only then is it read there, and thrown away

Both are held by our supervisor. The next tap begins with what the dead one had in hand, which is the rear's (`left`),
and then catches up with the lead, whose copies are gone by then. An event that has no copy in the rear is left with our
supervisor as an open file, at once and until it is done: all of the lead's until we have caught up, and later what the
two groups do not hold alike. (They hold events in the same order, except for two files closed on two processors in the
same microsecond; and the kernel merges an event with an equal one that still waits. So events are matched by file and
writer. And when a copy is thrown away, an equal event that came before that moment may still wait in the lead, with no
copy of its own: it was merged into the one thrown away. So for as many events as wait in the lead just then, equal ones
count as having none.) Invariant: what is not done is in one of the groups or with the supervisor, but for the
microseconds between reading an event that has no copy and sending it there.

Whoever catches up meets events again that are done already; to recognise them is the caller's part.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from decnet_agent.tap.fanotify import READ_EVENTS, Fanotify, Written
from decnet_agent.tap.holdings import Holdings

MARGIN_EVENTS = 64
"""What may come between a look at one group and a look at the other: a few microseconds of the busiest machine."""

LAYOUT = "1"
"""Of the marks and of what an event holds; another layout's groups are not taken over."""

Key = tuple[int, int, int]
"""Device, inode, pid of the writer."""
State = tuple[int, int]
"""When a file was last changed in any way (ns; who writes it cannot set that back), and its size."""

_HELD = re.compile(rf"file\.{LAYOUT}\.([0-9]{{1,10}})\.[0-9a-f]+")


@dataclass(slots=True, eq=False)
class Taken:
    """An event in hand. `key` is None for one that names no file: the queue overflowed."""

    written: Written
    key: Key | None
    state: State = (0, 0)
    copied: bool = False
    """Whether the rear holds a copy."""
    held: str = ""
    """Under which name our supervisor has its file."""
    done: bool = False


class FileQueue:
    """Both groups; `fd` becomes readable when there is something.

    Attributes:
        taken_over: whether an earlier tap made them.
        caught_up: whether all is read that came before us.

    Raises:
        Unavailable: the kernel or its policy forbids it.
    """

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        names = f"lead.{LAYOUT}", f"rear.{LAYOUT}"
        self.taken_over = set(names) <= set(holdings.names())
        self.caught_up = not self.taken_over
        if self.taken_over:
            self._lead, self._rear = (Fanotify(holdings.take(name)) for name in names)
        else:
            self._lead, self._rear = Fanotify(), Fanotify()
            for name, group in zip(names, (self._lead, self._rear), strict=True):
                holdings.keep(name, group.fd)
        self._left = [self._take_held(match) for name in holdings.names() if (match := _HELD.fullmatch(name))]
        self._in_hand: deque[Taken] = deque()
        self._given = 0
        """Events that the lead gave."""
        self._uncopied: OrderedDict[Key, int] = OrderedDict()
        """Files whose copy was thrown away, and up to which event of the lead that may have been another's too."""

    @property
    def fd(self) -> int:
        """What to wait on."""
        return self._lead.fd

    @property
    def waiting(self) -> int:
        """Tell how many events wait."""
        return len(self._left) + self._lead.queued

    def watch(self, directory_fd: int) -> None:
        """Mark the filesystem of an open directory; again is harmless.

        Raises:
            Unavailable: the kernel refused.
        """
        self._rear.watch(directory_fd)
        self._lead.watch(directory_fd)

    def left(self) -> Taken | None:
        """Give the next event that an earlier tap had in hand, or may have had; None at the end.

        To be called to the end before the first `read`. Each is to be brought to `finish`.
        """
        if self._left:
            return self._left.pop(0)
        for written in self._rear.read(1):
            taken = _taken(written)
            self._hold(taken)
            if taken.key is not None:
                self._note_uncopied(taken.key)
            return taken
        return None

    def read(self, limit: int = READ_EVENTS) -> Iterator[Taken]:
        """Give what is there now, one batch; each is to be brought to `finish`, and its descriptor to be closed."""
        waiting = {taken.key for taken in self._in_hand}
        nothing = True
        for written in self._lead.read(limit if self.caught_up else 1):
            nothing = False
            taken = _taken(written)
            self._given += 1
            taken.copied = self.caught_up and taken.key not in waiting and not self._may_lack_copy(taken.key)
            if not taken.copied:
                self._hold(taken)
            waiting.add(taken.key)
            self._in_hand.append(taken)
            yield taken
        if nothing:
            self.caught_up = True
            self._uncopied.clear()

    def finish(self, taken: Taken) -> None:
        """Take in that an event is done: what was made of it is safe. Its copy and all before it are thrown away."""
        taken.done = True
        if taken.held:
            self._holdings.let_go(taken.held)
        expected: set[Key | None] = set()
        while self._in_hand and self._in_hand[0].done:
            first = self._in_hand.popleft()
            if first.copied:
                expected.add(first.key)
        while expected:
            copy = next(self._rear.read(1), None)
            if copy is None:
                return
            key = _taken(copy).key
            if copy.fd >= 0:
                os.close(copy.fd)
            if key is None:
                continue
            if key in expected:
                expected.discard(key)
                self._note_uncopied(key)
            else:
                self._given_out_of_turn(key)

    def close(self) -> None:
        """Close our descriptors; marks and events stay while our supervisor holds them."""
        for taken in self._left:
            os.close(taken.written.fd)
        self._lead.close()
        self._rear.close()

    def _take_held(self, match: re.Match[str]) -> Taken:
        taken = _taken(Written(self._holdings.take(match[0]), int(match[1])))
        taken.held = match[0]
        return taken

    def _hold(self, taken: Taken) -> None:
        if taken.key is not None:
            taken.held = f"file.{LAYOUT}.{taken.written.pid}.{secrets.token_hex(3)}"
            self._holdings.keep(taken.held, taken.written.fd)

    def _given_out_of_turn(self, key: Key) -> None:
        """Note that the rear has given the copy of an event that is not done, or that the lead has still to give."""
        for taken in self._in_hand:
            if taken.key == key and taken.copied:
                taken.copied = False
                self._hold(taken)
        self._note_uncopied(key)

    def _note_uncopied(self, key: Key) -> None:
        waiting = self._lead.queued
        if waiting:
            self._uncopied[key] = self._given + waiting + MARGIN_EVENTS
            self._uncopied.move_to_end(key)
        while self._uncopied and next(iter(self._uncopied.values())) < self._given:
            self._uncopied.popitem(last=False)

    def _may_lack_copy(self, key: Key | None) -> bool:
        return key is not None and self._uncopied.get(key, 0) >= self._given


def _taken(written: Written) -> Taken:
    if written.fd < 0:
        return Taken(written, None)
    status = os.fstat(written.fd)
    return Taken(written, (status.st_dev, status.st_ino, written.pid), (status.st_ctime_ns, status.st_size))
