"""Records that a stopped processor has not finished: what stands behind them is waited for, and never forgotten."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Callable, Iterator

import pytest

from decnet_agent.tap import intake
from decnet_agent.tap.fanotify import Written
from decnet_agent.tap.file_queue import Taken
from decnet_agent.tap.intake import Intake
from decnet_agent.tap.records import RECORDS_AT_ONCE, Records
from decnet_agent.tap.ring import Ring
from decnet_core.errors import RemoteProtocolError

RING_BYTES = 1 << 20
BUSY = 1 << 31


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not reached():
            await asyncio.sleep(0.001)


class Kernel:
    """The writing end of a ring, in memory: the layout that `ring` describes. It never waits for room."""

    def __init__(self) -> None:
        fd = os.memfd_create("ring")
        os.ftruncate(fd, 2 * mmap.PAGESIZE + RING_BYTES)
        self._memory = mmap.mmap(fd, 0)
        self._end = 0
        self.ring = Ring(fd, RING_BYTES)

    def reserve(self, text: bytes) -> int:
        """Take a record's room, as a processor does before it writes; give the place."""
        at = self._end
        self._put(at, (len(text) | BUSY).to_bytes(4, "little") + bytes(4) + text)
        self._end += 8 + len(text) + 7 & ~7
        self._memory[mmap.PAGESIZE : mmap.PAGESIZE + 8] = self._end.to_bytes(8, "little")
        return at

    def submit(self, at: int) -> None:
        """Finish a record."""
        data = 2 * mmap.PAGESIZE + at % RING_BYTES
        length = int.from_bytes(self._memory[data : data + 4], "little") & ~BUSY
        self._memory[data : data + 4] = length.to_bytes(4, "little")

    def _put(self, at: int, data: bytes) -> None:
        start = at % RING_BYTES
        fits = min(len(data), RING_BYTES - start)
        for place, piece in ((start, data[:fits]), (0, data[fits:])):
            begin = 2 * mmap.PAGESIZE + place
            self._memory[begin : begin + len(piece)] = piece

    def write(self, text: bytes) -> None:
        self.submit(self.reserve(text))


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.ring.close()


class Reader:
    """What is read of a ring, and how often it was made safe."""

    def __init__(self, kernel: Kernel) -> None:
        self.taken: list[bytes] = []
        self.commits = 0
        self.records = Records(kernel.ring, self._take, self._commit)

    def _take(self, data: bytes) -> None:
        if data == b"nonsense":
            raise RemoteProtocolError("It is no record")
        self.taken.append(data)

    def _commit(self) -> None:
        self.commits += 1


def test_what_stands_behind_an_unfinished_record_is_not_reached_before_that(kernel: Kernel) -> None:
    reader = Reader(kernel)
    kernel.write(b"first")
    busy = kernel.reserve(b"busy")
    kernel.write(b"writer")
    end = reader.records.end
    assert not reader.records.drain(end)
    assert not reader.records.drain()
    assert reader.taken == [b"first"]
    kernel.submit(busy)
    kernel.reserve(b"later")
    assert reader.records.drain(end)
    assert reader.taken == [b"first", b"busy", b"writer"]
    assert not reader.records.drain()


def test_a_record_that_wraps_is_given_whole(kernel: Kernel) -> None:
    texts = [bytes([number % 251]) * (997 + number % 8) for number in range(3 * RING_BYTES // 1000)]
    taken = []
    for text in texts:
        kernel.write(text)
        taken += kernel.ring.read(1)
        kernel.ring.consume()
    assert kernel.ring.end > 3 * RING_BYTES
    assert taken == texts


def test_a_record_that_cannot_be_read_stops_none_behind_it(kernel: Kernel) -> None:
    reader = Reader(kernel)
    kernel.write(b"nonsense")
    kernel.write(b"next")
    assert reader.records.drain()
    assert reader.taken == [b"next"]


def test_draining_takes_any_number_in_portions_that_are_made_safe(kernel: Kernel) -> None:
    reader = Reader(kernel)
    for _ in range(2 * RECORDS_AT_ONCE + 1):
        kernel.write(b"x")
    assert reader.records.drain()
    assert (len(reader.taken), reader.commits) == (2 * RECORDS_AT_ONCE + 1, 3)


class Files:
    """A queue of files: a pipe that is readable while there are some."""

    def __init__(self) -> None:
        self.fd, self._signal = os.pipe()
        self._files: list[Taken] = []

    def write(self, pid: int) -> None:
        self._files.append(Taken(Written(-1, pid), None))
        os.write(self._signal, b"!")

    def read(self, limit: int = 170) -> Iterator[Taken]:
        batch, self._files = self._files[:limit], self._files[limit:]
        for taken in batch:
            os.read(self.fd, 1)
            yield taken

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._signal)


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files()
    yield made
    made.close()


class Attribution:
    """Which records were known when each file was attributed."""

    def __init__(self, kernel: Kernel, files: Files, room: int = 100) -> None:
        self.reader = Reader(kernel)
        self.begun: list[tuple[int, list[bytes]]] = []
        self.empty = 0
        self.room = room
        self.intake = Intake(files, self.reader.records, self._begin, room=lambda: self.room, emptied=self._count_empty)

    def _begin(self, batch: list[Taken]) -> None:
        self.begun += [(taken.written.pid, list(self.reader.taken)) for taken in batch]
        self.room -= len(batch)

    def _count_empty(self) -> None:
        self.empty += 1


def test_a_file_waits_for_its_writer_s_record_and_for_no_later_one(kernel: Kernel, files: Files) -> None:
    attribution = Attribution(kernel, files)
    busy = kernel.reserve(b"busy")
    kernel.write(b"fork of 7")
    files.write(7)
    assert attribution.intake.take()
    later = kernel.reserve(b"later")
    assert attribution.intake.take()
    assert attribution.begun == []
    assert attribution.intake.waiting == 1
    kernel.submit(busy)
    assert attribution.intake.take()
    assert attribution.begun == [(7, [b"busy", b"fork of 7"])]
    assert not attribution.intake.take()
    assert attribution.empty == 1
    kernel.submit(later)


def test_a_record_that_is_never_finished_holds_files_up_for_a_while_only(
    kernel: Kernel, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "OVERDUE_SECS", 0.0)
    attribution = Attribution(kernel, files)
    kernel.reserve(b"busy")
    files.write(7)
    assert attribution.intake.take()
    assert attribution.begun == [(7, [])]


async def test_a_file_that_waits_is_attributed_though_nothing_else_happens(kernel: Kernel, files: Files) -> None:
    attribution = Attribution(kernel, files)
    attribution.intake.listen()
    try:
        busy = kernel.reserve(b"busy")
        kernel.write(b"fork of 7")
        files.write(7)
        await until(lambda: attribution.intake.waiting == 1)
        assert attribution.begun == []
        kernel.submit(busy)
        await until(lambda: bool(attribution.begun))
        files.write(8)
        await until(lambda: len(attribution.begun) == 2)
    finally:
        attribution.intake.stop()


async def test_without_room_files_stay_where_they_are(kernel: Kernel, files: Files) -> None:
    attribution = Attribution(kernel, files, room=1)
    attribution.intake.listen()
    try:
        files.write(7)
        files.write(8)
        await until(lambda: len(attribution.begun) == 1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert [pid for pid, _ in attribution.begun] == [7]
        attribution.room = 1
        attribution.intake.listen()
        await until(lambda: len(attribution.begun) == 2)
    finally:
        attribution.intake.stop()


async def test_who_must_know_all_up_to_now_waits_for_it(kernel: Kernel) -> None:
    reader = Reader(kernel)
    busy = kernel.reserve(b"busy")
    kernel.write(b"command")
    waiting = asyncio.create_task(intake.reached(reader.records))
    await asyncio.sleep(0)
    kernel.reserve(b"later")
    kernel.submit(busy)
    assert await asyncio.wait_for(waiting, 60)
    assert reader.taken == [b"busy", b"command"]


async def test_nobody_waits_for_ever(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "OVERDUE_SECS", 0.0)
    kernel.reserve(b"busy")
    assert not await intake.reached(Reader(kernel).records)
