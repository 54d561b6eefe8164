"""The codec of RFC 5424 and its parts: total, exact both ways, and the quick reader equal to the strict one."""

from __future__ import annotations

import base64
import re
from ipaddress import ip_address

from decnet_core.errors import RemoteProtocolError
from decnet_core.syslog import rfc5424
from decnet_core.syslog.nested import decode_nested, encode_nested
from decnet_core.syslog.rfc5424 import decode, encode
from decnet_core.syslog.source_address import source_address_of
from decnet_core.syslog.strict import decode_strict, with_nested
from tests.fuzz.target import Target, hold, is_refusal, outcome

_NEVER_IN_A_LINE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")

OURS = (
    b"<163>1 2026-11-23T16:00:00.123456Z web-01 ssh 4711 command.run "
    b'[relay@55555 id="00112233445566778899aabbccddeeff" source="tap:boot" cursor="7.1" trust="sensor" '
    b'src_ip="192.0.2.7" src_port="4711" session="s1" command="cat \\"/etc/passwd\\" \\\\ \\]"] a command was run'
)
"""A line as an agent writes it."""

SPILLED = encode(
    rfc5424.SyslogMessage(
        20, 5, None, "d", "ssh", "1", "guest.line", {"command": "a\nb\0"}, {"a": [1, {"b": None}]}, "x\r\n\udcff"
    )
)
LINES = (
    OURS,
    SPILLED,
    b"<13>1 - - - - - -",
    b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf'su root' failed",
    b"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time",
    b'<165>1 2003-10-11T22:14:15Z h evntslog - ID47 [exampleSDID@32473 iut="3" eventSource="A\\]"][x@1 y="z"] BOM',
    b'<0>1 - h a 1 m [relay@55555 a="1" b="\\\\\\"\\]" nested="e30="][x@1]',
)
TOKENS = (
    b"<165>1 ", b"<191>1 ", b"<192>1 ", b"<0>1 ", b"- ", b"[relay@55555", b' a="', b'"]', b'\\"', b"\\\\", b"\\]",
    b' nested="', b'nested="e30="', b"2026-11-23T16:00:00.123456Z", b"2026-02-30T24:60:60Z", b"+23:59", b"-00:00",
    b"[x@1]", b'" b="', b"@spilled", b"trust", b"sensor", b"source", b"cursor", b"src_ip", b"src_port", b"id",
)  # fmt: skip


def codec(data: bytes) -> None:
    """A line gives a message or a refusal, the same by both readers; a message is written as one clean line."""
    text = data.decode("utf-8", "surrogateescape")
    strict = outcome(decode_strict, text, RemoteProtocolError)
    quick = rfc5424._split(text)
    if quick is not None:
        hold(outcome(with_nested, quick, RemoteProtocolError) == strict, "the quick reader and the strict one differ")
    message = outcome(decode, data, RemoteProtocolError)
    hold(message == strict, "decode says something else than the strict reader")
    if is_refusal(message):
        return
    line = encode(message)
    hold(_NEVER_IN_A_LINE.search(line.decode("utf-8")) is None, "a written line holds a control character")
    again = decode(line)
    hold(again == message, "a written line means something else")
    hold(encode(again) == line, "a line that is read and written changes")


def nested(data: bytes) -> None:
    """The base64 parameter gives an object or a refusal, and comes back exactly."""
    for value in (data.decode("latin-1"), base64.b64encode(data).decode("ascii")):
        read = outcome(decode_nested, value, RemoteProtocolError)
        if not is_refusal(read):
            hold(decode_nested(encode_nested(*read)) == read, "a nested object comes back as another")


def address(data: bytes) -> None:
    """Free text names an address in its canonical form, or none."""
    found = source_address_of(data.decode("utf-8", "surrogateescape"))
    if found is not None:
        parsed = ip_address(found)
        hold(str(parsed) == found and not parsed.is_unspecified, "an address is not canonical")


TARGETS = (
    Target("codec", codec, LINES, TOKENS, 30),
    Target(
        "nested",
        nested,
        (
            b"{}",
            b'{"a":[1,2.5,null,true,"\\ud800",{"b":"\\n"}]}',
            b'{"@spilled":{"params":{"a":"x"},"message":"y","other_sd":"[x@1]","nested":{"@spilled":1}}}',
            b"[" * 40,
        ),
        (
            b"{",
            b"}",
            b"[",
            b"]",
            b'":',
            b",",
            b'"@spilled":',
            b'"params":',
            b'"nested":',
            b"Infinity",
            b"null",
            b"e30=",
        ),
    ),
    Target(
        "source-address",
        address,
        (
            b"Failed password for invalid user x from 192.0.2.7 port 4711 ssh2",
            b"Connection from fe80::1%eth0 port 22 on 192.0.2.1 port 22",
            b"SRC=192.0.2.7 DST=192.0.2.8 rhost=::ffff:192.0.2.9 from [2001:db8::1]:22: x",
        ),
        (
            b"from ",
            b" port ",
            b"src=",
            b"rhost=",
            b"peer: ",
            b"::",
            b"192.0.2.7",
            b"%",
            b"0.0.0.0",
            b" ssh2",
            b"[preauth]",
        ),
    ),
)
