r"""Make facts of the kernel's records, and text of what attackers wrote.

A record has a fixed header and one text with its length (`programs` draws the layout), so nothing inside the text, no
newline and no control byte, can end it or begin another. `decode` takes any bytes: what does not fit the layout is a
RemoteProtocolError. Text stays bytes up to `readable`, which keeps UTF-8 and shows every other byte as `\\xNN`.
"""

from __future__ import annotations

import shlex
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from decnet_agent.tap.programs import HEADER_BYTES, NAME_BYTES, Kind
from decnet_core.errors import RemoteProtocolError

COMMAND_CHARACTERS = 8192
"""What an event holds of one command: an event is one syslog line, and receivers bound those."""

_HEADER = struct.Struct("=IIQIIIIQQ16sIIII")


@dataclass(frozen=True, slots=True)
class Record:
    """One fact from the kernel.

    Times are nanoseconds since boot. `parent` is the parent's pid on the host. `number` belongs to the kind (a PAM
    item's type). `text_bytes` is how long the text was in the process; `text` may be shorter.
    """

    kind: Kind
    namespace: int
    at_ns: int
    pid: int
    decky_pid: int
    parent: int
    uid: int
    started_ns: int
    parent_started_ns: int
    name: bytes
    has_terminal: bool
    number: int = 0
    file: bytes = b""
    text: bytes = b""
    text_bytes: int = 0


def decode(data: bytes) -> Record:
    """Read one record.

    Raises:
        RemoteProtocolError: the bytes are not of the layout.
    """
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError("A record of the kernel is shorter than its header")
    (
        kind,
        namespace,
        at_ns,
        pid,
        decky_pid,
        parent,
        uid,
        started,
        parent_started,
        name,
        terminal,
        number,
        length,
        whole,
    ) = _HEADER.unpack_from(data)
    if kind not in set(Kind):
        raise RemoteProtocolError(f"A record of the kernel has the unknown kind {kind}")
    text_at, file = HEADER_BYTES, b""
    if kind == Kind.EXECUTED:
        text_at += NAME_BYTES
        file = data[HEADER_BYTES:text_at].partition(b"\0")[0]
    if text_at + length > len(data):
        raise RemoteProtocolError("A record of the kernel is shorter than its text")
    text = data[text_at : text_at + length]
    return Record(
        kind=Kind(kind),
        namespace=namespace,
        at_ns=at_ns,
        pid=pid,
        decky_pid=decky_pid,
        parent=parent,
        uid=uid,
        started_ns=started,
        parent_started_ns=parent_started,
        name=name.partition(b"\0")[0],
        has_terminal=bool(terminal),
        number=number,
        file=file,
        text=text if kind == Kind.EXECUTED else text.partition(b"\0")[0],
        text_bytes=whole,
    )


def arguments(record: Record) -> list[bytes]:
    """Split the arguments of an executed program; the last may be cut short."""
    return record.text.removesuffix(b"\0").split(b"\0") if record.text else []


def command_line(words: Sequence[bytes], *, cut: bool) -> str:
    """Write arguments as one line that a shell would split the same way; `…` at the end says that it was cut."""
    return _bounded(shlex.join(readable(word) for word in words), cut=cut)


def readable(data: bytes) -> str:
    r"""Keep UTF-8, show all else as `\\xNN`."""
    return data.decode("utf-8", "backslashreplace")


def typed_line(data: bytes) -> str:
    """Make text of a typed line."""
    return _bounded(readable(data), cut=False)


def _bounded(text: str, *, cut: bool) -> str:
    return text[:COMMAND_CHARACTERS] + ("…" if cut or len(text) > COMMAND_CHARACTERS else "")
