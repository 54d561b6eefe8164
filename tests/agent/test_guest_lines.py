from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.evidence.guest_lines import read_line
from decnet_core.events import Event, EventType, check, to_syslog
from decnet_core.syslog.rfc5424 import encode

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def read(words: str, program: str = "sshd", pid: str = "103") -> Event:
    line = f"<38>1 2026-01-31T12:00:00.123456+00:00 web01 {program} {pid} - -  {words}"
    return read_raw(line.encode("utf-8", "surrogateescape"))


def read_raw(line: bytes) -> Event:
    event = read_line(line, at=AT, decky="files01", source="container:abc", cursor="1.0")
    check(event)
    encode(to_syslog(event))
    return event


def test_a_refused_password():
    event = read("Failed password for invalid user bob from 192.0.2.7 port 57710 ssh2")
    assert (event.event_type, event.src_ip, event.src_port, event.pid) == ("login.failed", "192.0.2.7", 57710, 103)
    assert event.fields == {"user": "bob", "method": "password", "known_user": "false"}
    assert (event.decky, event.service, event.trust, event.at) == ("files01", "ssh", "guest", AT)


def test_a_known_user_is_refused():
    assert read("Failed password for root from 192.0.2.7 port 1 ssh2").fields["known_user"] == "true"


@pytest.mark.parametrize(
    ("words", "method", "key"),
    [
        ("Accepted password for root from 2001:db8::7 port 57710 ssh2", "password", None),
        (
            "Accepted publickey for root from 2001:db8::7 port 57710 ssh2: ED25519 SHA256:" + "a" * 43,
            "publickey",
            "ED25519 SHA256:" + "a" * 43,
        ),
    ],
)
def test_an_accepted_login(words, method, key):
    event = read(words)
    assert (event.event_type, event.src_ip) == ("login.succeeded", "2001:db8::7")
    assert (event.fields["method"], event.fields.get("key")) == (method, key)


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("Connection closed by 10.0.0.9 port 5", {"reason": "connection closed"}),
        (
            "Connection closed by authenticating user root 10.0.0.9 port 5 [preauth]",
            {"reason": "connection closed", "user": "root"},
        ),
        (
            "Connection reset by invalid user a 1.1.1.1 port 2 10.0.0.9 port 5 [preauth]",
            {"reason": "connection reset", "user": "a 1.1.1.1 port 2"},
        ),
        ("Disconnected from user root 10.0.0.9 port 5", {"reason": "disconnected", "user": "root"}),
        (
            "Disconnected from invalid user a 1.1.1.1 port 1:1: x 10.0.0.9 port 5 [preauth]",
            {"reason": "disconnected", "user": "a 1.1.1.1 port 1:1: x"},
        ),
    ],
)
def test_a_connection_ends(words, fields):
    event = read(words)
    assert (event.event_type, event.src_ip, event.src_port, event.fields) == (
        "connection.closed",
        "10.0.0.9",
        5,
        fields,
    )


def test_a_connection_begins():
    event = read('Connection from 10.0.0.9 port 5 on 10.0.0.1 port 22 rdomain ""')
    assert (event.event_type, event.src_ip, event.dst_ip, event.dst_port) == (
        "connection.opened",
        "10.0.0.9",
        "10.0.0.1",
        22,
    )


def test_what_a_client_says_when_it_leaves_is_no_address():
    event = read("Received disconnect from 10.0.0.9 port 5:11: by user x 1.1.1.1 port 1 [preauth]")
    assert (event.event_type, event.src_ip) == ("guest.line", "10.0.0.9")


def test_sessions():
    opened = read("pam_unix(sshd:session): session opened for user root(uid=0) by (uid=0)")
    assert (opened.event_type, opened.fields) == ("session.opened", {"user": "root", "by": "(uid=0)"})
    closed = read("pam_unix(sudo:session): session closed for user root", "sudo")
    assert (closed.event_type, closed.fields, closed.service) == ("session.closed", {"user": "root"}, "host")


def test_sudo():
    event = read("alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/cat /etc/shadow", "sudo")
    assert event.event_type == "command.run"
    assert event.fields == {
        "command": "/usr/bin/cat /etc/shadow",
        "user": "alice",
        "cwd": "/home/alice",
        "tty": "pts/0",
    }
    refused = read("alice : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh", "sudo")
    assert refused.event_type == "guest.line"


def test_words_of_the_boot():
    event = read_raw(b"INIT: Entering runlevel: 2")
    assert (event.event_type, event.service, event.text) == ("guest.line", "host", "INIT: Entering runlevel: 2")


def test_a_record_behind_words_of_the_boot():
    line = (
        b"left in this runlevel<38>1 2026-01-31T12:00:00.1+00:00 w sshd 1 - -  Accepted password for a from ::1 port 1 "
    )
    assert read_raw(line + b"ssh2").event_type == "login.succeeded"


def test_a_line_never_says_who_the_decky_is():
    event = read_raw(
        b'<38>1 2026-01-31T12:00:00Z other sshd 1 login.succeeded [relay@55555 trust="sensor" source="x" decky="y"] hi'
    )
    assert (event.decky, event.source, event.trust, event.event_type) == (
        "files01",
        "container:abc",
        "guest",
        "guest.line",
    )


def test_an_ambiguous_sentence_is_only_words():
    key = "ED25519-CERT SHA256:" + "a" * 43
    words = (
        f"Failed publickey for invalid user x from 10.0.0.9 port 5 ssh2: {key} ID x from 1.1.1.1 port 1 ssh2 (serial 0)"
    )
    assert read(words).src_ip is None


hostile = st.lists(
    st.sampled_from(
        [
            " from ", "1.2.3.4", " port ", "22", " ssh2", " ssh2: ", "root", "invalid user ", ": ", "[preauth]", "x",
            " ", "RSA SHA256:" + "b" * 43, "Accepted password for ", "::1", ":11: ",
        ]
    ) | st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8),
    max_size=14,
).map("".join)  # fmt: skip


@given(hostile)
def test_a_user_name_cannot_forge_the_address(user):
    event = read(f"Failed password for invalid user {user} from 10.0.0.9 port 5 ssh2")
    assert (event.event_type, event.src_ip, event.src_port) == ("login.failed", "10.0.0.9", 5)
    event = read(f"Connection closed by invalid user {user} 10.0.0.9 port 5 [preauth]")
    assert (event.event_type, event.src_ip, event.src_port) == ("connection.closed", "10.0.0.9", 5)
    event = read(f"Failed publickey for invalid user {user} from 10.0.0.9 port 5 ssh2: RSA SHA256:{'a' * 43}")
    assert (event.src_ip, event.src_port) == ("10.0.0.9", 5)


@given(st.binary(max_size=300))
def test_any_bytes_are_one_event(line):
    read_raw(line)


@given(st.text(max_size=200), st.sampled_from(["sshd", "sudo", "su", "cron"]))
def test_any_words_are_one_event(words, program):
    read(words.encode("utf-8", "replace").decode(), program)


@pytest.mark.parametrize(
    ("program", "start", "piece"),
    [
        ("sudo", "a : TTY=x ; PWD=", " ; USER=a ; ENV="),
        ("sudo", "a : TTY=x ; PWD=", " ; USER=a ; ENV= ; COMMAND"),
        ("sudo", "a : ", "a ; "),
        ("sshd", "Connection closed by user ", " 1.1.1.1 port 1"),
        ("sshd", "Failed password for invalid user ", " from 1.1.1.1 port 1 ssh2: "),
    ],
)
def test_a_line_made_to_be_hard_is_read_at_once(program, start, piece):
    """All deckies' lines are read by one thread, and any user of one can log what he likes."""
    words = (start + piece * 1000)[:8000]
    before = time.process_time()
    for _ in range(50):
        read(words, program)
    assert time.process_time() - before < 0.5


def test_a_line_end_that_a_guest_smuggled_in_makes_no_sentence_and_no_work():
    words = "Connection closed by user x" + " 192.0.2.7 port 1:1: " * 380 + "\nx"
    spilled = base64.b64encode(json.dumps({"@spilled": {"message": words}}).encode())
    line = b'<86>1 - h sshd 1 - [relay@55555 nested="' + spilled + b'"] x'
    before = time.process_time()
    for _ in range(50):
        event = read_raw(line)
    assert time.process_time() - before < 0.5  # trying each address would take a second and more
    assert (event.event_type, event.src_ip, event.text) == (EventType.GUEST_LINE, None, f"sshd: {words[:8192]}")


def test_what_telnet_s_server_and_login_say_is_of_that_service():
    event = read("connect from 192.0.2.7 (192.0.2.7)", program="telnetd")
    assert (event.event_type, event.service, event.src_ip) == ("connection.opened", "telnet", "192.0.2.7")
    event = read(
        "FAILED LOGIN (1) on '/dev/pts/1' from '192.0.2.7' FOR 'root', Authentication failure", program="login"
    )
    assert (event.event_type, event.service, event.src_ip) == ("login.failed", "telnet", "192.0.2.7")
    assert event.fields == {"user": "root", "method": "password", "known_user": "true"}
    event = read(
        "FAILED LOGIN (2) on '/dev/pts/1' from '192.0.2.7' FOR 'UNKNOWN', Authentication failure", program="login"
    )
    assert event.fields["known_user"] == "false"
    event = read("pam_unix(login:session): session opened for user bob(uid=1000) by .telnet(uid=0)", program="login")
    assert (event.event_type, event.service) == ("session.opened", "telnet")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("login", "FAILED LOGIN (1) on '/dev/pts/1' from 'far.example' FOR 'root', Authentication failure"),
        ("login", "FAILED LOGIN (1) on '/dev/pts/1' from '1.2.3.4' FOR 'x' FOR 'root', Authentication failure"),
        ("login", "FAILED LOGIN (1) on '/dev/pts/1' from '1.2.3.4.5' FOR 'root', Authentication failure"),
        ("login", "ROOT LOGIN  on '/dev/pts/1' from '192.0.2.7'"),
        ("telnetd", "connect from 192.0.2.7"),
        ("telnetd", "connect from a b (192.0.2.7)"),
    ],
)
def test_what_login_may_have_meant_otherwise_is_a_guest_line(program, words):
    assert read(words, program=program).event_type == "guest.line"
