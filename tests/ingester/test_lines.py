from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from decnet_core.events import Trust
from decnet_master.ingester.lines import Sorted, positions
from decnet_master.journal.reader import Batch, Position
from decnet_master.journal.record import PLAIN
from decnet_master.store.records import COLUMNS
from tests.ingester.journals import STREAM, a_line

NOW = datetime(2026, 11, 23, tzinfo=UTC)
HEAD = b"<164>1 2026-11-23T12:30:15Z web-1 ssh 7 guest.line "

line = st.binary(max_size=60) | st.binary(max_size=60).map(HEAD.__add__)
params = st.dictionaries(
    st.sampled_from(["src_ip", "dst_ip", "src_port", "trust", "source", "cursor", "session", "nested", "user"]),
    st.text(max_size=20),
)


@given(st.lists(line | params.map(lambda p: HEAD + _element(p)), max_size=20))
def test_every_line_becomes_exactly_one_thing(lines: list[bytes]) -> None:
    end = 1000 + sum(len(one) + 1 for one in lines)
    batch = Batch("logship@w1", "s", 1000, end, NOW, tuple(lines), Position(1, 1))
    found = Sorted()
    found.add(batch)
    holes = 0 if lines else 1
    assert len(found.load.records) + len(found.letters) == len(lines) + holes
    assert all(record[COLUMNS.index("worker")] == "w1" for record in found.load.records)
    if lines:
        places = dict(positions(batch))
        assert [places[letter.position] for letter in found.letters] == [letter.raw for letter in found.letters]


def test_trust_is_taken_from_our_own_shippers_alone() -> None:
    line = a_line(1, trust=Trust.SENSOR, event_type="command.run", fields={"command": "id"})
    for stream, trust in ((STREAM, "sensor"), (f"{PLAIN}{STREAM}", "guest")):
        found = Sorted()
        found.add(Batch("logship@w1", stream, 0, len(line) + 1, NOW, (line,), Position(1, 1)))
        (record,) = found.load.records
        assert record[COLUMNS.index("trust")] == trust
        assert record[COLUMNS.index("event_type")] == "command.run"


def _element(values: dict[str, str]) -> bytes:
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")

    inner = " ".join(["relay@55555", *(f'{name}="{escaped(value)}"' for name, value in values.items())])
    return f"[{inner}]".encode("utf-8", "surrogatepass")
