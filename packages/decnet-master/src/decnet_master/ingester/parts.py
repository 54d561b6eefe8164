"""What one transaction stores: batches of the journal, read, sorted and summed. This blocks, so it runs in a thread."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from decnet_master.ingester.lines import Sorted
from decnet_master.journal.reader import Batch, JournalReader, Position

READ_BYTES = 1 << 20
"""Read from the journal at a time: thousands of lines."""


@dataclass(frozen=True, slots=True)
class Part:
    """Whole batches that follow one another, and what became of their lines.

    Attributes:
        batches: at least one.
        lines: what they became.
        count: lines in them.
        is_last: nothing durable stood behind them in the journal when they were read.
    """

    batches: list[Batch]
    lines: Sorted
    count: int
    is_last: bool

    @property
    def after(self) -> Position:
        """Where the journal is read from next."""
        return self.batches[-1].next


class PartReader:
    """Reads part after part; not to be called by two threads at once."""

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader
        self._waiting: deque[Batch] = deque()  # read already, the first of them stands at `_at`
        self._at: Position | None = None

    def read(self, position: Position, rows: int) -> Part | None:
        """Read the next part.

        Args:
            position: where to read from.
            rows: end it with the batch that makes it so many lines.

        Returns:
            None at the end of what is durable.

        Raises:
            RemoteProtocolError: the journal is damaged.
            Unavailable: the disk cannot be read.
        """
        if position != self._at:
            self._waiting.clear()
        self._at = position
        batches: list[Batch] = []
        lines = Sorted()
        count = 0
        while count < rows:
            if not self._waiting:
                self._waiting.extend(self._reader.read(batches[-1].next if batches else position, READ_BYTES))
                if not self._waiting:
                    break
            batch = self._waiting.popleft()
            batches.append(batch)
            lines.add(batch)
            count += len(batch.lines)
        if not batches:
            return None
        self._at = batches[-1].next
        lines.load.tally.fold()  # here, while the database stores the part before
        return Part(batches, lines, count, is_last=count < rows)
