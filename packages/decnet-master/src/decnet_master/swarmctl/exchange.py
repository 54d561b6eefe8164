"""One HTTP request to a worker, on a TLS connection of its own.

The controller asks a thousand workers at a time. A general client costs more than the handshake there (measured: half
of 5 ms a request went into its layers, and into imports that it tries anew each time), so that this is asyncio's TLS
and h11, and nothing else. What it does not do follows from that: no second request on a connection, no proxy, no
redirect, no cookie, no compression, and nothing from the environment.

Who answers is judged between the handshake and the request: not a byte of it goes to somebody else.

Source: RFC 9112 (HTTP/1.1).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

import h11

from decnet_core.endpoints import Endpoint
from decnet_core.errors import TrustError
from decnet_core.peer import Peer, peer_of

MAX_HEAD_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    content: bytes


class NotReached(Exception):
    """There is no connection: refused, no way there, or a name that is none."""


class BrokenAnswer(Exception):
    """What came back is no HTTP, is larger than it may be, or ended before its end."""


async def exchange(
    endpoint: Endpoint,
    path: str,
    body: bytes | None,
    *,
    tls: ssl.SSLContext,
    name: str,
    admit: Callable[[Peer], Awaitable[None]],
    connect_secs: float,
    max_bytes: int,
    into: Callable[[bytes], None] | None = None,
) -> Answer:
    """Ask (GET), or with a body tell (POST), and return the whole answer. The caller bounds the time of it all.

    Args:
        endpoint: where to connect.
        path: the request's target.
        body: JSON.
        tls: of a client.
        name: what the peer's certificate must name.
        admit: raises when this peer is not to be spoken to.
        connect_secs: how long connection and handshake may take.
        max_bytes: of the answer's content.
        into: takes the content of an answer of 200, piece by piece, which is not returned then.

    Raises:
        TimeoutError: no connection within that time.
        NotReached: no connection.
        OSError: it broke; `ssl.SSLCertVerificationError` when the certificate does not fit.
        BrokenAnswer: the answer is none.
        TrustError: the peer shows no certificate that names who it is; and what `admit` raises.
    """
    async with asyncio.timeout(connect_secs):
        reader, writer = await _connect(endpoint, tls, name)
    try:
        peer = peer_of(writer.transport)
        if peer is None:
            raise TrustError(f"{name} shows no certificate", "Check the worker's ports.")
        await admit(peer)
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        writer.write(_request(connection, endpoint, path, body))
        return await _answer(connection, reader, max_bytes, into)
    except h11.RemoteProtocolError as cause:
        raise BrokenAnswer(str(cause)) from cause
    finally:
        writer.transport.abort()  # the answer is whole, or nobody waits for the rest: no goodbye is worth waiting for


async def _connect(
    endpoint: Endpoint, tls: ssl.SSLContext, name: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(endpoint.host, endpoint.port, ssl=tls, server_hostname=name)
    except (ssl.SSLError, TimeoutError):
        raise
    except OSError as cause:
        raise NotReached(cause.strerror or str(cause)) from cause


def _request(connection: h11.Connection, endpoint: Endpoint, path: str, body: bytes | None) -> bytes:
    headers = [("Host", str(endpoint)), ("Connection", "close")]
    if body is not None:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    request = h11.Request(method="GET" if body is None else "POST", target=path, headers=headers)
    parts = [connection.send(request)]
    if body is not None:
        parts.append(connection.send(h11.Data(data=body)))
    parts.append(connection.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)


async def _answer(
    connection: h11.Connection,
    reader: asyncio.StreamReader,
    max_bytes: int,
    into: Callable[[bytes], None] | None,
) -> Answer:
    status, content, taken_bytes = 0, bytearray(), 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            taken_bytes += len(event.data)
            if taken_bytes > max_bytes:
                raise BrokenAnswer(f"an answer larger than {max_bytes} bytes")
            if into is not None and status == HTTPStatus.OK:
                into(bytes(event.data))
            else:
                content += event.data
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status, bytes(content))
        elif not isinstance(event, h11.InformationalResponse):
            raise BrokenAnswer("the connection ended before the answer")
