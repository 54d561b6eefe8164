"""The table of a journal: up to which byte each stream is durable.

Bounded: of one identity the `STREAMS_PER_IDENTITY` streams that moved last are kept. A worker's log keeps fewer
rotated files than that, so a stream that is forgotten here no longer exists there and cannot come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from decnet_master.journal.record import Key

STREAMS_PER_IDENTITY: Final = 256


class OffsetTable:
    """(identity, stream) -> end offset; written by one thread, readable from another at any moment."""

    def __init__(self, streams_per_identity: int = STREAMS_PER_IDENTITY) -> None:
        self._bound = streams_per_identity
        self._streams: dict[str, dict[str, tuple[int, int]]] = {}  # identity -> stream -> (when it moved, offset)
        self._moves = 0

    def get(self, key: Key) -> int:
        """Return the offset, 0 for a stream that is not known."""
        return self._streams.get(key[0], {}).get(key[1], (0, 0))[1]

    def update(self, moved: Mapping[Key, int]) -> None:
        """Set new offsets, and forget the streams that are too many."""
        for (identity, stream), end in moved.items():
            streams = self._streams.setdefault(identity, {})
            self._moves += 1
            streams[stream] = (self._moves, end)
            if len(streams) > self._bound:
                del streams[min(streams, key=streams.__getitem__)]

    def entries(self) -> dict[Key, int]:
        """Return all of it, the stream that moved last at the end."""
        every = [
            (when, identity, stream, end)
            for identity, streams in self._streams.items()
            for stream, (when, end) in streams.items()
        ]
        return {(identity, stream): end for _, identity, stream, end in sorted(every)}
