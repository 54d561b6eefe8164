"""logship sends plain RFC 5425 with its certificate to log daemons that nobody here wrote."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from decnet_core.events import Event, EventType, Trust, from_syslog, to_syslog
from decnet_core.identity import MASTER
from decnet_core.pki.keystore import KeyStore
from decnet_core.syslog.rfc5424 import decode, encode
from decnet_logship.label import label_of
from tests.interop.test_third_party_senders import enrolled
from tests.lab.peers import Link, Peer
from tests.lab.processes import Daemon, free_port
from tests.lab.slots import MissingPart
from tests.shipping.place import WORKER, Log, Place
from tests.shipping.test_kills import logship

pytestmark = pytest.mark.slow

__all__ = ["enrolled"]

VALUES = [
    "plain",
    "two\nlines\r\nand a third",
    'quote " bracket ] backslash \\ percent %msg% dollar ${MSG}',
    "été 日本 🍯",
    "\x00\x01\x1b[2J\x7f",
    "x" * 60_000,
    "日" * 20_000,
]
LINES = 400

receivers = pytest.mark.parametrize("link", [Link.RSYSLOG_GNUTLS, Link.RSYSLOG_OPENSSL, Link.SYSLOG_NG])


def receiver(place: Place, link: Link, port: int, output: Path) -> Daemon:
    try:
        files = KeyStore(place.master_data / "identities").load(MASTER.role, datetime.now(UTC)).files
        return Peer(link, place.folder / "peer", files, port).receiver(output)
    except MissingPart as missing:
        pytest.skip(f"missing: {missing.message}. {missing.advice}")


def event(number: int) -> Event:
    return Event(
        at=datetime(2026, 11, 23, tzinfo=UTC),
        decky="web-1",
        service="ssh",
        event_type=EventType.LOGIN_FAILED,
        trust=Trust.GUEST,
        source="container:1",
        cursor=str(number),
        fields={"user": VALUES[number % len(VALUES)] if number < 3 * len(VALUES) else f"user {number}"},
        text=f"attempt {number}",
    )


def plainly(place: Place, port: int, their: Path) -> Daemon:
    more = {"DECNET_PROTOCOL": "rfc5425", "DECNET_RECEIVER_NAME": "decnet-master", "DECNET_FILES": str(their)}
    return logship(place, port, more)


@receivers
def test_each_event_arrives_as_it_was_written(enrolled: Place, link: Link) -> None:
    place, port, output = enrolled, free_port(), enrolled.folder / "output"
    log, their = Log(place.log_path), place.folder / "auth.log"
    events = [event(number) for number in range(LINES)]
    log.write(*[encode(to_syslog(one)) for one in events])
    their.write_bytes("sshd[7]: Ungültig, from 192.0.2.7\n".encode())
    wanted = [*log.written[log.generation], label_of(their, WORKER) + their.read_bytes().rstrip(b"\n")]
    with receiver(place, link, port, output) as peer:
        peer.wait_for_port(port)
        with plainly(place, port, their) as ship:
            ship.wait_until(lambda: sorted(lines(output)) == sorted(wanted), "all lines", timeout_secs=60)
            log.write(b"<134>1 - w1 app - - - the last one")
            ship.wait_until(lambda: lines(output)[-1:] == log.written[log.generation][-1:], "one more")
            assert ship.stop() == 0
        with plainly(place, port, their) as ship:
            log.write(b"<134>1 - w1 app - - - after a restart")
            ship.wait_until(lambda: lines(output)[-1:] == log.written[log.generation][-1:], "what came later")
        assert len(lines(output)) == len(wanted) + 2, "a restart sends nothing again"
    read = [line for line in lines(output) if b"login.failed" in line]
    back = [
        from_syslog(decode(line), fallback_source="", fallback_cursor="", received_at=datetime.now(UTC))
        for line in read
    ]
    assert back == events


def lines(output: Path) -> list[bytes]:
    return output.read_bytes().split(b"\n")[:-1] if output.exists() else []


def test_a_receiver_that_was_away_gets_what_was_written_meanwhile(enrolled: Place) -> None:
    place, port, output = enrolled, free_port(), enrolled.folder / "output"
    log, their = Log(place.log_path), place.folder / "absent.log"
    with plainly(place, port, their) as ship, receiver(place, Link.RSYSLOG_OPENSSL, port, output) as peer:
        peer.wait_for_port(port)
        ship.wait_until(lambda: len(lines(output)) == 1, "the first line")
        assert peer.stop() == 0
        log.write(*[b"<134>1 - w1 app - - - %d" % number for number in range(100)])
        ship.wait_for_line("connection.failed")
        peer.start()
        ship.wait_until(lambda: set(lines(output)) >= set(log.written[log.generation]), "the rest", timeout_secs=60)
