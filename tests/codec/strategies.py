"""Messages, texts and lines that are as nasty as the codec must bear."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import strategies as st

from decnet_core.syslog.rfc5424 import SyslogMessage, encode

NASTY = [
    '"', "\\", "]", "[", "=", " ", '"]', '\\"', "\\]", "\\\\", '" b="', '"] x', "[relay@55555 ", "nested", "-",
    "\n", "\r\n", "\0", "\t", "\x01", "\x02", "\x03", "\x1b[2J", "\x7f", "\x85", "\u2028", "\ufeff", "\u202e",
    "\udc80", "\udcff", "\udcc3\udca9", "\ud83d", "\ude00", "é", "😀", "a", "0", "<165>1 ", "@spilled",
]  # fmt: skip

PRINTUSASCII = "".join(map(chr, range(33, 127)))
SD_NAME_CHARS = "".join(sorted(set(PRINTUSASCII) - set('="]')))

texts = st.lists(st.sampled_from(NASTY), max_size=8).map("".join) | st.text(
    st.characters(exclude_categories=()), max_size=40
)
names = (
    st.sampled_from(["user", "command", "src_ip", "a", "\\", "\\\\"]) | st.text(SD_NAME_CHARS, min_size=1, max_size=32)
).filter(lambda name: name != "nested")
objects = st.dictionaries(
    st.just("@spilled") | texts,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
        lambda below: st.lists(below, max_size=3) | st.dictionaries(texts, below, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)
times = st.none() | st.datetimes(
    datetime(1, 1, 2), datetime(9999, 12, 30),  # noqa: DTZ001 - the zone comes from the next argument
    timezones=st.just(UTC) | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)  # fmt: skip
other_sds = st.sampled_from(
    ["", "[x@1]", '[exampleSDID@32473 iut="3" eventSource="Application"]', '[meta a="\\]\\"\\\\" b=""][x@1 c="\n"]']
)


def slots(max_chars: int) -> st.SearchStrategy[str]:
    """Draw a header slot."""
    return st.just("-") | st.text(PRINTUSASCII, min_size=1, max_size=max_chars)


messages = st.builds(
    SyslogMessage,
    facility=st.integers(0, 23),
    severity=st.integers(0, 7),
    at=times,
    host=slots(255),
    app=slots(48),
    procid=slots(128),
    msgid=slots(32),
    params=st.dictionaries(names, texts, max_size=5),
    nested=st.none() | objects,
    message=texts,
    other_sd=other_sds,
)

FRAGMENTS = [
    b"<165>1 ", b"<0>1 ", b"<192>1 ", b"<01>1 ", b"<165>2 ", b"- ", b"-", b" ", b"2026-11-23T16:00:00.000000Z ",
    b"2026-11-23T24:00:00.000000Z ", b"2026-02-30T00:00:00Z ", b"2026-11-23T16:00:00.1+01:30 ", b"host app 1 id ",
    b"[relay@55555", b' a="1"', b' b="\\"\\]\\\\"', b' c="\\n"', b' c="]"', b' nested="e30="', b' nested="x"', b"]",
    b'"]', b'[x@1 y="z"]', b"\xef\xbb\xbf", b"\xff", b"\n", b"\0", b"text",
]  # fmt: skip

soup = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=14).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a line of ours with a few bytes cut out, put in or exchanged."""
    line = encode(draw(messages))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(line)))
        until = min(len(line), at + draw(st.integers(0, 3)))
        line = line[:at] + draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=2)) + line[until:]
    return line


lines = messages.map(encode) | damaged() | soup | st.binary(max_size=60)
