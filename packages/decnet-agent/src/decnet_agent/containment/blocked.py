"""Make few events of many blocked frames, and lose no count: pure, the time is an argument.

The first frame of a decky towards a destination is an event at once; what follows within `WINDOW_SECS` is counted, and
told with one more event when the window ends. So a connection that is tried, with the kernel's repetitions, is one
event and one count. A decky that tries more than `MOST_DESTINATIONS` within a window is told of by protocol from there
on, at the window's end: a scan of a network costs a hundred events and a sum.

Whose a frame is: the decky of its MAC; where that is nobody's, the one whose address it claims; else `-`. Whoever is on
the LAN can send a frame with a decky's MAC to another decky on this worker, which then counts as the decky's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from decnet_agent.containment.frames import Frame
from decnet_agent.containment.pairs import Pair
from decnet_core.events import Event, EventType, Trust

WINDOW_SECS = 60.0
MOST_DESTINATIONS = 100
MOST_ROWS = 20_000
"""Of all deckies together; 6 MB."""

NOBODY = "-"


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """What one decky tried; frames that are the same in all of this count as one attempt.

    Attributes:
        target_ip: `` for a frame without one.
        target_port: -1 for a protocol without ports; of ICMP the type.
        reason: `not-an-answer`, `false-address` (its MAC with an address that is not its own), `unknown-mac`.
        sibling: the decky on this worker that it was for.
    """

    decky: str
    protocol: str
    target_ip: str
    target_port: int
    reason: str
    sibling: str = ""


@dataclass(slots=True)
class _Row:
    began: datetime
    told: int
    count: int = 0


class Ledger:
    """Counts what was blocked.

    Args:
        emit: takes the events.
        most_rows: so many attempts of all deckies are told apart within a window.
    """

    def __init__(self, emit: Callable[[Event], None], *, most_rows: int = MOST_ROWS) -> None:
        self._emit = emit
        self._most_rows = most_rows
        self._rows: dict[Attempt, _Row] = {}
        self._destinations: Counter[str] = Counter()
        self._by_mac: dict[str, str] = {}
        self._by_ip: dict[str, str] = {}
        self._pairs: frozenset[tuple[str, str]] = frozenset()
        self.total = 0
        """Frames that were blocked."""

    def know(self, pairs: Iterable[Pair]) -> None:
        """Say whose which MAC and address is from now on."""
        every = list(pairs)
        self._by_mac = {pair.mac: pair.decky for pair in every}
        self._by_ip = {str(pair.ip): pair.decky for pair in every}
        self._pairs = frozenset((pair.mac, str(pair.ip)) for pair in every)

    def see(self, frame: Frame, at: datetime) -> None:
        """Take note of a blocked frame."""
        self.total += 1
        attempt = self._attempt(frame)
        row = self._rows.get(attempt)
        if row is not None:
            row.count += 1
            return
        if self._destinations[attempt.decky] < MOST_DESTINATIONS and len(self._rows) < self._most_rows:
            self._destinations[attempt.decky] += 1
            self._rows[attempt] = row = _Row(at, told=1, count=1)
            self._emit(_event(attempt, 1, at))
            return
        # one row for each decky and protocol: bounded, whatever is in the frames
        self._rows.setdefault(Attempt(attempt.decky, attempt.protocol, "", -1, "many"), _Row(at, told=0)).count += 1

    def turn(self, now: datetime) -> None:
        """Tell of the windows that have ended."""
        ended = [attempt for attempt, row in self._rows.items() if now - row.began >= timedelta(seconds=WINDOW_SECS)]
        for attempt in ended:
            row = self._rows.pop(attempt)
            if attempt.reason != "many":
                self._destinations[attempt.decky] -= 1
            if row.count > row.told:
                self._emit(_event(attempt, row.count - row.told, now, since=row.began))
        self._destinations = +self._destinations

    def finish(self, now: datetime) -> None:
        """Tell of all that is counted and not told."""
        self.turn(now + timedelta(seconds=WINDOW_SECS))

    def recent(self, decky: str) -> dict[Attempt, int]:
        """Return what a decky tried within the window, and how often."""
        return {attempt: row.count for attempt, row in self._rows.items() if attempt.decky == decky}

    def _attempt(self, frame: Frame) -> Attempt:
        target = "" if frame.target_ip is None else str(frame.target_ip)
        port = -1 if frame.target_port is None else frame.target_port
        source = "" if frame.source_ip is None else str(frame.source_ip)
        decky = self._by_mac.get(frame.source)
        if decky is None:
            decky, reason = self._by_ip.get(source, NOBODY), "unknown-mac"
        elif (frame.source, source) not in self._pairs and (frame.source_ip is None or frame.source_ip.version == 4):
            reason = "false-address" if source else "not-an-answer"
        else:
            reason = "not-an-answer"
        return Attempt(decky, frame.protocol, target, port, reason, self._by_mac.get(frame.target, ""))


def _event(attempt: Attempt, count: int, at: datetime, since: datetime | None = None) -> Event:
    fields = {"protocol": attempt.protocol, "count": str(count), "reason": attempt.reason}
    if attempt.sibling:
        fields["sibling"] = attempt.sibling
    if since is not None:
        fields["since"] = since.isoformat()
    port = attempt.target_port if attempt.protocol in ("tcp", "udp") and attempt.target_port >= 0 else None
    if attempt.protocol in ("icmp", "icmpv6") and attempt.target_port >= 0:
        fields["icmp_type"] = str(attempt.target_port)
    return Event(
        at,
        attempt.decky,
        "host",
        EventType.EGRESS_BLOCKED,
        Trust.SENSOR,
        "",
        "0",
        dst_ip=attempt.target_ip or None,
        dst_port=port,
        fields=fields,
    )
