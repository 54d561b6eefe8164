"""Read from the kernel's own type information where the fields lie that our programs look at.

A BTF blob is a header, a run of type records and a run of NUL-ended strings; type ids count the records from 1. Only
what a field path needs is kept: one pass notes where each record begins (an array of 32-bit numbers, about 600 KB for
150,000 types) and where the wanted structures are. Nothing outlives the call.

Source: the kernel's Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping

from decnet_core.errors import NotFound, RemoteProtocolError

_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_MAGIC = 0xEB9F
_STRUCT, _UNION, _TYPEDEF = 4, 5, 8
_TRACEPOINT = "btf_trace_"
_MODIFIERS = frozenset({8, 9, 10, 11, 18})
"""typedef, volatile, const, restrict, type tag: they stand in front of the type meant."""

# What follows a record's first 12 bytes, by kind: (fixed bytes, bytes for each of vlen).
_TAIL = {
    1: (4, 0), 2: (0, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 7: (0, 0), 8: (0, 0), 9: (0, 0), 10: (0, 0),
    11: (0, 0), 12: (0, 0), 13: (0, 8), 14: (4, 0), 15: (0, 12), 16: (0, 0), 17: (4, 0), 18: (0, 0), 19: (0, 12),
}  # fmt: skip


def field_offsets(blob: bytes, paths: Iterable[str]) -> Mapping[str, int]:
    """Tell the byte offset of each field path such as `task_struct.comm`; anonymous members are looked through.

    Raises:
        NotFound: the kernel has no such structure or field.
        RemoteProtocolError: the blob is no BTF.
    """
    try:
        return _Btf(blob).offsets(list(paths))
    except (struct.error, IndexError, KeyError) as cause:
        raise RemoteProtocolError("The kernel's type information cannot be read") from cause


def tracepoint_ids(blob: bytes, names: Iterable[str]) -> Mapping[str, int]:
    """Tell the type id of each tracepoint: how a program says which one's arguments it knows the types of.

    Raises:
        NotFound: the kernel has no such tracepoint, or does not describe it.
        RemoteProtocolError: the blob is no BTF.
    """
    types = {f"{_TRACEPOINT}{name}": name for name in names}
    try:
        found = _Btf(blob).named(_TYPEDEF, set(types))
    except (struct.error, IndexError, KeyError) as cause:
        raise RemoteProtocolError("The kernel's type information cannot be read") from cause
    for name in sorted(types.keys() - found.keys()):
        raise NotFound(
            f"This kernel describes no tracepoint {types[name]}", "The kernel is older or newer than the tap knows."
        )
    return {types[name]: type_id for name, type_id in found.items()}


class _Btf:
    def __init__(self, blob: bytes) -> None:
        magic, _, _, header_bytes, types_at, types_bytes, strings_at, strings_bytes = _HEADER.unpack_from(blob)
        if magic != _MAGIC:
            raise RemoteProtocolError("The kernel's type information begins with another magic number")
        self._blob = blob
        self._types_at, self._types_end = header_bytes + types_at, header_bytes + types_at + types_bytes
        self._strings_at = header_bytes + strings_at
        self._strings_end = self._strings_at + strings_bytes
        self._where = array("I", [0])

    def offsets(self, paths: list[str]) -> dict[str, int]:
        structures = self._index({path.partition(".")[0] for path in paths})
        found: dict[str, int] = {}
        for path in paths:
            structure, _, field = path.partition(".")
            offset = self._member(structures[structure], field, 0) if structure in structures else None
            if offset is None:
                raise NotFound(f"This kernel has no {path}", "The kernel is older or newer than the tap knows.")
            found[path] = offset
        return found

    def named(self, kind: int, wanted: set[str]) -> dict[str, int]:
        """Tell the ids of the types of a kind by their names."""
        self._index(set())
        names = {self._name_offset(name): name for name in wanted}
        found: dict[str, int] = {}
        for type_id, at in enumerate(self._where[1:], start=1):
            name_at, info, _ = _TYPE.unpack_from(self._blob, at)
            if info >> 24 & 0x1F == kind and name_at in names:
                found.setdefault(names[name_at], type_id)
        return found

    def _index(self, wanted: set[str]) -> dict[str, int]:
        """Note where every record begins; give the wanted structures' places."""
        names = {self._name_offset(name): name for name in wanted}
        found: dict[str, int] = {}
        at = self._types_at
        while at < self._types_end:
            name_at, info, _ = _TYPE.unpack_from(self._blob, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            self._where.append(at)
            # The same name may stand for a forward declaration too, which has no members.
            if kind == _STRUCT and count and name_at in names:
                found.setdefault(names[name_at], at)
            fixed, each = _TAIL[kind]
            at += _TYPE.size + fixed + each * count
        return found

    def _name_offset(self, name: str) -> int:
        at = self._blob.find(b"\0" + name.encode() + b"\0", self._strings_at, self._strings_end)
        return at + 1 - self._strings_at if at >= 0 else -1

    def _member(self, at: int, field: str, depth: int) -> int | None:
        """Find a member's offset in bytes, also inside anonymous members."""
        if depth > 8:  # the kernel's deepest nesting is 4
            return None
        info: int = _TYPE.unpack_from(self._blob, at)[1]
        bitfields = info >> 31
        for index in range(info & 0xFFFF):
            name_at: int
            type_id: int
            raw: int
            name_at, type_id, raw = _MEMBER.unpack_from(self._blob, at + _TYPE.size + index * _MEMBER.size)
            bits = raw & 0xFFFFFF if bitfields else raw
            if name_at:
                if self._is(name_at, field):
                    return bits // 8
                continue
            inner_at = self._structure(type_id)
            inner = self._member(inner_at, field, depth + 1) if inner_at else None
            if inner is not None:
                return bits // 8 + inner
        return None

    def _structure(self, type_id: int) -> int | None:
        for _ in range(8):
            at = self._where[type_id]
            _, info, referred = _TYPE.unpack_from(self._blob, at)
            kind = info >> 24 & 0x1F
            if kind in (_STRUCT, _UNION):
                return at
            if kind not in _MODIFIERS:
                return None
            type_id = referred
        return None

    def _is(self, name_at: int, name: str) -> bool:
        return self._blob.startswith(name.encode() + b"\0", self._strings_at + name_at)
