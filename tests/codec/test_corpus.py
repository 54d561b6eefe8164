"""The committed corpus: lines and streams as files, each with what must come of it.

`corpus/lines/NAME.line` is one line as raw bytes, `NAME.json` says why it is there and either the `message` that it is
(every attribute; surrogates as JSON escapes) or the `refused` that the refusal must speak of.

`corpus/frames/NAME.stream` is what a peer sent, `NAME.json` the bound, the payloads that come out (Latin-1: a
character is an octet), the bytes still pending at its end and, where the decoder dies, what of.

A line or stream that ever broke something belongs here.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from decnet_core.errors import RemoteProtocolError
from decnet_core.syslog.framing import FrameDecoder
from decnet_core.syslog.rfc5424 import decode, encode
from decnet_core.syslog.strict import decode_strict

CORPUS = Path(__file__).parent / "corpus"
LINES = sorted((CORPUS / "lines").glob("*.line"))
STREAMS = sorted((CORPUS / "frames").glob("*.stream"))


@pytest.mark.parametrize("path", LINES, ids=lambda path: path.stem)
def test_line(path: Path) -> None:
    line, expected = path.read_bytes(), expectation_of(path)
    if "refused" in expected:
        with pytest.raises(RemoteProtocolError, match=expected["refused"]):
            decode(line)
        with pytest.raises(RemoteProtocolError, match=expected["refused"]):
            decode_strict(line.decode("utf-8", "surrogateescape"))
        return
    message = decode(line)
    assert message == decode_strict(line.decode("utf-8", "surrogateescape"))
    assert {**asdict(message), "at": message.at.isoformat() if message.at else None} == expected["message"]
    assert decode(encode(message)) == message


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_stream(path: Path) -> None:
    stream, expected = path.read_bytes(), expectation_of(path)
    for step in (len(stream) + 1, 7, 1):
        decoder = FrameDecoder(expected["max_frame_bytes"])
        payloads: list[bytes] = []
        for at in range(0, len(stream), step):
            try:
                payloads += decoder.feed(stream[at : at + step])
            except RemoteProtocolError:
                break
        assert [payload.decode("latin-1") for payload in payloads] == expected["payloads"]
        assert decoder.pending_bytes == expected["pending_bytes"]
        assert (decoder.error is None) == (expected["refused"] is None)
        if decoder.error is not None:
            assert expected["refused"] in decoder.error.message


def test_the_corpus_is_there_and_every_file_of_it_is_read() -> None:
    read = {path.with_suffix(suffix) for path in LINES + STREAMS for suffix in (path.suffix, ".json")}
    assert {path for path in CORPUS.rglob("*") if path.is_file() and path.name != ".gitattributes"} == read
    assert len(LINES) > 100
    assert len(STREAMS) > 20


def expectation_of(path: Path) -> dict[str, Any]:
    """Read what must come of a file."""
    expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="ascii"))
    return expected
