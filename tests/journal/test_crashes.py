"""The journal through every crash that hypothesis can think of, with a reader that must never be wrong.

A crash leaves any part of an unfinished append behind the durable end, perhaps whole records of it, and any version
of the marker that was ever written, since that file is not synced. The model is the list of what was appended.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from decnet_master.journal.reader import START, Batch, JournalReader
from decnet_master.journal.record import Block, encode_block
from decnet_master.journal.segments import DURABLE_FILE, segment_path
from decnet_master.journal.writer import JournalWriter
from tests.journal.blocks import SENDER, block, hole

pytestmark = pytest.mark.long

STREAMS = ("s1", "s2")


class Journal(RuleBasedStateMachine):
    def __init__(self, parent: Path) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=parent))
        self.writer = JournalWriter.open(self.folder, segment_bytes=400)
        self.reader = JournalReader(self.folder)
        self.position = START
        self.appended: list[tuple[str, int, int, tuple[bytes, ...]]] = []
        self.taken: list[tuple[str, int, int, tuple[bytes, ...]]] = []
        self.ends = dict.fromkeys(STREAMS, 0)
        self.markers = [(self.folder / DURABLE_FILE).read_bytes()]

    def group(self, data: st.DataObject) -> list[Block]:
        """Draw blocks that follow what was appended."""
        ends, blocks = dict(self.ends), []
        for _ in range(data.draw(st.integers(1, 4))):
            stream = data.draw(st.sampled_from(STREAMS))
            if data.draw(st.integers(0, 9)) == 0:
                made = hole(ends[stream], ends[stream] + data.draw(st.integers(1, 9)), stream)
            else:
                made = block(ends[stream], *[b"x" * data.draw(st.integers(0, 60))], stream=stream)
            ends[stream] = made.end
            blocks.append(made)
        return blocks

    def count(self, blocks: list[Block]) -> None:
        for made in blocks:
            self.ends[made.stream] = made.end
            self.appended.append((made.stream, made.start, made.end, made.lines()))

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        blocks = self.group(data)
        self.writer.append(blocks)
        self.count(blocks)
        self.markers.append((self.folder / DURABLE_FILE).read_bytes())

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        end = self.writer.end
        self.writer.close()
        blocks = self.group(data)
        records = [encode_block(made) for made in blocks]
        raw = b"".join(records)
        left = raw[: data.draw(st.integers(0, len(raw)))]
        path = segment_path(self.folder, end.segment)
        with path.open("ab") as segment:
            segment.write(left)
        if data.draw(st.booleans()):
            (self.folder / DURABLE_FILE).write_bytes(data.draw(st.sampled_from(self.markers)))
        self.read(data)  # while nobody writes: never more than was durable
        if data.draw(st.booleans()):  # a power cut: what was not synced may be gone after all
            left = left[: data.draw(st.integers(0, len(left)))]
            os.truncate(path, end.offset + len(left))
        self.writer = JournalWriter.open(self.folder, segment_bytes=400)
        whole = 0
        while whole < len(records) and sum(map(len, records[: whole + 1])) <= len(left):
            whole += 1
        self.count(blocks[:whole])
        self.markers.append((self.folder / DURABLE_FILE).read_bytes())

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        batches: list[Batch] = self.reader.read(self.position, data.draw(st.sampled_from((1, 100, 1 << 20))))
        if batches:
            self.position = batches[-1].next
            self.taken += [(batch.stream, batch.start, batch.end, batch.lines) for batch in batches]

    @rule()
    def delete_what_was_read(self) -> None:
        self.reader.delete_before(self.position)

    @invariant()
    def the_reader_has_a_beginning_of_what_was_appended(self) -> None:
        assert self.taken == self.appended[: len(self.taken)]

    @invariant()
    def the_writer_knows_where_each_stream_is(self) -> None:
        assert {stream: self.writer.durable_offset(SENDER, stream) for stream in STREAMS} == self.ends

    def teardown(self) -> None:
        while batches := self.reader.read(self.position, 1 << 20):
            self.position = batches[-1].next
            self.taken += [(batch.stream, batch.start, batch.end, batch.lines) for batch in batches]
        self.writer.close()
        shutil.rmtree(self.folder)  # what an example that failed leaves, pytest removes
        assert self.taken == self.appended


def test_a_reader_of_a_journal_that_crashes_is_never_wrong(tmp_path: Path) -> None:
    run_state_machine_as_test(lambda: Journal(tmp_path), settings=settings(stateful_step_count=40))
