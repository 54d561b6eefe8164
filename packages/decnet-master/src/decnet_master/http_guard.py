"""What stands before each of the master's HTTP applications: bounds, names, headers.

The guard is plain ASGI, so that it also bounds what the framework reads itself, and it is the outermost layer, so
that its rules hold for answers of any kind. In order:

1. a request id, made here and never taken from the caller, goes into the request's state and every answer;
2. where names are given, a request for another host is refused before anything else looks at it. A page in an
   operator's browser can reach a loopback port, under a name that resolves there, but cannot choose the Host header;
3. the body is bounded in bytes and in seconds; what goes over is refused while it arrives;
4. every answer says not to be cached, sniffed or framed, and what time it is here (a worker that joins finds out by it
   that its clock is wrong).

It does not authenticate: each application has its own way.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from email.utils import formatdate

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from decnet_core.errors import DecnetError, TrustError
from decnet_master.http_app import answer_of
from decnet_master.problems import TooLarge, TooSlow

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""How a client on this machine writes this machine."""

_ANSWER_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one request may cost.

    Attributes:
        body_bytes: largest body that is read.
        body_secs: time from the first wait for the body to its end.
    """

    body_bytes: int = 64 * 1024
    body_secs: float = 10.0


class Guard:
    """The outermost layer of an application."""

    def __init__(self, app: ASGIApp, bounds: Bounds, hosts: Collection[str] | None = None) -> None:
        self._app = app
        self._bounds = bounds
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _with_headers(send, request_id)
        headers = Headers(scope=scope)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            refusal = self._refusal(headers)
            if refusal is not None:
                return await answer_of(refusal, request_id)(scope, receive, answer)
            return await self._app(scope, _Body(receive, self._bounds).receive, answer)

    def _refusal(self, headers: Headers) -> DecnetError | None:
        if self._hosts is not None and _name_of(headers.get("host", "")) not in self._hosts:
            return TrustError(
                "This server does not answer under that name", f"Ask for one of {', '.join(sorted(self._hosts))}."
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._bounds.body_bytes:
            return TooLarge(f"The body is larger than {self._bounds.body_bytes} bytes", "Send less at once.")
        return None


class _Body:
    """Counts and times a body as the application reads it."""

    def __init__(self, receive: Receive, bounds: Bounds) -> None:
        self._receive = receive
        self._bounds = bounds
        self._seen_bytes = 0
        self._ends_at: float | None = None
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:  # what comes now is the disconnect: a stream waits for it as long as it lives
            return await self._receive()
        if self._ends_at is None:
            self._ends_at = asyncio.get_running_loop().time() + self._bounds.body_secs
        try:
            async with asyncio.timeout_at(self._ends_at):
                message = await self._receive()
        except TimeoutError:
            # Starlette's own class: the framework hands no other on from the middle of reading a body.
            raise HTTPException(408, TooSlow.__doc__) from None
        if message["type"] != "http.request":
            return message
        self._seen_bytes += len(message.get("body", b""))
        if self._seen_bytes > self._bounds.body_bytes:
            raise HTTPException(413, TooLarge.__doc__)
        self._complete = not message.get("more_body", False)
        return message


def _with_headers(send: Send, request_id: str) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _ANSWER_HEADERS.items():
                headers.setdefault(name, value)
            headers["x-request-id"] = request_id
            headers["date"] = formatdate(usegmt=True)
        await send(message)

    return answer


def _name_of(host: str) -> str:
    """Take the port off a Host header."""
    name, colon, port = host.rpartition(":")
    return name.lower() if colon and port.isdecimal() else host.lower()
