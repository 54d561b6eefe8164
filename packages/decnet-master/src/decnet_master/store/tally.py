"""What a load of events adds to attackers, sessions and credentials, folded in memory before it is stored.

Every value here is a least, a greatest, a sum or a first: so it does not matter how a stream of events is cut into
loads, and what is stored equals what one load of all events would give (`store.derived` merges by the same rules).

What counts. A credential is a login or an attempt that tells the user name and the password or the key. Types that
have no column of their own count among `events` alone. Times are the event's (`at`, the worker's clock) but for
`received_at`, the master's, which retention goes by.

Attackers type names and passwords of any length. Each is kept up to a bound, and told apart by a digest of the whole:
two long passwords with the same beginning stay two. The events hold them uncut.

This module does no IO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from operator import itemgetter
from typing import Any

from decnet_core.events import EventType
from decnet_master.store.values import original, storable

NAME_CHARS = 256
"""User names and session ids, in code points; Linux takes user names of 32."""

SECRET_CHARS = 1024
"""Passwords and keys; OpenSSH takes passwords of 1,024, PAM of 512."""

DIGEST_BYTES = 16
"""Of a name that may have any length; chosen by attackers, so beyond what can be made to collide."""

# Where the numbers of a visit stand, and (the first four and the last) those of a credential's use.
_FIRST, _LAST, _RECEIVED, _EVENTS, _CONNECTIONS, _FAILED, _SUCCEEDED, _CREDENTIALS, _COMMANDS, _FILES = range(10)
_OPENED, _CLOSED, _USER = range(10, 13)
_ACCEPTED = 4

_COUNTED = {
    EventType.CONNECTION_OPENED.value: _CONNECTIONS,
    EventType.LOGIN_FAILED.value: _FAILED,
    EventType.LOGIN_SUCCEEDED.value: _SUCCEEDED,
    EventType.COMMAND_RUN.value: _COMMANDS,
    EventType.FILE_CAPTURED.value: _FILES,
}
_TRIED, _ENTERED = EventType.CREDENTIAL_TRIED.value, EventType.LOGIN_SUCCEEDED.value
_SESSION_OPENED, _SESSION_CLOSED = EventType.SESSION_OPENED.value, EventType.SESSION_CLOSED.value
_ATTEMPTS = frozenset({_TRIED, _ENTERED, EventType.LOGIN_FAILED.value})
_NAMING = frozenset({_ENTERED, _SESSION_OPENED})
_KINDS = ("password", "key")

_TYPES = frozenset(one.value for one in EventType)

OTHER_TYPE = "other"
"""Of events whose type is not in the catalogue: workers may make up any number of them."""

TELLING = _ATTEMPTS | {_SESSION_OPENED, _SESSION_CLOSED}
"""The types whose fields a tally reads; of all others it may be given none."""

Row = tuple[Any, ...]
_Visit = tuple[str, str, str, str | None, str | None]
_visit_of: Callable[[Row], _Visit] = itemgetter(3, 4, 5, 8, 12)  # worker, decky, service, src_ip, session
_Credential = tuple[str, str, str]
_Use = tuple[bytes, str, str, str]


class Tally:
    """Folds events; give them in the order in which they are stored."""

    __slots__ = ("_count", "_folded_at", "_ids", "_rows", "_types", "_uses", "_visits")

    def __init__(self) -> None:
        self._count = 0
        # What one address did at one service of one decky in one session: the finest grain, all else are sums of it.
        self._visits: dict[_Visit, list[Any]] = {}
        self._uses: dict[_Use, list[int]] = {}
        self._types: dict[str, list[int]] = {}  # when the newest was received, and how many
        self._ids: dict[_Credential, bytes] = {}
        self._rows: dict[str, list[Row]] = {}
        self._folded_at: int | None = None  # how many events they are of

    def add(self, record: Row, fields: Mapping[str, Any]) -> None:
        """Count one event.

        Args:
            record: its row, in the order of `records.COLUMNS`.
            fields: what the event says; not looked at unless its type is one of `TELLING`.
        """
        self.add_all([(record, fields)])

    def add_all(self, rows: Iterable[tuple[Row, Mapping[str, Any]]]) -> None:
        """Count events, each as `add` does."""
        visits, types = self._visits, self._types
        for record, fields in rows:
            self._count += 1
            at, received, event_type = record[1], record[2], record[6]
            key = _visit_of(record)
            visit = visits.get(key)
            if visit is None:
                visit = visits[key] = [at, at, received, 0, 0, 0, 0, 0, 0, 0, None, None, None]
            else:  # `_widen`, written out: this runs for each event
                if at > visit[_LAST]:
                    visit[_LAST] = at
                elif at < visit[_FIRST]:
                    visit[_FIRST] = at
                if received > visit[_RECEIVED]:  # noqa: PLR1730 -- max() costs a call
                    visit[_RECEIVED] = received
            visit[_EVENTS] += 1
            counted = _COUNTED.get(event_type)
            if counted is not None:
                visit[counted] += 1
            of_type = types.get(event_type)
            if of_type is None:
                types[event_type] = [received, 1]
            else:
                if received > of_type[0]:  # noqa: PLR1730 -- as above
                    of_type[0] = received
                of_type[1] += 1
            if event_type in TELLING:
                self._add_telling(key, visit, record, fields)

    def _add_telling(self, key: _Visit, visit: list[Any], record: Row, fields: Mapping[str, Any]) -> None:
        at, event_type, user = record[1], record[6], fields.get("user")
        if event_type == _SESSION_OPENED:
            visit[_OPENED] = _least(visit[_OPENED], at)
        elif event_type == _SESSION_CLOSED:
            visit[_CLOSED] = _greatest(visit[_CLOSED], at)
        if user is None:
            return
        if event_type in _NAMING and visit[_USER] is None:
            visit[_USER] = (self._count, user)  # with its turn: visits of one session are folded by it
        if event_type in _ATTEMPTS:
            for kind in _KINDS:
                secret = fields.get(kind)
                if secret is not None:
                    visit[_CREDENTIALS] += 1
                    self._add_use(key, (kind, user, secret), record)

    def _add_use(self, visit: _Visit, credential: _Credential, record: Row) -> None:
        at, received = record[1], record[2]
        credential_id = self._ids.get(credential)
        if credential_id is None:
            credential_id = self._ids[credential] = _digest(*credential)
        key = (credential_id, visit[3] or "", visit[0], visit[1])
        use = self._uses.get(key)
        if use is None:
            use = self._uses[key] = [at, at, received, 0, 0]
        else:
            _widen(use, at, received)
        use[_EVENTS] += 1
        if record[6] == _ENTERED:
            use[_ACCEPTED] += 1

    def rows_of(self, table: str) -> list[Row]:
        """Give the rows of a derived table in the order of their first key, made once for all that were added."""
        if self._folded_at != self._count:
            self.fold()
        return self._rows[table]

    def fold(self) -> None:
        """Make the rows of all tables now: `rows_of` then only hands them out."""
        tables = (
            self.attackers,
            self.attacker_deckies,
            self.sessions,
            self.credentials,
            self.credential_uses,
            self.event_types,
        )
        # In their index neighbours then come one after the other.
        self._rows = {rows.__name__: sorted(rows(), key=itemgetter(0)) for rows in tables}
        self._folded_at = self._count

    def attackers(self) -> list[Row]:
        """Give the rows of `attackers`: an address and its sums."""
        return self._summed(itemgetter(3))

    def attacker_deckies(self) -> list[Row]:
        """Give the rows of `attacker_deckies`: an address, worker, decky and service, and their sums."""
        return self._summed(itemgetter(3, 0, 1, 2))

    def _summed(self, key_of: Callable[[_Visit], Any]) -> list[Row]:
        found: dict[Any, list[Any]] = {}
        for visit, numbers in self._visits.items():
            if visit[3] is None:
                continue  # nobody's: the decky's own words, ours
            key = key_of(visit)
            sums = found.get(key)
            if sums is None:
                found[key] = numbers[:_OPENED]
            else:
                _fold(sums, numbers, _OPENED)
        return [((key, *sums) if key.__class__ is str else (*key, *sums)) for key, sums in found.items()]

    def event_types(self) -> list[Row]:
        """Give the rows of `event_types`: a type of the catalogue or `OTHER_TYPE`, and its sums."""
        found: dict[str, tuple[int, int]] = {}
        for event_type, (received, count) in self._types.items():
            key = event_type if event_type in _TYPES else OTHER_TYPE
            newest, sum_ = found.get(key, (received, 0))
            found[key] = (max(newest, received), sum_ + count)
        return [(key, *numbers) for key, numbers in found.items()]

    def sessions(self) -> list[Row]:
        """Give the rows of `sessions`: id, what and whose it is, its times, its sums."""
        found: dict[tuple[str, str, str], tuple[str, list[Any]]] = {}
        sources: dict[tuple[str, str, str], str] = {}
        for (worker, decky, service, src_ip, session), numbers in self._visits.items():
            if session is None:
                continue
            key = (worker, decky, session)
            known = found.get(key)
            if known is None:
                found[key] = (service, numbers[:])
            else:
                _fold(known[1], numbers, _OPENED)
                _fold_ends(known[1], numbers)
            if src_ip is not None:
                sources.setdefault(key, src_ip)
        return [_session(key, service, sources.get(key), numbers) for key, (service, numbers) in found.items()]

    def credentials(self) -> list[Row]:
        """Give the rows of `credentials`: id, kind, user, secret, and their sums."""
        found: dict[bytes, list[int]] = {}
        for (credential_id, *_), numbers in self._uses.items():
            sums = found.get(credential_id)
            if sums is None:
                found[credential_id] = numbers[:]
            else:
                _fold(sums, numbers, _ACCEPTED + 1)
        return [_credential(key, credential_id, found[credential_id]) for key, credential_id in self._ids.items()]

    def credential_uses(self) -> list[Row]:
        """Give the rows of `credential_uses`: credential, address (empty when unknown), worker, decky, and sums."""
        return [(*key, *sums) for key, sums in self._uses.items()]


def _session(key: tuple[str, str, str], service: str, src_ip: str | None, numbers: list[Any]) -> Row:
    worker, decky, session = key
    user = None if numbers[_USER] is None else _bounded(numbers[_USER][1], NAME_CHARS)
    whose = (worker, decky, service, _bounded(original(session), NAME_CHARS), src_ip, user)
    sums = (numbers[_EVENTS], numbers[_CREDENTIALS], numbers[_COMMANDS], numbers[_FILES])
    return (_digest(*key), *whose, numbers[_OPENED], numbers[_CLOSED], *numbers[: _RECEIVED + 1], *sums)


def _credential(key: _Credential, credential_id: bytes, sums: list[int]) -> Row:
    kind, user, secret = key
    return (credential_id, kind, _bounded(user, NAME_CHARS), _bounded(secret, SECRET_CHARS), *sums)


def _widen(numbers: list[Any], at: int, received: int) -> None:
    if at > numbers[_LAST]:
        numbers[_LAST] = at
    elif at < numbers[_FIRST]:
        numbers[_FIRST] = at
    numbers[_RECEIVED] = max(numbers[_RECEIVED], received)


def _fold(sums: list[Any], numbers: list[Any], end: int) -> None:
    """Add a later visit's numbers up to `end`."""
    _widen(sums, numbers[_LAST], numbers[_RECEIVED])
    sums[_FIRST] = min(sums[_FIRST], numbers[_FIRST])
    for place in range(_EVENTS, end):
        sums[place] += numbers[place]


def _fold_ends(sums: list[Any], numbers: list[Any]) -> None:
    """Add when a session began and ended, and who was named first in it."""
    if numbers[_OPENED] is not None:
        sums[_OPENED] = _least(sums[_OPENED], numbers[_OPENED])
    if numbers[_CLOSED] is not None:
        sums[_CLOSED] = _greatest(sums[_CLOSED], numbers[_CLOSED])
    if numbers[_USER] is not None and (sums[_USER] is None or numbers[_USER][0] < sums[_USER][0]):
        sums[_USER] = numbers[_USER]


def _least(known: int | None, at: int) -> int:
    return at if known is None or at < known else known


def _greatest(known: int | None, at: int) -> int:
    return at if known is None or at > known else known


def _bounded(text: str, chars: int) -> str:
    return storable(text[:chars])


def _digest(*names: str) -> bytes:
    """Name a thing of several names; storable text holds no NUL, so none can be taken for two."""
    return blake2b("\0".join([storable(name) for name in names]).encode(), digest_size=DIGEST_BYTES).digest()
