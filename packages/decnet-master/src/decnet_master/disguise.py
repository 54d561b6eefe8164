"""What a decky passes for: its name, its network card, its accounts.

Pure: the randomness is an argument, so that the planner stays deterministic by its seed. A name tells what kind of
machine it is (`files-02`, `print-hp-3`), and the card's vendor fits the kind. Accounts are weak on purpose: an
attacker is to get in after some tries, but never with just any password, and what worked on one decky shall not
work on all of them.

Source of the prefixes: the IEEE's public registry of MA-L assignments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from decnet_core.fleet import Account

_SMALL = range(1, 10)
"""People number from one and stop early."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of machine: what it is called and whose network card it has."""

    stems: tuple[str, ...]
    prefixes: tuple[str, ...]


_DELL, _HP, _SUPERMICRO = "18:66:da", "3c:d9:2b", "0c:c4:7a"
_INTEL, _VMWARE, _HYPER_V, _SYNOLOGY = "a0:36:9f", "00:50:56", "00:15:5d", "00:11:32"

_SERVERS = (_DELL, _HP, _SUPERMICRO, _INTEL)
_GUESTS = (_VMWARE, _HYPER_V)

_KINDS = (
    Kind(("files", "fs", "share", "archive"), (*_SERVERS, _SYNOLOGY)),
    Kind(("nas", "backup", "bkp", "store"), (_SYNOLOGY, _SUPERMICRO, _HP)),
    Kind(("print-hp", "printsrv", "print-og2"), (_HP,)),
    Kind(("web", "intra", "wiki", "portal", "cms"), (*_GUESTS, _DELL)),
    Kind(("app", "erp", "crm", "hr-app", "ticket"), (*_GUESTS, _SUPERMICRO)),
    Kind(("db", "sql", "pg", "reports"), (*_SERVERS, _VMWARE)),
    Kind(("git", "build", "ci", "jenkins", "registry"), (*_GUESTS, _INTEL)),
    Kind(("mon", "log", "zabbix", "graylog"), (*_GUESTS, _HP)),
    Kind(("dev", "test", "stage", "lab"), (*_GUESTS, _INTEL)),
    Kind(("mail", "relay", "mx"), (*_GUESTS, _DELL)),
    Kind(("cam-nvr", "door", "bms"), (_INTEL, _SUPERMICRO)),
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
    ("ftpuser", ("ftp", "ftpuser", "ftp123", "asteriskftp")),
    ("git", ("git", "git123", "gitlab")),
    ("jenkins", ("jenkins", "jenkins1", "Jenkins123")),
    ("mysql", ("mysql", "mysql123", "m1sql")),
    ("nagios", ("nagios", "nagios123", "nagiosadmin")),
    ("tomcat", ("tomcat", "tomcat123", "s3cret")),
    ("vagrant", ("vagrant", "vagrant1")),
    ("zabbix", ("zabbix", "zabbix123", "Zabbix1")),
)
"""Users and their passwords as they stand in every attacker's list of words."""


def kind(rng: Random) -> Kind:
    """Draw a kind of machine."""
    return rng.choice(_KINDS)


class Names:
    """Gives names that nobody has.

    Args:
        taken: the names of all deckies there are.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._small: dict[str, list[int]] = {}
        self._next: dict[str, int] = {}

    def drawn(self, rng: Random, of: Kind) -> str:
        """Draw a name that fits the kind; small numbers while its stems have some, then each stem's next."""
        stems = [stem for stem in of.stems if self._free(stem)]
        stem = rng.choice(stems or of.stems)
        if not stems:
            return self.numbered(stem, first=_SMALL.stop)
        number = rng.choice(self._free(stem))
        self._free(stem).remove(number)
        # Half of the people pad.
        name = f"{stem}-{number:02d}" if rng.random() < 0.5 else f"{stem}-{number}"
        self._taken.add(name)
        return name

    def numbered(self, stem: str, first: int = 1) -> str:
        """Give `<stem>-<the next free number>`, of two digits at least."""
        number = self._next.get(stem, first)
        while (name := f"{stem}-{number:02d}") in self._taken:
            number += 1
        self._next[stem] = number + 1
        self._taken.add(name)
        return name

    def _free(self, stem: str) -> list[int]:
        """List the small numbers of a stem that are taken in no spelling."""
        if stem not in self._small:
            spelt = {number: (f"{stem}-{number}", f"{stem}-{number:02d}") for number in _SMALL}
            self._small[stem] = [number for number, names in spelt.items() if self._taken.isdisjoint(names)]
        return self._small[stem]


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
    logins = rng.sample(_accounts_by_user(), rng.choice((2, 3)))
    return tuple(sorted((rng.choice(accounts) for accounts in logins), key=lambda account: account.user))


@cache
def _accounts_by_user() -> tuple[tuple[Account, ...], ...]:
    return tuple(tuple(Account(user=user, password=word) for word in passwords) for user, passwords in _LOGINS)
