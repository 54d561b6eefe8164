"""Open a TLS connection to a receiver, say clearly why there is none, and count what of it has not arrived."""

from __future__ import annotations

import array
import asyncio
import fcntl
import ssl
import termios
from dataclasses import dataclass

from decnet_core.endpoints import Endpoint
from decnet_core.errors import TrustError, Unavailable

READ_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Dialled:
    """An open connection.

    Attributes:
        reader, writer: what is said on it.
        wire: carries what TLS makes of that.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    wire: asyncio.WriteTransport

    def unconfirmed_bytes(self) -> int:
        """Count what was written and the peer's kernel has not confirmed, wherever it waits.

        What TLS has still to make records of, the records that wait for room in the socket, and what our kernel keeps
        until it is confirmed (SIOCOUTQ of tcp(7)). The first are bytes of the text, the others of its encryption.

        Raises:
            Unavailable: the connection is closed, so that nobody knows.
        """
        if self.writer.transport.is_closing() or self.wire.is_closing():
            raise Unavailable("The connection to the receiver broke", "The receiver's log says why.")
        in_kernel = array.array("i", [0])
        fcntl.ioctl(self.wire.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_kernel)
        return self.writer.transport.get_write_buffer_size() + self.wire.get_write_buffer_size() + in_kernel[0]


async def dial(endpoint: Endpoint, context: ssl.SSLContext, server_name: str, connect_secs: float) -> Dialled:
    """Dial and shake hands; the certificate must name `server_name`.

    Raises:
        Unavailable: nobody answers.
        TrustError: who answers is somebody else.
    """
    try:
        async with asyncio.timeout(connect_secs):
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=READ_BYTES)
            # TLS begins with the first byte; asked for in two steps, because only so the wire below it is ours to see.
            wire = writer.transport
            try:
                await writer.start_tls(context, server_hostname=server_name)
            except BaseException:
                wire.abort()
                raise
            return Dialled(reader, writer, wire)
    except ssl.SSLError as cause:
        why = getattr(cause, "verify_message", None) or cause.reason or "the handshake failed"
        raise TrustError(
            f"What answers at {endpoint} is not the receiver of this worker's log: {why}",
            "Correct the setting master; if the master's CA was made anew, join again.",
        ) from cause
    except (OSError, TimeoutError) as cause:
        why = getattr(cause, "strerror", None) or "no answer in time"
        raise Unavailable(f"Cannot reach the master at {endpoint}: {why}", "Start its listener.") from cause
