"""Write what a terminal showed and got as an asciicast (version 2), so that any player of those shows it again.

A file is a header, one JSON object, and one JSON array for each event: seconds since the beginning, a code, a text.

    o  shown      i  typed      r  resized, as "COLUMNSxROWS"      m  a remark of ours: what is missing, and where
    x  the exact bytes of the event that follows, as "o:<base64>" or "i:<base64>"

Texts are Unicode and terminals carry bytes. A character that came in two pieces stands in the later event. Bytes that
are no UTF-8 stand as U+FFFD, which is what a screen would show, and an `x` before them says what they were; players
pass over codes that they do not know. So every byte can be had back, in order, from `o` and `i` and the `x` that
replace them.

Pure: what must be known from one event to the next is in a `Cast`.

Source: asciicast v2, https://docs.asciinema.org/manual/asciicast/v2/.
"""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

USUAL_COLUMNS, USUAL_ROWS = 80, 24
"""What is said of a terminal whose size nobody has set."""

_decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Cast:
    """Where a recording stands.

    `tails` begin a character of which the rest has not come: of what is shown, and of what is typed.
    """

    columns: int = 0
    rows: int = 0
    at_secs: float = 0.0
    tails: tuple[bytes, bytes] = (b"", b"")


def header(cast: Cast, begun_at: datetime, title: str, about: Mapping[str, Any]) -> bytes:
    """Write the first line.

    Args:
        cast: knows the size.
        begun_at: when the recording begins.
        title: one line for people.
        about: JSON-ready facts of our own.
    """
    return _line(
        {
            "version": 2,
            "width": cast.columns or USUAL_COLUMNS,
            "height": cast.rows or USUAL_ROWS,
            "timestamp": int(begun_at.timestamp()),
            "title": title,
            "about": about,
        }
    )


def transferred(cast: Cast, at_secs: float, data: bytes, *, typed: bool) -> tuple[Cast, bytes]:
    """Write what was shown or typed; a beginning of a character waits in the new state."""
    code, tail = ("i", cast.tails[1]) if typed else ("o", cast.tails[0])
    whole = tail + data
    decoder = _decoder("replace")
    text = decoder.decode(whole)
    rest = decoder.getstate()[0]
    cast = replace(
        cast,
        at_secs=max(cast.at_secs, at_secs),
        tails=(cast.tails[0], rest) if typed else (rest, cast.tails[1]),
    )
    return cast, _text(cast, code, text, whole[: len(whole) - len(rest)])


def resized(cast: Cast, at_secs: float, columns: int, rows: int) -> tuple[Cast, bytes]:
    """Write a new size; nothing when it is the one that is known, or none."""
    if (columns, rows) == (cast.columns, cast.rows) or not columns or not rows:
        return cast, b""
    cast = replace(cast, at_secs=max(cast.at_secs, at_secs), columns=columns, rows=rows)
    return cast, _line([round(cast.at_secs, 6), "r", f"{columns}x{rows}"])


def remark(cast: Cast, text: str) -> bytes:
    """Write a remark at the time of the last event."""
    return _line([round(cast.at_secs, 6), "m", text])


def ended(cast: Cast) -> bytes:
    """Write the characters that never became whole."""
    return b"".join(
        _text(cast, code, tail.decode("utf-8", "replace"), tail)
        for code, tail in zip(("o", "i"), cast.tails, strict=True)
    )


def _text(cast: Cast, code: str, text: str, data: bytes) -> bytes:
    if not data:
        return b""
    at_secs = round(cast.at_secs, 6)
    line = _line([at_secs, code, text])
    if text.encode() == data:
        return line
    return _line([at_secs, "x", f"{code}:{base64.b64encode(data).decode()}"]) + line


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
