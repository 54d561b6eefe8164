r"""The parameter `nested`: JSON in base64, and the values that must not stand raw in a line.

RFC 5424 escapes three characters only, and leaves control characters, invalid UTF-8 and line ends to the sender's
good sense. What we carry was typed by attackers, so no such character is ever written into a line of ours:

    A text that holds a C0 or C1 control character (NUL, CR, LF, TAB, ESC, … NEL), DEL, U+2028, U+2029 or a
    surrogate (a byte that was not UTF-8) is *spilled*: the line shows a stand-in, its first `STAND_IN_CHARS`
    characters with U+FFFD for each of those, and the exact text goes into `nested`.

So any RFC 5424 reader sees one clean line with readable values, and ours restores every character. The document is

    {…}                                  the message's own nested object, when nothing is spilled
    {"@spilled": {"params":   {name: text, …},      exact texts of parameters, each with its stand-in in the line
                  "message":  text,                 exact free text
                  "other_sd": text,                 exact foreign SD-ELEMENTs (they have no stand-in)
                  "nested":   {…}}}                 the message's own nested object, when it has one

Only what applies is there. An own object that has a key `@spilled` itself is always wrapped so, hence neither form
can be taken for the other, whatever an attacker puts into a key.

The bytes under the base64 are UTF-8; surrogates are written in it as if they were characters, which alone keeps
two neighbouring ones apart (JSON's \u escapes would merge them). A document without spilled invalid bytes is plain
UTF-8 JSON. Numbers are finite, and nothing is nested deeper than `MAX_DEPTH`: whoever hands the object on (an API, a
browser) survives it. A text grows by at most 8 when it is spilled (a control character becomes six in JSON, base64
adds a third), by 4/3 when it holds few of them.
"""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from decnet_core.errors import LocalProtocolError, RemoteProtocolError

STAND_IN_CHARS = 256
"""Enough to recognise a command or a password by; the exact text is in the same line."""

MAX_DEPTH = 32
"""Levels of objects and lists; metadata has three or four."""

_WRAPPER = "@spilled"

_UNCLEAN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Spilled:
    """The exact texts whose stand-ins are in the line; None or no key where nothing was spilled."""

    params: dict[str, str] = field(default_factory=dict)
    message: str | None = None
    other_sd: str | None = None


NOTHING_SPILLED = Spilled()


def is_clean(text: str) -> bool:
    """Tell whether the text may stand in a line."""
    # str.isprintable says no to a few clean ones (U+00A0, U+200B) but yes to no unclean one, and is far cheaper.
    return text.isprintable() or _UNCLEAN.search(text) is None


def stand_in(text: str) -> str:
    """Show a spilled text."""
    return _UNCLEAN.sub("\N{REPLACEMENT CHARACTER}", text[:STAND_IN_CHARS])


def encode_nested(nested: dict[str, Any] | None, spilled: Spilled) -> str:
    """Write the value of the parameter.

    Raises:
        LocalProtocolError: the object is not JSON, holds a number that is not finite, or is too deep.
    """
    document = nested
    if spilled != NOTHING_SPILLED or (nested is not None and _WRAPPER in nested):
        parts = {"params": spilled.params or None, "message": spilled.message, "other_sd": spilled.other_sd}
        wrapped: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
        if nested is not None:
            wrapped["nested"] = nested
        document = {_WRAPPER: wrapped}
    if nested is not None and _is_too_deep(nested):
        raise LocalProtocolError(f"The nested object of a syslog message is deeper than {MAX_DEPTH} levels")
    try:
        text = _ENCODER.encode(document)
    except (TypeError, ValueError) as cause:  # not JSON; not finite, or an integer of thousands of digits
        raise LocalProtocolError("The nested object of a syslog message is not JSON") from cause
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode("ascii")


def decode_nested(value: str) -> tuple[dict[str, Any] | None, Spilled]:
    """Read the value of the parameter.

    Raises:
        RemoteProtocolError: it is not what `encode_nested` can have written.
    """
    try:
        document = _DECODER.decode(base64.b64decode(value, validate=True).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):  # base64, UTF-8 and JSON errors are all ValueErrors
        raise _refusal("is not base64 of JSON") from None
    if not isinstance(document, dict):
        raise _refusal("is not an object")
    if _WRAPPER not in document:
        if _is_too_deep(document):
            raise _refusal("is too deep")
        return document, NOTHING_SPILLED
    wrapped = document[_WRAPPER]
    if len(document) != 1 or not isinstance(wrapped, dict) or not _WRAPPED.issuperset(wrapped):
        raise _refusal("is wrapped wrongly")
    nested, spilled = _own_object(wrapped), _spilled(wrapped)
    if nested is None and spilled == NOTHING_SPILLED:
        raise _refusal("is wrapped around nothing")
    return nested, spilled


def _own_object(wrapped: dict[str, Any]) -> dict[str, Any] | None:
    if "nested" not in wrapped:
        return None
    nested = wrapped["nested"]
    if not isinstance(nested, dict):
        raise _refusal("is not an object")
    if _is_too_deep(nested):
        raise _refusal("is too deep")
    return nested


def _spilled(wrapped: dict[str, Any]) -> Spilled:
    params = wrapped.get("params", {})
    if not isinstance(params, dict) or not all(isinstance(text, str) for text in params.values()):
        raise _refusal("holds a spilled value that is no text")
    texts = {name: wrapped[name] for name in ("message", "other_sd") if name in wrapped}
    if not all(isinstance(text, str) for text in texts.values()):
        raise _refusal("holds a spilled value that is no text")
    return Spilled(params=params, **texts)


def _is_too_deep(document: dict[str, Any]) -> bool:
    """Walk level by level, so that a deep or circular object cannot exhaust the stack."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            children = node.values() if isinstance(node, dict) else node
            below.extend(child for child in children if isinstance(child, dict | list | tuple))
        if not below:
            return False
        level = below
    return True


def _refusal(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"The parameter nested of a syslog message {what}", "The sender must run a release that this one knows."
    )


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(name)


_WRAPPED = frozenset({"params", "message", "other_sd", "nested"})
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
