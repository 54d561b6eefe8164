"""Handshakes that are begun and never ended, by the thousand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from types import TracebackType
from typing import Self

KEPT_OPEN = 400  # at a time, on our side: more than any server has under way
TURNS = 4  # of the loop for each: a server accepts one in two of its turns


class Flood:
    """`async with Flood(port, name) as flood: await flood.pour(10_000)`; what is still open ends with it.

    Args:
        port: on the loopback.
        server: name that is asked for.
    """

    def __init__(self, port: int, server: str) -> None:
        self._address = ("127.0.0.1", port)
        self._hello = _client_hello(server)
        self._open: deque[socket.socket] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            self._open.popleft().close()

    async def pour(self, count: int) -> None:
        """Begin so many handshakes; the oldest of ours end where there are too many."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            stranger = socket.socket()
            stranger.setblocking(False)
            self._open.append(stranger)
            with contextlib.suppress(ConnectionError):  # hung up on at once
                await loop.sock_connect(stranger, self._address)
                await loop.sock_sendall(stranger, self._hello)
            if len(self._open) > KEPT_OPEN:
                self._open.popleft().close()
            # The server's turn, which lives in this loop: a backlog that overflows would measure the kernel's patience.
            for _ in range(TURNS):
                await asyncio.sleep(0)


def _client_hello(server: str) -> bytes:
    """The first flight of a TLS client, and no more of it."""
    sent = ssl.MemoryBIO()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), sent, server_hostname=server)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return sent.read()
