"""Accept TLS connections without letting strangers take up the process's memory or descriptors.

asyncio's own server accepts whoever comes and waits for each handshake: a peer without any certificate that opens a
thousand connections and sends nothing costs a daemon all its descriptors and, at 0.2 MB each, memory that it never
gives back (measured: 60 MB became 378). Here at most `max_handshakes` are under way. One more ends the oldest, which
has had its chance: an honest handshake is over in milliseconds, so that silent peers do not keep the others waiting.
Nothing of TLS is made for a peer before its first byte (12,000 silent ones: 58 MB stayed 58).

Where `max_connections` is given, those whose handshake is over are bounded too: one more ends the oldest of the address
that has the most (`decnet_core.crowd`). That is for servers that ask for no certificate, where strangers who finish
their handshakes and fall silent would else have all the places; where each peer holds a certificate of the private CA,
whom to turn away is the protocol's to say.

Each handshake that fails by what the peer shows or speaks (an ended certificate, one of another CA, none, an old TLS)
is told with its address and reason, `TOLD_AT_ONCE` a minute; of the rest the next line says how many they were. A
server that counts refusals itself tells of them itself. Who says nothing or hangs up is no refusal.

The buffers that asyncio keeps for each TLS connection are bounded for the whole process.

What it does not do: stand a flood of packets, which is the network's task.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable

import structlog

from decnet_core.crowd import Crowd
from decnet_core.pki.tls import bound_connection_memory

MAX_HANDSHAKES = 64
"""A master that talks to an agent makes one; eight megabytes when strangers fill them all."""

GOODBYE_SECS = 3.0
"""How long a peer may take to answer the end of its connection; asyncio's own 30 s would outlast our stopping."""

ACCEPT_RETRY_SECS = 0.1
"""After a failed accept: out of descriptors, which passes, and is not to be asked for in a tight loop."""

TELL_SECS = 60.0

TOLD_AT_ONCE = 20
"""Lines about failed handshakes in TELL_SECS: enough to see a mishap by, too few for strangers to fill a disk with."""

log = structlog.get_logger()


class TlsServer:
    """Accepts from its making on, in the running loop; ends like an `asyncio.Server`.

    Args:
        listener: bound, listening and non-blocking; closed at the end.
        context: of the server's side.
        protocol: makes the protocol of a connection, which hears of it once the handshake is over.
        handshake_secs: how long one may take.
        max_handshakes: how many may be under way.
        max_connections: how many connections may be; None where the protocol bounds them itself.
        refused: told the address and the reason of each connection that got no further, so that it can be counted and
            told; None leaves the telling to this server.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        protocol: Callable[[], asyncio.Protocol],
        *,
        handshake_secs: float,
        max_handshakes: int = MAX_HANDSHAKES,
        max_connections: int | None = None,
        refused: Callable[[str, str], None] | None = None,
    ) -> None:
        bound_connection_memory()
        self._tells = refused is None
        self._refused = refused or (lambda _address, _why: None)
        self._listener, self._context = listener, context
        self._protocol = protocol
        if max_connections is not None:
            self._protocol = Crowd(protocol, max_connections, lambda: self._tell_cut_connection(max_connections)).enter
        self._handshake_secs, self._max_handshakes = handshake_secs, max_handshakes
        self._handshakes: dict[asyncio.Task[None], socket.socket] = {}  # oldest first
        self._cut = self._cut_connections = 0
        self._told_at = self._told_connections_at = self._telling_since = -TELL_SECS
        self._told_failures = self._untold_failures = 0
        self._accepting = asyncio.get_running_loop().create_task(self._accept(), name="accept")

    def close(self) -> None:
        """Accept no more and end the handshakes under way; connections live on."""
        asyncio.get_running_loop().remove_reader(self._listener)  # at once: its owner may close it next
        self._accepting.cancel()
        for accepted in self._handshakes.values():
            _hang_up(accepted)

    async def serve_forever(self) -> None:
        """Wait until cancelled; raises what ended the accepting, if anything did."""
        await asyncio.shield(self._accepting)

    async def wait_closed(self) -> None:
        """Wait until all that `close` ended has ended."""
        await asyncio.gather(self._accepting, *self._handshakes, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._listener)
            except OSError as error:  # out of descriptors, or the peer has gone already
                self._refused("", error.strerror or "accept failed")
                await asyncio.sleep(ACCEPT_RETRY_SECS)
                continue
            task = loop.create_task(self._shake_hands(accepted, str(address[0])), name="handshake")
            self._handshakes[task] = accepted
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))
            if len(self._handshakes) > self._max_handshakes:
                self._end_oldest()
            await asyncio.sleep(0)  # a full backlog is accepted without a pause, and what was ended wants a turn to end

    async def _shake_hands(self, accepted: socket.socket, address: str) -> None:
        try:
            if not await _speaks(accepted, self._handshake_secs):
                accepted.close()
                self._refused(address, "silent")
                return
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_secs,
                ssl_shutdown_timeout=GOODBYE_SECS,
            )
        except OSError as error:  # ssl.SSLError and TimeoutError are such
            accepted.close()
            why = getattr(error, "verify_message", None) or getattr(error, "reason", None) or type(error).__name__
            if self._tells and isinstance(error, ssl.SSLError):
                self._tell_failure(address, why)
            self._refused(address, why)

    def _tell_failure(self, address: str, why: str) -> None:
        now = time.monotonic()
        if now - self._telling_since >= TELL_SECS:
            self._telling_since, self._told_failures = now, 0
        if self._told_failures >= TOLD_AT_ONCE:
            self._untold_failures += 1
            return
        self._told_failures += 1
        log.warning("handshake.failed", address=address, reason=why, untold=self._untold_failures)
        self._untold_failures = 0

    def _end_oldest(self) -> None:
        _hang_up(self._handshakes.pop(next(iter(self._handshakes))))
        self._cut += 1
        now = time.monotonic()
        if now - self._told_at >= TELL_SECS:
            log.warning("handshakes.cut", count=self._cut, limit=self._max_handshakes)
            self._told_at, self._cut = now, 0

    def _tell_cut_connection(self, limit: int) -> None:
        self._cut_connections += 1
        now = time.monotonic()
        if now - self._told_connections_at >= TELL_SECS:
            log.warning("connections.cut", count=self._cut_connections, limit=limit)
            self._told_connections_at, self._cut_connections = now, 0


async def _speaks(accepted: socket.socket, within_secs: float) -> bool:
    """Wait for a peer's first byte, which is the client's to send; nothing is built for one that says nothing."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(accepted, readable.set)
    try:
        async with asyncio.timeout(within_secs):
            await readable.wait()
    finally:
        loop.remove_reader(accepted)
    return bool(accepted.recv(1, socket.MSG_PEEK))


def _hang_up(accepted: socket.socket) -> None:
    """End a handshake by its socket: a task that is cancelled before asyncio has begun with it leaves it open."""
    with contextlib.suppress(OSError):  # it has ended by itself
        accepted.shutdown(socket.SHUT_RDWR)
