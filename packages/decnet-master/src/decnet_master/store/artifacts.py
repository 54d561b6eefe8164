"""What events tell of contents that workers keep: captured files and recordings, each under its hash.

Nothing is stored here: the events are the list, and retention ends it with them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from decnet_core.events import EventType
from decnet_master.store.engine import Database
from decnet_master.store.events import LARGEST_PAGE, document_of
from decnet_master.store.schema import events

_TYPES = (EventType.FILE_CAPTURED.value, EventType.SESSION_RECORDED.value)
MAX_TELLING = 64
"""Events of one content that are looked at: a worm drops the same file everywhere."""


class Artifacts:
    """The room of the artifacts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, *, limit: int = 100, decky: str | None = None) -> list[dict[str, Any]]:
        """List events that tell of a content which a worker has kept, the newest first; as `Events.page` gives them."""
        query = select(events).where(events.c.event_type.in_(_TYPES), events.c.fields.contains('"stored_as"'))
        if decky is not None:
            query = query.where(events.c.decky == decky)
        query = query.order_by(events.c.seq.desc()).limit(max(1, min(limit, LARGEST_PAGE)))
        async with self._database.read() as connection:
            rows = [document_of(row) for row in await connection.execute(query)]
        return [row for row in rows if "stored_as" in row["fields"]]

    async def holders(self, sha256: str) -> list[str]:
        """Name the workers that said that they keep a content, who said it last first."""
        query = (
            select(events)
            .where(events.c.event_type.in_(_TYPES), events.c.fields.contains(sha256))
            .order_by(events.c.seq.desc())
            .limit(MAX_TELLING)
        )
        async with self._database.read() as connection:
            rows = [document_of(row) for row in await connection.execute(query)]
        kept = [row for row in rows if row["fields"].get("sha256") == sha256 and "stored_as" in row["fields"]]
        return list(dict.fromkeys(row["worker"] for row in kept))
