"""Where functions begin in real binaries, and that damaged ones are refused and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.tap import elf
from decnet_core.errors import NotFound, RemoteProtocolError

BASH = Path("/bin/bash")


def _offset(path: Path, name: str) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return elf.find_function(fd, name).offset
    finally:
        os.close(fd)


def _minimal(prefix: bytes = b"", name: bytes = b"wanted") -> bytes:
    """Write an ELF file with one exported function at 0x40 of the segment that starts at file offset 0."""
    strings = b"\0" + prefix + name + b"\0"
    symbols = bytes(24) + elf._SYMBOL.pack(1 + len(prefix), 0x12, 0, 1, 0x1040, 8)
    segments_at = 64
    strings_at = segments_at + 56
    symbols_at = strings_at + len(strings)
    sections_at = symbols_at + len(symbols)
    header = elf._HEADER.pack(
        b"\x7fELF\x02\x01\x01" + bytes(9), 3, 62, 1, 0, segments_at, sections_at, 0, 64, 56, 1, 64, 2, 0
    )
    segment = elf._SEGMENT.pack(1, 5, 0, 0x1000, 0x1000, 0x200, 0x200, 0x1000)
    string_table = elf._SECTION.pack(0, 3, 0, 0, strings_at, len(strings), 0, 0, 1, 0)
    symbol_table = elf._SECTION.pack(0, 11, 0, 0, symbols_at, len(symbols), 0, 0, 8, 24)
    return header + segment + strings + symbols + string_table + symbol_table


def test_the_offset_is_that_of_the_symbol_in_its_segment(tmp_path: Path) -> None:
    file = tmp_path / "library"
    file.write_bytes(_minimal())
    assert _offset(file, "wanted") == 0x40


def test_a_name_that_shares_the_tail_of_a_longer_one_is_found(tmp_path: Path) -> None:
    file = tmp_path / "library"
    file.write_bytes(_minimal(prefix=b"un"))
    assert _offset(file, "wanted") == 0x40


def test_a_missing_function_is_not_found(tmp_path: Path) -> None:
    file = tmp_path / "library"
    file.write_bytes(_minimal())
    with pytest.raises(NotFound):
        _offset(file, "want")


@pytest.mark.skipif(not BASH.exists() or not shutil.which("readelf"), reason="needs bash and readelf")
def test_the_real_bash_agrees_with_readelf() -> None:
    told = subprocess.run(["readelf", "-W", "--dyn-syms", BASH], capture_output=True, text=True, check=True).stdout
    address = next(int(line.split()[1], 16) for line in told.splitlines() if line.split()[-1:] == ["readline"])
    segments = subprocess.run(["readelf", "-W", "-l", BASH], capture_output=True, text=True, check=True).stdout
    loads = [line.split() for line in segments.splitlines() if line.strip().startswith("LOAD")]
    at, start = next(
        (int(row[1], 16), int(row[2], 16))
        for row in loads
        if int(row[2], 16) <= address < int(row[2], 16) + int(row[4], 16)
    )
    assert _offset(BASH, "readline") == address - start + at


@given(
    st.binary(max_size=400)
    | st.builds(
        lambda at, byte: _minimal()[:at] + byte + _minimal()[at + len(byte) :],
        st.integers(0, len(_minimal())),
        st.binary(min_size=1, max_size=8),
    )
)
def test_any_bytes_give_an_offset_or_a_named_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(data)
    try:
        offset = _offset(file, "wanted")
    except (NotFound, RemoteProtocolError):
        return
    assert 0 <= offset < 1 << 64
