"""Kernel records for tests, as the programs lay them out."""

from __future__ import annotations

import struct
from typing import Any

from decnet_agent.tap.decoding import Record, decode
from decnet_agent.tap.programs import SOCKET_BYTES, Kind

NAMESPACE = 4026532000
SECOND = 1_000_000_000


def packed(
    kind: int,
    *,
    pid: int = 100,
    started_ns: int = SECOND,
    parent: int = 1,
    parent_started_ns: int = 0,
    name: bytes = b"bash",
    uid: int = 1000,
    terminal: bool = False,
    number: int = 0,
    file: bytes = b"/bin/true",
    socket: bytes = bytes(SOCKET_BYTES),
    text: bytes = b"",
    text_bytes: int | None = None,
    padding: bytes = b"",
    namespace: int = NAMESPACE,
    at_ns: int = 5 * SECOND,
) -> bytes:
    """Write one record."""
    header = struct.pack(
        "=IIQIIIIQQ16sIIII",
        kind,
        namespace,
        at_ns,
        pid,
        pid + 1000,
        parent,
        uid,
        started_ns,
        parent_started_ns,
        name,
        int(terminal),
        number,
        len(text),
        len(text) if text_bytes is None else text_bytes,
    )
    return header + (file.ljust(256, b"\0") + socket if kind == Kind.EXECUTED else b"") + text + padding


def record(kind: Kind, **facts: Any) -> Record:
    """Write one record and read it."""
    return decode(packed(kind, **facts))
