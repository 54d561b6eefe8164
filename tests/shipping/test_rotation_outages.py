"""Rotations while the master cannot be reached, or has only a part: each line that is still in some file arrives once.

What was read and did not arrive is what makes these cases: the file is held, and read on from an earlier place than the
last time, by which it may have been truncated, grown again and moved.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.shipping.rotating import LABEL, Reader, Their


@pytest.fixture
def their(tmp_path: Path) -> Their:
    return Their(tmp_path / "their.log")


SOME = st.integers(1, 30)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["write", "copy"]), SOME),
    st.tuples(st.sampled_from(["ship", "ship unheard"]), st.integers(0, 40)),
    st.tuples(st.sampled_from(["rename", "read", "look", "remember", "restart"]), st.just(0)),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(STEPS, max_size=20),
    recent=st.booleans(),
    beginning=st.sampled_from([b"", b"a banner that every file begins with " * 60]),
)
def test_any_order_of_rotations_connections_and_restarts(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], recent: bool, beginning: bytes
) -> None:
    their = Their(tmp_path_factory.mktemp("any") / "their.log", beginning, recent=recent)
    reader = Reader(their.path)
    reader.read()
    moves: dict[str, Callable[[int], object]] = {
        "write": their.write,
        "rename": lambda _: their.rotate_by_rename(),
        "copy": lambda count: (their.rotate_by_copy(), their.write(count)),
        "read": lambda _: reader.read(),
        "ship": reader.ship,
        "ship unheard": lambda count: reader.ship(count, acked=False),
        "look": lambda _: reader.rotation.next_file(),  # there is a file to ship, and no master that answers
        "remember": lambda _: reader.remember(),
        "restart": lambda _: reader.restart(),
    }
    for move, count in steps:
        moves[move](count)
    their.settle()
    reader.read()
    assert sorted(reader.lines) == sorted(their.written)
    assert reader.rotation.lost_bytes == 0


@pytest.mark.parametrize("recent", [False, True])
@pytest.mark.parametrize("more", [1, 3, 80])
def test_a_file_that_was_truncated_and_renamed_in_an_outage_is_not_finished(
    tmp_path: Path, more: int, recent: bool
) -> None:
    """The master asks for lines that were sent before; the descriptor has other ones there, or none."""
    their = Their(tmp_path / "their.log", recent=recent)
    reader = Reader(their.path)
    their.write(30)
    reader.ship(20)
    their.rotate_by_copy()
    their.write(more)
    their.rotate_by_rename()
    their.settle()
    reader.read()
    assert reader.lines == their.written
    assert len(reader.master) == 3
    assert reader.rotation.lost_bytes == 0


def test_a_file_that_was_truncated_and_renamed_in_an_outage_and_has_no_copy_is_said_to_be_lost(their: Their) -> None:
    reader = Reader(their.path)
    their.write(30)
    reader.ship(20)
    reader.remember()
    their.rotate_by_copy()
    their.write(3)
    their.rotate_by_rename()
    their.path.with_name("their.log.2").unlink()  # compressed, say
    reader.read()
    assert reader.lines == their.written[:20] + their.written[33:]
    assert reader.rotation.gaps == 1
    assert reader.rotation.lost_bytes >= sum(len(line) + 1 for line in their.written[20:33])


def test_a_truncation_while_nobody_looked_is_found_out_though_all_files_begin_alike(tmp_path: Path) -> None:
    """What was written down says that the master has nothing; the lines that were seen tell the file from its copy."""
    their = Their(tmp_path / "their.log", b"a banner that every file begins with " * 60)
    reader = Reader(their.path)
    reader.ship(None)
    their.rotate_by_copy()
    their.write(3)
    reader.restart()
    reader.read()
    assert reader.lines == their.written
    assert len(reader.master) == 2
    assert reader.rotation.lost_bytes == 0


def test_a_register_of_an_older_release_is_understood(their: Their) -> None:
    reader = Reader(their.path)
    reader.read()
    written = json.loads(reader.state.read_bytes())
    for entry in written[str(their.path)]:
        del entry["seen_bytes"], entry["seen_sha256"]
    reader.state.write_text(json.dumps(written))
    their.write(2)
    reader.restart()
    reader.read()
    assert list(reader.master.values()) == [[LABEL + line for line in their.written]]
