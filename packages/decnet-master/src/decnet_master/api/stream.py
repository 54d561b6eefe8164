"""The live stream: server-sent events, one for each stored event, `id` its seq.

A client that sends `Last-Event-ID` (browsers do by themselves when they reconnect) first gets everything stored since,
from the database, however long it was away; without it the stream begins now. A comment is sent when nothing happens,
so that a dead connection is noticed. A client that does not keep up is cut and resumes.

A stream lives for hours and a session does not: who reads is asked about again every `RECHECK_SECS`, and the stream
of a session that has ended, or of a user who is gone, ends. So does one that cannot read the database; the client
comes back and resumes.

Source: WHATWG HTML, section 9.2, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import StreamingResponse

from decnet_core.errors import DecnetError, RemoteProtocolError, Unavailable
from decnet_master.api.access import Access
from decnet_master.api.fanout import PAGE, Fanout, Rows
from decnet_master.problems import TooManyRequests
from decnet_master.store import Store

MAX_CLIENTS = 100
SILENCE_SECS = 15.0
"""Under the half minute after which common proxies give a silent connection up."""

RETRY_MS = 2000
RECHECK_SECS = 15.0

Check = Callable[[], Awaitable[object]]


def router(store: Store, fanout: Fanout, access: Access) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter()

    @routes.get("/stream", response_class=StreamingResponse)
    async def stream(
        request: Request, last_event_id: Annotated[str | None, Header(max_length=20)] = None
    ) -> StreamingResponse:
        if last_event_id is not None and not (last_event_id.isascii() and last_event_id.isdigit()):
            raise RemoteProtocolError("Last-Event-ID is a number", "Send the id of the last event that you have.")
        if fanout.clients >= MAX_CLIENTS:
            raise TooManyRequests(f"{MAX_CLIENTS} clients follow the stream already", "Read /api/v1/events instead.")
        after = min(int(last_event_id), 2**63 - 1) if last_event_id is not None else None
        pages = follow(store, fanout, after, functools.partial(access.user_of, request))
        first = await anext(pages)  # what goes wrong before it is still a proper answer
        return StreamingResponse(_rest(first, pages), media_type="text/event-stream")

    return routes


async def follow(store: Store, fanout: Fanout, after: int | None, check: Check) -> AsyncGenerator[bytes]:
    """Yield the stream's bytes from after `after` (None: from now) until the client is cut or may no longer read.

    Args:
        store: to catch up from.
        fanout: to go on with.
        after: seq of the last event that the client has.
        check: raises DecnetError once the client may no longer read.
    """
    with fanout.subscribe() as subscription:
        await fanout.live()
        newest = await store.events.latest_seq()
        seq = newest if after is None else min(after, newest)  # a database made anew begins to count anew
        yield f"retry: {RETRY_MS}\n\n".encode()
        while rows := await store.events.page(after_seq=seq, limit=PAGE):
            seq = rows[-1]["seq"]
            yield _encode(rows)
        loop = asyncio.get_running_loop()
        checked_at = loop.time()
        while True:
            if loop.time() - checked_at >= RECHECK_SECS:
                try:
                    await check()
                except DecnetError:
                    return
                checked_at = loop.time()
            try:
                async with asyncio.timeout(min(SILENCE_SECS, RECHECK_SECS)):
                    page = await subscription.queue.get()
            except TimeoutError:
                yield b":\n\n"
                continue
            if page is None:
                return
            fresh = [row for row in page if row["seq"] > seq]
            if fresh:
                seq = fresh[-1]["seq"]
                yield _encode(fresh)


async def _rest(first: bytes, pages: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(pages):
        yield first
        with suppress(Unavailable):
            async for page in pages:
                yield page


def _encode(rows: Rows) -> bytes:
    # JSON in ASCII holds no line end, so that a row is always one data line.
    return "".join(f"id: {row['seq']}\nevent: event\ndata: {json.dumps(row)}\n\n" for row in rows).encode()
