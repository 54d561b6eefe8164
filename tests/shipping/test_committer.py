"""Group commit: who is told what, and that one bad block or a cancellation harms nobody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from decnet_core.errors import LocalProtocolError
from decnet_master.journal.record import Block
from decnet_master.journal.writer import JournalWriter
from decnet_master.listener.committer import BLOCK_BYTES, FULL_BYTES, GROUP_BYTES, Committer
from tests.journal.blocks import SENDER, block, hole
from tests.shipping.receiving import reached


class Owner:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.rejected: list[int] = []

    def submit(self, committer: Committer, *blocks: Block) -> None:
        for made in blocks:
            committer.submit(
                made, 1, lambda one: self.done.append(one.end), lambda one: self.rejected.append(one.start)
            )


@asynccontextmanager
async def committing(writer: JournalWriter) -> AsyncIterator[Committer]:
    committer = Committer(writer)
    task = asyncio.create_task(committer.run())
    try:
        yield committer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()


async def test_blocks_of_one_group_are_told_with_the_last(tmp_path: Path) -> None:
    async with committing(JournalWriter.open(tmp_path)) as committer:
        one, other = Owner(), Owner()
        one.submit(committer, block(0, b"a"), block(2, b"b"), block(4, b"c"))
        other.submit(committer, block(0, b"x", stream="s2"))
        assert committer.waiting_bytes == 8 + 4 * BLOCK_BYTES
        await committer.settled((SENDER, "s1"))
        await reached(lambda: (one.done, other.done) == ([6], [2]), "the last of each")
        assert (committer.counts.appends, committer.counts.blocks, committer.waiting_bytes) == (1, 4, 0)
        assert committer.durable_offset((SENDER, "s1")) == 6
        await committer.settled((SENDER, "never heard of"))


async def test_blocks_without_data_fill_the_memory_too(tmp_path: Path) -> None:
    async with committing(JournalWriter.open(tmp_path)) as committer:
        owner = Owner()
        most = FULL_BYTES // BLOCK_BYTES
        owner.submit(committer, *(hole(number, number + 1) for number in range(most)))
        assert committer.full
        await reached(lambda: owner.done[-1:] == [most], "all of them")
        assert (committer.waiting_bytes, committer.full) == (0, False)
        assert committer.counts.appends >= FULL_BYTES // GROUP_BYTES


async def test_a_bad_block_is_rejected_alone(tmp_path: Path) -> None:
    async with committing(JournalWriter.open(tmp_path)) as committer:
        good, bad = Owner(), Owner()
        good.submit(committer, block(0, b"a"))
        bad.submit(committer, block(7, b"gap", stream="s2"))
        good.submit(committer, block(2, b"b"))
        await reached(lambda: bad.rejected == [7] and good.done[-1:] == [4], "both told")
        assert bad.done == []


@pytest.mark.parametrize("error", [LocalProtocolError("out of turn"), RuntimeError("closed")])
async def test_an_owner_that_cannot_be_told_is_ended_alone(tmp_path: Path, error: Exception) -> None:
    def fail(_block: Block) -> None:
        raise error

    ended: list[str] = []
    async with committing(JournalWriter.open(tmp_path)) as committer:
        good = Owner()
        with capture_logs() as logs:
            committer.submit(block(0, b"x", stream="s2"), 1, fail, fail, lambda: ended.append("done"))
            good.submit(committer, block(0, b"a"))
            await reached(lambda: good.done == [2], "the other of the group")
            committer.submit(block(9, b"gap", stream="s3"), 1, fail, fail, lambda: ended.append("rejected"))
            good.submit(committer, block(2, b"b"))
            await reached(lambda: good.done == [2, 4], "the other of the next group")
        assert ended == ["done", "rejected"]
        assert [line["stream"] for line in logs if line["event"] == "owner.failed"] == ["s2", "s3"]
        assert committer.waiting_bytes == 0


async def test_a_cancelled_append_is_finished_before_the_writer_is_closed(tmp_path: Path) -> None:
    async with committing(JournalWriter.open(tmp_path)) as committer:
        Owner().submit(committer, block(0, *[b"x" * 1000] * 4000))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    writer = JournalWriter.open(tmp_path)
    assert writer.durable_offset(SENDER, "s1") == 4_004_000
    writer.close()
