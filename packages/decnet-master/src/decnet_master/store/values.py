"""How values look in the database, the same on both engines: times as numbers, any text as storable text.

Storable text. PostgreSQL's text refuses NUL, and neither engine holds a lone surrogate (our codec makes those out of
bytes that are no UTF-8). Both occur in what attackers type. So a character that cannot be stored is written as SUB
(U+001A, "substitute") and four hex digits, and SUB itself likewise: the mapping is one to one, equal texts stay equal
and a search for a stored text is a search for `storable` of it. All other text is stored as it is and stays readable
in any database tool.

This module does no IO.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from decnet_core.errors import LocalProtocolError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SUB = "\x1a"
_UNSTORABLE = re.compile("[\0\x1a\ud800-\udfff]")
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_STORED = {code: f"{_SUB}{code:04x}" for code in (0x00, 0x1A, *range(0xD800, 0xE000))}
_SUBSTITUTE = re.compile("\x1a([0-9a-f]{4})")


def micros(at: datetime) -> int:
    """Write an aware time as whole microseconds since 1970 UTC.

    Raises:
        LocalProtocolError: the time has no zone.
    """
    if at.tzinfo is None:
        raise LocalProtocolError("A time without a zone cannot be stored")
    return (at - _EPOCH) // _MICROSECOND


def moment(at_micros: int) -> datetime:
    """Read a time back: aware, UTC."""
    return _EPOCH + timedelta(microseconds=at_micros)


def iso(at_micros: int) -> str:
    """Write a stored time as RFC 3339 text in UTC with six digits of fraction, the same width for every time."""
    return moment(at_micros).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def storable(text: str) -> str:
    """Make any text storable; `original` undoes it."""
    if text.isprintable():  # nearly all is, and no character that cannot be stored: an eighth of the search's time
        return text
    return text.translate(_STORED) if _UNSTORABLE.search(text) else text


def original(stored: str) -> str:
    """Read a stored text back exactly."""
    if _SUB not in stored:
        return stored
    return _SUBSTITUTE.sub(lambda found: chr(int(found[1], 16)), stored)


def json_text(document: Mapping[str, Any]) -> str:
    """Write a JSON object as storable text.

    JSON escapes control characters by itself, so that SUB stands only for the surrogates in it; writing those raw
    (and not as JSON escapes, which a reader joins into pairs) keeps them exact.
    """
    return storable(_JSON.encode(document))


def json_object(stored: str) -> dict[str, Any]:
    """Read a JSON object back exactly."""
    document: dict[str, Any] = json.loads(original(stored))
    return document
