"""Pages of events, by their order in the database (`seq`).

Forward: `?after=<seq>` gives what was stored after it, oldest first; this is how a program keeps up. Backward:
`?before=<seq>`, newest first; without either, the newest page. `next` in the answer is the number to go on with in the
same direction, or null at the end. A page never changes behind its reader: see `decnet_master.store.events`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from decnet_core.errors import RemoteProtocolError
from decnet_master.store import Store

LARGEST_PAGE = 500

Seq = Annotated[int | None, Query(ge=0, le=2**63 - 1)]
Filter = Annotated[str | None, Query(max_length=255)]


def router(store: Store) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter()

    @routes.get("/events", response_class=Response)
    async def events(  # noqa: PLR0917 -- FastAPI passes them by name
        after: Seq = None,
        before: Seq = None,
        limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 100,
        event_type: Filter = None,
        decky: Filter = None,
        src_ip: Filter = None,
    ) -> Response:
        if after is not None and before is not None:
            raise RemoteProtocolError("A page goes forward or backward", "Give `after` or `before`, not both.")
        if after is None and before is None:
            before = 2**63 - 1
        rows = await store.events.page(
            after_seq=after or 0, before_seq=before, limit=limit, event_type=event_type, decky=decky, src_ip=src_ip
        )
        going_on = rows[-1]["seq"] if len(rows) == limit else None
        return as_json({"events": rows, "next": going_on})

    return routes


def as_json(document: dict[str, Any]) -> Response:
    """Answer with JSON in ASCII: the only form that also carries what an attacker sent that is no text."""
    return Response(json.dumps(document, separators=(",", ":")), media_type="application/json")
