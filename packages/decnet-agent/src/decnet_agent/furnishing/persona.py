"""Who lives on a decky: people, what they typed, what they left lying about. A pure function of a seed.

The seed travels in the decky's spec, so the master decides it once and the same machine comes back wherever and
whenever it is made: after an update, on another worker, after it was torn down. Each thing is drawn by a generator of
its own, named after it, so that another thing to draw changes nothing of the rest.

The story: all machines of a site were cloned from one template, which is the image (its packages' dates tell of its
updates). Cloning gave each its host keys and its name on a day between `FIRST_CLONE` and `LAST_CLONE`; people have
worked on it since, until some days before it is made. Those last dates follow the clock: a machine that nobody has
touched for years is as odd as one that began to live this minute.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from decnet_agent.furnishing import persona_words as words
from decnet_agent.furnishing.persona_words import Trade

FIRST_CLONE = 1_698_044_400
"""2023-10-23, two weeks after the images' template was installed."""
LAST_CLONE = 1_727_690_400
"""2024-09-30."""

DAY_SECS = 86_400

_MIN_LINES, _MAX_LINES = 12, 90
_MOSTLY = 0.4
_RECORDED_DAYS = 24
"""How far back the record of logins goes: it is rotated each month."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a home on the machine.

    Attributes:
        user: the login name.
        full_name: for the GECOS field.
        history: what was typed, oldest first.
        notes: a file of theirs, if they have one.
        key: the public half of a key that lets them in, if they use one.
        last_seen_days: how long ago they worked here.
        joined_days: how long after the cloning they got their home.
    """

    user: str
    full_name: str
    history: tuple[str, ...]
    notes: str | None
    key: str | None
    last_seen_days: float
    joined_days: float


@dataclass(frozen=True, slots=True)
class LeftFile:
    """A file that somebody left: `age` is where its date lies between the cloning (0) and the last work (1)."""

    path: str
    content: str
    executable: bool
    age: float


@dataclass(frozen=True, slots=True)
class PastVisit:
    """Somebody's work at a terminal, so many days before the machine is made."""

    user: str
    days_ago: float
    minutes: int
    pid: int


@dataclass(frozen=True, slots=True)
class Persona:
    """One machine's life.

    Attributes:
        cloned_at: Unix seconds.
        machine_id: 32 hex digits.
        local_time: whether it has the site's time zone; servers of some have UTC.
        people: beside the decky's own accounts.
        lives: the same of the decky's own accounts, and of root.
        admins: who may sudo.
        files: what lies about.
        motd: in place of Debian's, if any; `{domain}` is the site's.
        visits: of the last weeks, for the record of logins.
        workstation: where they came from: an address in another network.
    """

    cloned_at: int
    machine_id: str
    local_time: bool
    people: tuple[Person, ...]
    lives: tuple[Person, ...]
    admins: tuple[str, ...]
    files: tuple[LeftFile, ...]
    motd: str | None
    visits: tuple[PastVisit, ...]
    workstation: str


def draw_persona(seed: int, host: str, users: Sequence[str]) -> Persona:
    """Draw a machine's life.

    Args:
        seed: from the spec.
        host: its name, which tells its trade.
        users: the accounts that let attackers in; nobody else gets one of these names.
    """

    def about(what: str) -> Random:
        return Random(f"{seed}/{what}")  # noqa: S311 -- a disguise, not a secret, and it must be repeatable

    trade = _trade_of(host, about("trade"))
    app = about("app").choice(trade.apps)
    people = _people(about("people"), frozenset(users))
    names = [user for user, _ in people]
    place = _Place(trade, app, names)
    residents = tuple(_life(about(f"life of {user}"), user, full, place) for user, full in people)
    lives = tuple(_life(about(f"life of {user}"), user, "", place) for user in sorted({*users, "root"}))
    asked = about("admins")
    accounts = [user for user in users if user in words.LIKELY_ADMINS]
    clone = about("clone")
    return Persona(
        cloned_at=clone.randrange(FIRST_CLONE, LAST_CLONE),
        machine_id=f"{about('machine-id').getrandbits(128):032x}",
        local_time=about("time").random() < 0.7,
        people=residents,
        lives=lives,
        admins=(names[0], *asked.sample(accounts, min(1, len(accounts)))),
        files=_files(about("files"), place, host),
        motd=_motd(about("motd"), place, host),
        visits=_visits(about("visits"), residents),
        workstation=_workstation(about("workstation")),
    )


@dataclass(frozen=True, slots=True)
class _Place:
    trade: Trade
    app: str
    names: Sequence[str]

    def fill(self, rng: Random, text: str) -> str:
        """Put something in each place of a text; one that occurs twice gets the same."""
        for place, drawn in (
            ("{app}", self.app),
            ("{user}", rng.choice(self.names)),
            ("{day}", f"{rng.randrange(1, 29):02d}"),
            ("{n}", str(rng.randrange(1, 10))),
            ("{pid}", str(_pid(rng))),
            ("{secret}", rng.choice(words.SECRETS)),
        ):
            text = text.replace(place, drawn)
        return text


def _trade_of(host: str, rng: Random) -> Trade:
    fitting = [trade for trade in words.TRADES if host.startswith(trade.stems)]
    return fitting[0] if fitting else rng.choice(words.TRADES)


def _people(rng: Random, taken: frozenset[str]) -> list[tuple[str, str]]:
    style, count = rng.randrange(3), rng.choice((1, 2, 2, 3))
    found: dict[str, str] = {}
    while len(found) < count:
        first, last = rng.choice(words.FIRST_NAMES), rng.choice(words.LAST_NAMES)
        user = (first, f"{first[0]}{last}", f"{first}{last[0]}")[style]
        if user not in taken:
            found[user] = f"{first.title()} {last.title()}"
    return list(found.items())


def _life(rng: Random, user: str, full_name: str, place: _Place) -> Person:
    count = rng.randrange(_MIN_LINES, _MAX_LINES)
    mine = rng.sample(words.COMMON, len(words.COMMON) // 2)
    typed = (rng.choice(place.trade.commands if rng.random() < _MOSTLY else mine) for _ in range(count))
    history = [place.fill(rng, line) for line in typed]
    notes = place.fill(rng, rng.choice(words.NOTES)) if rng.random() < 0.5 else None
    key = f"ssh-ed25519 {_public_key(rng)} {user}@{rng.choice(('ws', 'nb', 'pc'))}{rng.randrange(10, 99)}"
    return Person(
        user=user,
        full_name=full_name,
        history=tuple(history),
        notes=notes,
        key=key if rng.random() < 0.5 else None,
        last_seen_days=round(rng.uniform(0.6, 21), 3),
        joined_days=round(rng.uniform(0.1, 20), 3),
    )


def _public_key(rng: Random) -> str:
    """Write 32 bytes as an Ed25519 key in RFC 4253's form; half of all such bytes are keys, and none can be told."""
    name = b"ssh-ed25519"
    blob = len(name).to_bytes(4, "big") + name + (32).to_bytes(4, "big") + rng.randbytes(32)
    return base64.b64encode(blob).decode()


def _files(rng: Random, place: _Place, host: str) -> tuple[LeftFile, ...]:
    files = []
    for path, content in place.trade.files.items():
        text = place.fill(rng, content).replace("{host}", host)
        files.append(LeftFile(place.fill(rng, path), text, text.startswith("#!"), round(rng.random(), 3)))
    return tuple(files)


def _visits(rng: Random, people: Sequence[Person]) -> tuple[PastVisit, ...]:
    visits = [PastVisit(person.user, person.last_seen_days, rng.randrange(2, 90), _pid(rng)) for person in people]
    for _ in range(rng.randrange(3, 15)):
        person = rng.choice(people)
        ago = round(rng.uniform(person.last_seen_days, _RECORDED_DAYS), 3)
        visits.append(PastVisit(person.user, ago, rng.randrange(1, 240), _pid(rng)))
    return tuple(visit for visit in visits if visit.days_ago < _RECORDED_DAYS)


def _pid(rng: Random) -> int:
    return rng.randrange(700, 30_000)


def _motd(rng: Random, place: _Place, host: str) -> str | None:
    text = rng.choice(words.MOTDS)
    return None if text is None else place.fill(rng, text).replace("{host}", host)


def _workstation(rng: Random) -> str:
    """Draw an address of another network, where the desks stand (RFC 1918's middle block)."""
    return f"172.{rng.randrange(16, 32)}.{rng.randrange(1, 255)}.{rng.randrange(20, 240)}"
