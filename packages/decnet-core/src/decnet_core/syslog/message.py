"""The syslog message as a value; `decnet_core.syslog.rfc5424` makes bytes of it and reads them back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

NIL = "-"
"""NILVALUE: a header slot that says nothing."""


@dataclass(frozen=True, slots=True)
class SyslogMessage:
    """One syslog message.

    Text that came as invalid UTF-8 is held with surrogate escapes, so that no byte of it is lost.

    Attributes:
        facility: 0 to 23.
        severity: 0 (emergency) to 7 (debug).
        at: aware UTC, in microseconds; None when the sender knew no time.
        host: printable ASCII without space, up to 255, or `NIL`. What the sender wrote: data, never provenance.
        app: the same, up to 48.
        procid: the same, up to 128; ours is a pid or `NIL`.
        msgid: the same, up to 32.
        params: the flat parameters of the one SD-ELEMENT `relay@55555`: any text under an SD-NAME.
        nested: what is not flat, a JSON object; None when there is none.
        message: the free text.
        other_sd: SD-ELEMENTs of other programs, unread, as they stood in the line one after the other.
    """

    facility: int
    severity: int
    at: datetime | None = None
    host: str = NIL
    app: str = NIL
    procid: str = NIL
    msgid: str = NIL
    params: dict[str, str] = field(default_factory=dict)
    nested: dict[str, Any] | None = None
    message: str = ""
    other_sd: str = ""
