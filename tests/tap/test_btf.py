"""Field offsets from kernel type information: a hand-made blob, damaged blobs, and the running kernel's."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.tap import btf, programs, terminal_programs
from decnet_agent.tap.probes import KERNEL_TYPES
from decnet_core.errors import NotFound, RemoteProtocolError


def _blob() -> bytes:
    """struct task { int pid; union { long deep; }; } with the anonymous union behind a typedef-like modifier."""
    strings = b"\0task\0pid\0deep\0btf_trace_begun\0"
    number = struct.pack("<IIII", 0, 1 << 24, 4, 32)  # 1: int
    union = struct.pack("<III", 0, 5 << 24 | 1, 8) + struct.pack("<III", strings.find(b"deep"), 1, 0)  # 2
    constant = struct.pack("<III", 0, 10 << 24, 2)  # 3: const 2
    task = struct.pack("<III", 1, 4 << 24 | 2, 16)  # 4
    task += struct.pack("<III", strings.find(b"pid"), 1, 0) + struct.pack("<III", 0, 3, 64)
    tracepoint = struct.pack("<III", strings.find(b"btf_trace"), 8 << 24, 1)  # 5: typedef
    types = number + union + constant + task + tracepoint
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def test_named_and_anonymous_members_are_found() -> None:
    assert btf.field_offsets(_blob(), ["task.pid", "task.deep"]) == {"task.pid": 0, "task.deep": 8}


@pytest.mark.parametrize("path", ["task.none", "nothing.pid"])
def test_what_the_kernel_lacks_is_named(path: str) -> None:
    with pytest.raises(NotFound, match=path.replace(".", r"\.")):
        btf.field_offsets(_blob(), [path])


def test_a_tracepoints_type_is_found_by_its_name() -> None:
    assert btf.tracepoint_ids(_blob(), ["begun"]) == {"begun": 5}
    with pytest.raises(NotFound, match="ended"):
        btf.tracepoint_ids(_blob(), ["ended", "begun"])


@given(st.binary(max_size=200) | st.integers(0, len(_blob())).map(lambda at: _blob()[:at]))
def test_any_bytes_give_offsets_or_a_named_error(data: bytes) -> None:
    try:
        btf.field_offsets(data, ["task.pid"])
        btf.tracepoint_ids(data, ["begun"])
    except (NotFound, RemoteProtocolError):
        return


@pytest.mark.skipif(not KERNEL_TYPES.exists(), reason="this kernel has no BTF")
def test_the_running_kernel_has_all_fields_that_the_programs_read() -> None:
    fields = {*programs.FIELDS, *terminal_programs.FIELDS}
    found = btf.field_offsets(KERNEL_TYPES.read_bytes(), fields)
    assert found.keys() == fields
    assert btf.tracepoint_ids(KERNEL_TYPES.read_bytes(), [terminal_programs.TRACEPOINT])
    assert all(0 <= offset < 1 << 16 for offset in found.values())
