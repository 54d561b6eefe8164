"""What a decky passes for: its name, its network card, its accounts.

Pure: the randomness is an argument, so that the planner stays deterministic by its seed. A name tells what kind of
machine it is (`files-02`, `print-hp-3`), and the card's vendor fits the kind. Accounts are weak on purpose: an
attacker is to get in after some tries, but never with just any password, and what worked on one decky shall not
work on all of them.

Source of the prefixes: the IEEE's public registry of MA-L assignments.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

from decnet_core.fleet import Account

_ATTEMPTS = 200
"""Draws before the numbering is counted up instead: at that density a free number is quicker found by looking."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of machine: what it is called and whose network card it has."""

    stems: tuple[str, ...]
    prefixes: tuple[str, ...]


_DELL, _HP, _SUPERMICRO = "18:66:da", "3c:d9:2b", "0c:c4:7a"
_INTEL, _VMWARE, _HYPER_V, _SYNOLOGY = "a0:36:9f", "00:50:56", "00:15:5d", "00:11:32"

_SERVERS = (_DELL, _HP, _SUPERMICRO, _INTEL)
_GUESTS = (_VMWARE, _HYPER_V)

_KINDS = (
    _Kind(("files", "fs", "share", "archive"), (*_SERVERS, _SYNOLOGY)),
    _Kind(("nas", "backup", "bkp", "store"), (_SYNOLOGY, _SUPERMICRO, _HP)),
    _Kind(("print-hp", "printsrv", "print-og2"), (_HP,)),
    _Kind(("web", "intra", "wiki", "portal", "cms"), (*_GUESTS, _DELL)),
    _Kind(("app", "erp", "crm", "hr-app", "ticket"), (*_GUESTS, _SUPERMICRO)),
    _Kind(("db", "sql", "pg", "reports"), (*_SERVERS, _VMWARE)),
    _Kind(("git", "build", "ci", "jenkins", "registry"), (*_GUESTS, _INTEL)),
    _Kind(("mon", "log", "zabbix", "graylog"), (*_GUESTS, _HP)),
    _Kind(("dev", "test", "stage", "lab"), (*_GUESTS, _INTEL)),
    _Kind(("mail", "relay", "mx"), (*_GUESTS, _DELL)),
    _Kind(("cam-nvr", "door", "bms"), (_INTEL, _SUPERMICRO)),
)

_LOGINS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("root", ("toor", "root123", "changeme", "P@ssw0rd", "letmein", "admin1234")),
    ("admin", ("admin", "admin123", "password", "Welcome1", "changeme", "12345678")),
    ("backup", ("backup", "backup123", "Backup1", "veeam")),
    ("oracle", ("oracle", "oracle123", "welcome1")),
    ("postgres", ("postgres", "postgres1", "pg123456")),
    ("deploy", ("deploy", "deploy123", "Summer2024", "jenkins")),
    ("ubuntu", ("ubuntu", "ubuntu123", "qwerty123")),
    ("support", ("support", "support1", "helpdesk")),
    ("operator", ("operator", "operator1", "12341234")),
    ("svc-scan", ("scan", "scanner1", "Scan2023")),
    ("test", ("test", "test123", "test1234")),
    ("www", ("www", "www123", "webmaster")),
)
"""Users and their passwords as they stand in every attacker's list of words."""


def machine(rng: Random, taken: Collection[str], prefix: str | None = None) -> tuple[str, Sequence[str]]:
    """Draw a name that is not taken, and the vendor prefixes that fit it.

    Args:
        rng: where the draw comes from.
        taken: the names of all deckies there are.
        prefix: when given, names are `<prefix>-01`, `<prefix>-02`, … instead of a kind's.
    """
    kind = rng.choice(_KINDS)
    stem = prefix or rng.choice(kind.stems)
    if prefix is None:
        for _ in range(_ATTEMPTS):
            # People number from one and stop early; half of them pad.
            number = rng.randint(1, 9)
            name = f"{stem}-{number:02d}" if rng.random() < 0.5 else f"{stem}-{number}"
            if name not in taken and f"{stem}-{number}" not in taken and f"{stem}-{number:02d}" not in taken:
                return name, kind.prefixes
            kind = rng.choice(_KINDS)
            stem = rng.choice(kind.stems)
    number = 1
    while f"{stem}-{number:02d}" in taken:
        number += 1
    return f"{stem}-{number:02d}", kind.prefixes


def mac_address(rng: Random, prefixes: Sequence[str], taken: Collection[str]) -> str:
    """Draw a network card's address with one of the vendors' prefixes; an address is 24 bits, so a free one is near."""
    while True:
        prefix = rng.choice(prefixes)
        # The part of VMware's prefix that is for addresses set by hand; the rest belongs to vCenter's counters.
        below = 0x400000 if prefix == _VMWARE else 0x1000000
        card = rng.randrange(below)
        address = f"{prefix}:{card >> 16:02x}:{card >> 8 & 0xFF:02x}:{card & 0xFF:02x}"
        if address not in taken:
            return address


def accounts(rng: Random, taken: Collection[frozenset[Account]]) -> tuple[Account, ...]:
    """Draw two or three accounts of different users, in a combination that no other decky has."""
    while True:
        drawn = _draw(rng)
        if frozenset(drawn) not in taken:
            return drawn


def _draw(rng: Random) -> tuple[Account, ...]:
    logins = rng.sample(_LOGINS, rng.choice((2, 3)))
    return tuple(Account(user=user, password=rng.choice(passwords)) for user, passwords in sorted(logins))
