"""The label of a file that other programs write: the RFC 5424 header that goes before each of its lines.

The receiver then takes the line for what it is, a message of this host and this file, whatever the line says of itself.
The label holds no time, because it must be the same for all lines of a file: the time of arrival counts. Severity and
facility are `local0.info`; the message's own words are kept byte for byte behind it.

Source: RFC 5424 §6.
"""

from __future__ import annotations

import re
from pathlib import Path

_PRIORITY = 16 * 8 + 6  # local0, informational
_APP_BYTES = 48  # RFC 5424 §6: APP-NAME = NILVALUE / 1*48PRINTUSASCII
_HOST_BYTES = 255


def label_of(path: Path, host: str) -> bytes:
    """Make the label of a file on a host; what a header cannot hold becomes `_`."""
    return f"<{_PRIORITY}>1 - {_word(host, _HOST_BYTES)} {_word(path.name, _APP_BYTES)} - - - ".encode("ascii")


def _word(text: str, longest: int) -> str:
    return re.sub(r"[^!-~]", "_", text)[:longest] or "-"
