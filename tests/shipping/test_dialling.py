"""An open connection: what of it has not arrived is counted wherever it waits, and nothing outlives its end."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import ssl
import termios
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from decnet_core.endpoints import Endpoint
from decnet_core.errors import TrustError, Unavailable
from decnet_core.identity import MASTER_HOST, Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import client_context, server_context
from decnet_core.shipping.control import ALPN
from decnet_core.shipping.sender import Limits
from decnet_logship.connection import Connection
from decnet_logship.dialling import Dialled, dial
from decnet_logship.tail import LogFile
from tests.shipping.place import Place
from tests.shipping.receiving import WAIT_SECS, reached, receiving
from tests.shipping.rotating import LABEL

MANY_BYTES = 24 << 20
"""More than the kernel's buffers of both sides take, so that the rest waits before them."""


@asynccontextmanager
async def deaf_receiver(place: Place) -> AsyncIterator[tuple[Dialled, ssl.SSLSocket]]:
    """A connection to somebody who shakes hands, and then reads when the test does."""
    files = KeyStore(place.master_data / "identities").load(Role.MASTER, datetime.now(UTC)).files
    own = KeyStore(place.worker_data / "identities").load(Role.LOGSHIP, datetime.now(UTC)).files
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT_SECS)

        def shake_hands() -> ssl.SSLSocket:
            connection = listening.accept()[0]
            connection.settimeout(WAIT_SECS)
            return server_context(files).wrap_socket(connection, server_side=True)

        accepted = asyncio.get_running_loop().run_in_executor(None, shake_hands)
        endpoint = Endpoint("127.0.0.1", listening.getsockname()[1])
        dialled = await dial(endpoint, client_context(own, own.ca), MASTER_HOST, WAIT_SECS)
        try:
            with await accepted as connection:
                yield dialled, connection
        finally:
            dialled.writer.transport.abort()


def arrived_bytes(connection: ssl.SSLSocket) -> int:
    """Count what a kernel has received and nobody has read."""
    waiting = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.FIONREAD, waiting)
    return waiting[0]


async def test_what_has_not_arrived_is_counted_wherever_it_waits(place: Place) -> None:
    async with deaf_receiver(place) as (dialled, connection):
        dialled.writer.write(b"x" * MANY_BYTES)
        await reached(lambda: dialled.wire.get_write_buffer_size() > 0, "that the kernel is full")
        left_bytes = dialled.unconfirmed_bytes()  # before the other end: what arrives meanwhile is counted twice
        assert left_bytes + arrived_bytes(connection) >= MANY_BYTES

        def read_all() -> int:
            count = 0
            while count < MANY_BYTES:
                count += len(connection.recv(1 << 20))
            return count

        assert await asyncio.to_thread(read_all) == MANY_BYTES
        await reached(lambda: dialled.unconfirmed_bytes() == 0, "the last confirmation")


async def test_of_a_connection_that_broke_nobody_knows_what_arrived(place: Place) -> None:
    async with deaf_receiver(place) as (dialled, _):
        dialled.writer.write(b"x")
        dialled.writer.transport.abort()
        with pytest.raises(Unavailable):
            dialled.unconfirmed_bytes()


async def test_a_stranger_and_nobody_are_told_apart(place: Place, tmp_path: Path) -> None:
    other = Place.make(tmp_path / "other")
    context = client_context(other.shipper.files, other.shipper.files.ca, (ALPN,))
    async with receiving(place) as master:
        endpoint = master.endpoint
        with pytest.raises(TrustError, match="not the receiver"):
            await dial(endpoint, context, MASTER_HOST, WAIT_SECS)
    with pytest.raises(Unavailable, match="Cannot reach"):
        await dial(endpoint, context, MASTER_HOST, WAIT_SECS)


async def test_who_never_shakes_hands_is_given_up(place: Place) -> None:
    files = place.shipper.files
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(Unavailable, match="no answer in time"):
            await dial(endpoint, client_context(files, files.ca), MASTER_HOST, 0.1)

        def heard() -> bytes:
            accepted = silent.accept()[0]
            accepted.settimeout(WAIT_SECS)
            with accepted:
                return b"".join(iter(lambda: accepted.recv(1 << 16), b""))

        assert (await asyncio.to_thread(heard))[:1] == b"\x16", "its first words, then the end"


class SlowFile(LogFile):
    """A file in which lines are counted until the test lets it be."""

    counting: threading.Event
    enough: threading.Event

    def seek(self, offset: int, *, anyway: bool = False) -> bool:
        self.counting.set()
        assert self.enough.wait(WAIT_SECS)
        return super().seek(offset, anyway=anyway)


class OneFile:
    """A source of one file; what it is told does not matter here."""

    def __init__(self, file: LogFile) -> None:
        self.file = file

    def next_file(self) -> LogFile | None:
        return self.file

    def is_final(self, _file: LogFile) -> bool:
        return False

    def finish(self, _file: LogFile) -> None:
        pass

    def replaced(self, _file: LogFile) -> None:
        pass

    def shortened(self, _file: LogFile, _offset: int) -> bool:
        return False

    def resumed(self, _file: LogFile, _offset: int) -> None:
        pass

    def sent(self) -> None:
        pass

    def acked(self, _file: LogFile, _offset: int) -> None:
        pass

    def cut(self) -> None:
        pass

    def skipped(self) -> None:
        pass


async def test_a_connection_that_is_ended_leaves_nobody_reading_in_its_file(place: Place) -> None:
    """Else the file is closed, and its descriptor's number another's, while lines are still counted."""
    path = place.folder / "their.log"
    path.write_bytes(b"line\n" * 1000)
    file = SlowFile.open(path)
    assert isinstance(file, SlowFile)
    file.generation, file.label = "0" * 32, LABEL
    file.counting, file.enough = threading.Event(), threading.Event()
    own = place.shipper.files
    async with receiving(place) as master:
        context = client_context(own, own.ca, (ALPN,))
        connection = await Connection.open(master.endpoint, context, WAIT_SECS, Limits(), OneFile(file))
        shipping = asyncio.create_task(connection.ship())
        await reached(file.counting.is_set, "counting")
        for _ in range(3):
            shipping.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
        assert not shipping.done()
        file.enough.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(shipping, WAIT_SECS)
        file.close()
