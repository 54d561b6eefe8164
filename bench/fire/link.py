"""A network that fails: a forwarder on loopback between the senders and the listener, in a thread of its own.

    cut       every connection is reset, at whatever byte it stands
    freeze    what is connected now stands still, and goes on at `thaw`: by then its sender has often given it up and
              connected anew, so that the listener hears frames of a connection that is dead for everybody else
    swallow   everything is taken and nothing delivered, for new connections too; what was connected or tried in the
              meantime stays dead after `deliver`, until its sender gives it up

Bytes are never changed or reordered: TLS would notice, and a network does not do it either.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_READ_BYTES = 64 << 10
_BUFFERED_BYTES = 256 << 10


class Link:
    """Forwards to a port of loopback while the block runs; `port` is its own."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._pairs: set[_Pair] = set()
        self._swallows = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection."""
        self._each(lambda pair: pair.abort())

    def freeze(self) -> None:
        """Let what is connected stand still."""
        self._each(lambda pair: pair.moves.clear())

    def thaw(self) -> None:
        """Let what stands still go on, with all that it held back."""
        self._each(lambda pair: pair.moves.set())

    def swallow(self) -> None:
        """Deliver nothing any more."""
        self._loop.call_soon_threadsafe(self._set_swallows, True)
        self._each(lambda pair: pair.die())

    def deliver(self) -> None:
        """Deliver what new connections bring."""
        self._loop.call_soon_threadsafe(self._set_swallows, False)

    def _set_swallows(self, swallows: bool) -> None:
        self._swallows = swallows

    def _each(self, act: Callable[[_Pair], None]) -> None:
        def do() -> None:
            for pair in list(self._pairs):
                act(pair)

        self._loop.call_soon_threadsafe(do)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._forward, "127.0.0.1", 0, limit=_READ_BYTES)

    async def _end(self) -> None:
        assert self._server is not None  # noqa: S101 -- it was entered
        self._server.close()
        for pair in list(self._pairs):
            pair.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer)
        self._pairs.add(pair)
        try:
            if self._swallows:
                pair.die()
                await pair.pump(reader, None)
                return
            try:
                there, back = await asyncio.open_connection("127.0.0.1", self._target_port, limit=_READ_BYTES)
            except OSError:  # the listener is down just now
                return
            pair.ends.append(back)
            back.transport.set_write_buffer_limits(_BUFFERED_BYTES)
            await asyncio.gather(pair.pump(reader, back), pair.pump(there, writer))
        finally:
            pair.abort()
            self._pairs.discard(pair)


class _Pair:
    """A connection and what it is forwarded to."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.ends = [writer]
        self.moves = asyncio.Event()
        self.moves.set()
        self._dead = False

    def abort(self) -> None:
        """Reset both ends."""
        for end in self.ends:
            end.transport.abort()

    def die(self) -> None:
        """Take everything from now on and deliver nothing."""
        self._dead = True

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> None:
        """Move bytes one way until either end is gone, then end both."""
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                await self.moves.wait()
                if not self._dead and writer is not None:
                    writer.write(data)
                    await writer.drain()
            await self.moves.wait()
        if self._dead or writer is None:
            self.abort()  # nothing that was swallowed comes through after all
        else:
            writer.close()
