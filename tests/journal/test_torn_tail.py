"""What a start does with the end of the newest segment: a torn tail is cut and told, damage is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from decnet_core.errors import RemoteProtocolError
from decnet_master.journal import salvage
from decnet_master.journal.reader import JournalReader
from decnet_master.journal.record import HEAD_BYTES, MAGIC, encode_block
from decnet_master.journal.segments import DURABLE_FILE, segment_path
from decnet_master.journal.writer import JournalWriter
from tests.journal.blocks import SENDER, block, lines_of, read_all

LATE = encode_block(block(8, b"three"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The newest segment of a journal that holds two blocks; its marker is lost, as it may be in a power cut."""
    writer = JournalWriter.open(tmp_path)
    writer.append([block(0, b"one")])
    writer.append([block(4, b"two")])
    writer.close()
    (tmp_path / DURABLE_FILE).unlink()
    return segment_path(tmp_path, 1)


@pytest.mark.parametrize("torn_bytes", [1, HEAD_BYTES, len(LATE) - 1])
def test_a_torn_tail_is_cut_and_told(path: Path, torn_bytes: int) -> None:
    end = path.stat().st_size
    with path.open("ab") as segment:
        segment.write(LATE[:torn_bytes])
    with capture_logs() as logs:
        JournalWriter.open(path.parent).close()
    told = {"event": "journal.tail_cut", "log_level": "warning", "segment": 1, "offset": end, "size_bytes": torn_bytes}
    assert logs == [told]
    assert path.stat().st_size == end
    with capture_logs() as logs:
        JournalWriter.open(path.parent).close()
    assert logs == []


@pytest.mark.parametrize("behind", [LATE, LATE[:-3] + LATE, b"junk" * 1000 + LATE + b"junk", MAGIC * 3 + LATE])
def test_what_has_whole_records_behind_it_is_no_tail(path: Path, behind: bytes) -> None:
    good = path.read_bytes()
    second = len(good) - len(encode_block(block(4, b"two")))
    broken = good[: second + 20] + b"!" + good[second + 21 :] + behind
    path.write_bytes(broken)
    with pytest.raises(RemoteProtocolError) as refused:
        JournalWriter.open(path.parent)
    assert f"segment 1 near byte {second}" in refused.value.message
    assert "set-aside" in refused.value.advice
    assert path.read_bytes() == broken, "nothing was cut"


def test_a_broken_last_record_with_nothing_behind_is_a_tail(path: Path) -> None:
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"!")
    writer = JournalWriter.open(path.parent)
    assert writer.durable_offset(SENDER, "s1") == 4
    writer.append([block(4, b"again")])
    assert lines_of(read_all(JournalReader(path.parent))) == [b"one", b"again"]
    writer.close()


def test_a_tail_that_is_made_to_be_searched_for_ever_is_refused_soon(path: Path) -> None:
    claims = MAGIC + bytes((1, 0, 0, 0)) + (15 << 20).to_bytes(4, "big") + bytes(4)
    with path.open("ab") as segment:
        segment.write(claims * 1000 + bytes(16 << 20))
    with path.open("rb") as segment, pytest.raises(RemoteProtocolError, match="looks like records"):
        salvage.find_record(segment.fileno(), path.stat().st_size - 1000 * len(claims) - (16 << 20))
