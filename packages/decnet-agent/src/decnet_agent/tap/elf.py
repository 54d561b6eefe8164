"""Find where a function of an ELF file begins, as an offset in the file: what a uprobe is set on.

The file lies in a decky and an attacker may have written it, so every read is bounded and any bytes either give an
offset inside an executable segment or a RemoteProtocolError. Only 64-bit little-endian files and only exported
functions (.dynsym) are looked at; stripped distribution binaries have nothing else.

Source: the ELF-64 object file format, version 1.5, and the System V gABI for the section types.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from decnet_core.errors import NotFound, RemoteProtocolError

MAX_HEADERS = 512
"""Section and program headers; Debian's binaries have about 30 and 13."""
MAX_SYMBOLS_BYTES = 16 << 20
"""One symbol or string table; libc's are 150 KiB."""

_SHT_DYNSYM = 11
_STT_OBJECT, _STT_FUNC = 1, 2
_PT_LOAD = 1
_PF_X = 1

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


@dataclass(frozen=True, slots=True)
class _Elf:
    fd: int
    sections: list[tuple[int, ...]]
    segments: list[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Function:
    """Where a function lies: in the file, and as an address of the file's own layout; and its first bytes."""

    offset: int
    address: int
    code: bytes


def find_function(fd: int, name: str, *, code_bytes: int = 16) -> Function:
    """Find an exported function.

    Args:
        fd: readable regular file; its position is not used.
        name: the symbol, without a version.
        code_bytes: how much of the function to read; a shorter file gives less.

    Raises:
        NotFound: the file exports no such function.
        RemoteProtocolError: it is not such an ELF file, or it is damaged.
    """
    elf = _open(fd)
    address = _address(elf, name, _STT_FUNC)
    offset = _file_offset(elf, address)
    try:
        return Function(offset, address, os.pread(fd, code_bytes, offset))
    except (OSError, OverflowError) as cause:
        raise RemoteProtocolError("The ELF file's function cannot be read") from cause


def variable_address(fd: int, name: str) -> int:
    """Find an exported variable's address in the file's own layout; raises as `find_function`."""
    return _address(_open(fd), name, _STT_OBJECT)


def _address(elf: _Elf, name: str, kind: int) -> int:
    wanted = name.encode("ascii") + b"\0"
    for section in elf.sections:
        if section[1] != _SHT_DYNSYM:
            continue
        strings = _table(elf, section[6])
        for name_at, info, _, section_index, value, _ in _SYMBOL.iter_unpack(_whole(elf, section)):
            if info & 0xF == kind and section_index and strings.startswith(wanted, name_at):
                return int(value)
    raise NotFound(f"The file exports no {name}", "It may be another build of the program.")


def _open(fd: int) -> _Elf:
    header = _read(fd, 0, _HEADER.size)
    ident, *_, segments_at, sections_at, _, _, segment_bytes, segment_count, section_bytes, section_count, _ = (
        _HEADER.unpack(header)
    )
    if ident[:6] != b"\x7fELF\x02\x01":
        raise RemoteProtocolError("The file is not a 64-bit little-endian ELF file")
    if segment_bytes != _SEGMENT.size or section_bytes != _SECTION.size:
        raise RemoteProtocolError("The ELF file's headers have another size than the format's")
    if max(segment_count, section_count) > MAX_HEADERS:
        raise RemoteProtocolError(f"The ELF file has more than {MAX_HEADERS} headers")
    return _Elf(
        fd,
        list(_SECTION.iter_unpack(_read(fd, sections_at, section_bytes * section_count))),
        list(_SEGMENT.iter_unpack(_read(fd, segments_at, segment_bytes * segment_count))),
    )


def _table(elf: _Elf, index: int) -> bytes:
    if index >= len(elf.sections):
        raise RemoteProtocolError("The ELF file's symbols name a string table that is not there")
    _, _, _, _, at, length, *_ = elf.sections[index]
    return _read(elf.fd, at, length)


def _whole(elf: _Elf, section: tuple[int, ...]) -> bytes:
    at, length = section[4], section[5]
    return _read(elf.fd, at, length - length % _SYMBOL.size)


def _file_offset(elf: _Elf, address: int) -> int:
    for kind, flags, at, start, _, length, _, _ in elf.segments:
        if kind == _PT_LOAD and flags & _PF_X and start <= address < start + length:
            return address - start + at
    raise RemoteProtocolError("The ELF file's symbol lies in no executable segment")


def _read(fd: int, at: int, length: int) -> bytes:
    if length > MAX_SYMBOLS_BYTES or at >= 1 << 62:
        raise RemoteProtocolError("The ELF file has a table that is larger than any real one")
    try:
        data = os.pread(fd, length, at)
    except OSError as cause:
        raise RemoteProtocolError("The ELF file cannot be read") from cause
    if len(data) != length:
        raise RemoteProtocolError("The ELF file ends before its tables do")
    return data
