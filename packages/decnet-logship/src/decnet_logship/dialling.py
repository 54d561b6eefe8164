"""Open a TLS connection to a receiver, and say clearly why there is none."""

from __future__ import annotations

import asyncio
import ssl

from decnet_core.endpoints import Endpoint
from decnet_core.errors import TrustError, Unavailable

READ_BYTES = 64 << 10


async def dial(
    endpoint: Endpoint, context: ssl.SSLContext, server_name: str, connect_secs: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Dial and shake hands; the certificate must name `server_name`.

    Raises:
        Unavailable: nobody answers.
        TrustError: who answers is somebody else.
    """
    try:
        async with asyncio.timeout(connect_secs):
            return await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=context, server_hostname=server_name, limit=READ_BYTES
            )
    except ssl.SSLError as cause:
        why = getattr(cause, "verify_message", None) or cause.reason or "the handshake failed"
        raise TrustError(
            f"What answers at {endpoint} is not the receiver of this worker's log: {why}",
            "Correct the setting master; if the master's CA was made anew, join again.",
        ) from cause
    except (OSError, TimeoutError) as cause:
        why = getattr(cause, "strerror", None) or "no answer in time"
        raise Unavailable(f"Cannot reach the master at {endpoint}: {why}", "Start its listener.") from cause
