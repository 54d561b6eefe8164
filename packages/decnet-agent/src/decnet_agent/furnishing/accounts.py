"""What is put into a decky before it first starts: its accounts, their homes, its host keys.

Pure: the image's own account files go in, edited ones come out, as the tar archive that the engine unpacks. Passwords
go in as hashes; nothing passes through arguments or the environment, and nothing runs inside for it.

A user that the image has (root, backup) gets the password, and /bin/bash where he had no shell to log in with; a new
one gets the next free number from 1000 on, a group of that name (his own, or the one that Debian has already, such as
operator), /bin/bash and a home filled from /etc/skel, as `adduser` would do it. With a life come its people, without
passwords, and everybody's home has something in it (`living`).

Source: passwd(5), shadow(5), group(5), gshadow(5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from decnet_agent.furnishing.archive import ArchiveEntry
from decnet_agent.furnishing.living import Home, Life, home_of, machine, with_folders
from decnet_core.errors import RemoteProtocolError
from decnet_core.fleet import Account

ACCOUNT_FILES = ("passwd", "shadow", "group", "gshadow")
FIRST_UID = 1000
_SHADOW_GID = 42  # Debian's base-passwd: group shadow
_LAST_UID = 60000  # Debian policy 9.2.2: above lie nobody and what is not for people
_PASSWD_FIELDS = 7
_GROUP_FIELDS = 4
LOGIN_SHELL = "/bin/bash"
_DAY_SECS = 86_400
_HOME_MODE = 0o700  # adduser's since Debian 12, and root's
_NO_LOGIN = "!"  # what `adduser --disabled-password` leaves: people come by key


@dataclass(frozen=True, slots=True)
class Image:
    """What an image brings: the four account files of /etc by name, and /etc/skel's files by name."""

    accounts: Mapping[str, bytes]
    skeleton: Mapping[str, bytes] = field(default_factory=dict)


def furnish(
    image: Image,
    accounts: Sequence[Account],
    hashes: Mapping[str, str],
    host_keys: Mapping[str, str],
    now_secs: int,
    *,
    life: Life | None = None,
) -> list[ArchiveEntry]:
    """Return all that is put in.

    Args:
        image: what the image brings.
        accounts: who may log in.
        hashes: the crypt(5) string of each account, by user.
        host_keys: files of /etc/ssh.
        now_secs: Unix time; the dates of last password change and of the files, where no life gives them others.
        life: who else lives there, and since when; None for a decky whose spec has no seed.

    Raises:
        RemoteProtocolError: the image's account files are not such.
    """
    tables = _Tables(image, now_secs)
    if life is None:
        homes = [entry for account in accounts for entry in tables.add(account.user, hashes[account.user])]
        keys = _host_keys(host_keys, None)
        return [*tables.entries(None), *homes, *keys]
    return _lived_in(tables, accounts, hashes, host_keys, life)


def _lived_in(
    tables: _Tables,
    accounts: Sequence[Account],
    hashes: Mapping[str, str],
    host_keys: Mapping[str, str],
    life: Life,
) -> list[ArchiveEntry]:
    persona, now_secs = life.persona, tables.now_secs
    lives = {person.user: person for person in (*persona.people, *persona.lives)}
    for person in persona.people:
        joined = life.joined_at(person, now_secs)
        tables.add(person.user, _NO_LOGIN, full_name=person.full_name, day=joined // _DAY_SECS)
    for account in accounts:
        joined = life.joined_at(lives[account.user], now_secs)
        tables.add(account.user, hashes[account.user], day=joined // _DAY_SECS)
    for user in persona.admins:
        tables.join("sudo", user)
    homes = {user: home for user in lives if (home := tables.home(user)) is not None}
    cloned = life.cloned_at(now_secs)
    changed = max([cloned, *(life.joined_at(lives[user], now_secs) for user in tables.added)])
    entries = [*tables.entries(changed), *_host_keys(host_keys, cloned), *machine(life, homes, now_secs)]
    for user, home in homes.items():
        skeleton = tables.image.skeleton if user in tables.added else {}
        entries += home_of(life, lives[user], home, skeleton, now_secs)
    return with_folders(entries)


class _Tables:
    """The four account files of an image, and who is added to them."""

    def __init__(self, image: Image, now_secs: int) -> None:
        self.image, self.now_secs = image, now_secs
        self.added: list[str] = []
        self._files = {name: image.accounts.get(name, b"").decode("utf-8", "surrogateescape") for name in ACCOUNT_FILES}
        self._users = _numbers(self._files["passwd"])
        if "root" not in self._users:
            raise RemoteProtocolError("The image's /etc/passwd knows no root", "Build the decky images again.")
        self._groups = _numbers(self._files["group"])

    def add(self, user: str, hashed: str, *, full_name: str = "", day: int | None = None) -> list[ArchiveEntry]:
        """Let a user log in; one that is new gets a home, which comes back."""
        home: list[ArchiveEntry] = []
        if user in self._users:
            self._files["passwd"] = _with_login_shell(self._files["passwd"], user)
        else:
            uid = max([FIRST_UID - 1, *(number for number in self._users.values() if number < _LAST_UID)]) + 1
            self._users[user] = uid
            if user not in self._groups:
                self._groups[user] = uid
                self._files["group"] += f"{user}:x:{uid}:\n"
                self._files["gshadow"] += f"{user}:!::\n"
            gid = self._groups[user]
            self._files["passwd"] += f"{user}:x:{uid}:{gid}:{full_name},,,:/home/{user}:{LOGIN_SHELL}\n"
            self.added.append(user)
            home = _home(user, uid, gid, self.image.skeleton)
        changed = self.now_secs // _DAY_SECS if day is None else day
        self._files["shadow"] = _with_hash(self._files["shadow"], user, hashed, changed)
        return home

    def join(self, group: str, user: str) -> None:
        """Make a user a member of a group, as `adduser USER GROUP` does; a group that is not there has no members."""
        for name in ("group", "gshadow"):
            self._files[name] = _with_member(self._files[name], group, user)

    def home(self, user: str) -> Home | None:
        """Tell where a user lives; None for users of the system, whose homes are none."""
        if user in self.added:
            return Home(f"home/{user}", self._users[user], self._groups[user], _HOME_MODE)
        return Home("root", 0, 0, _HOME_MODE) if user == "root" else None

    def entries(self, at_secs: int | None) -> list[ArchiveEntry]:
        """Return the files."""
        return [
            ArchiveEntry(f"etc/{name}", text.encode("utf-8", "surrogateescape"), *_ACCOUNT_MODES[name], at_secs)
            for name, text in self._files.items()
            if text
        ]


def _host_keys(host_keys: Mapping[str, str], at_secs: int | None) -> list[ArchiveEntry]:
    return [
        ArchiveEntry(f"etc/ssh/{name}", text.encode(), 0o644 if name.endswith(".pub") else 0o600, at_secs=at_secs)
        for name, text in host_keys.items()
    ]


def _with_member(table: str, group: str, user: str) -> str:
    lines = table.splitlines()
    for index, line in enumerate(lines):
        if line.startswith(f"{group}:"):
            head, _, members = line.rpartition(":")
            lines[index] = f"{head}:{','.join([*filter(None, members.split(',')), user])}"
    return "\n".join(lines) + "\n"


_ACCOUNT_MODES = {
    "passwd": (0o644, 0, 0),
    "shadow": (0o640, 0, _SHADOW_GID),
    "group": (0o644, 0, 0),
    "gshadow": (0o640, 0, _SHADOW_GID),
}


def _numbers(table: str) -> dict[str, int]:
    """Read name and number out of passwd(5) or group(5), where both are the first and the third field."""
    numbers: dict[str, int] = {}
    for line in table.splitlines():
        parts = line.split(":")
        if len(parts) in {_GROUP_FIELDS, _PASSWD_FIELDS} and parts[2].isascii() and parts[2].isdigit():
            numbers[parts[0]] = int(parts[2])
    return numbers


def _with_login_shell(passwd: str, user: str) -> str:
    """Give a user that cannot log in (nologin, false, sync) a shell, as `usermod -s` would; others keep theirs."""
    lines = passwd.splitlines()
    for index, line in enumerate(lines):
        name, shell = line.partition(":")[0], line.rpartition(":")[2]
        if name == user and not shell.endswith("sh"):
            lines[index] = f"{line.removesuffix(shell)}{LOGIN_SHELL}"
    return "\n".join(lines) + "\n"


def _home(user: str, uid: int, gid: int, skeleton: Mapping[str, bytes]) -> list[ArchiveEntry]:
    home = f"home/{user}"
    files = [ArchiveEntry(f"{home}/{name}", content, 0o644, uid, gid) for name, content in skeleton.items()]
    return [ArchiveEntry(home, None, _HOME_MODE, uid, gid), *files]


def _with_hash(shadow: str, user: str, hashed: str, day: int) -> str:
    line = f"{user}:{hashed}:{day}:0:99999:7:::"
    lines = shadow.splitlines()
    for index, present in enumerate(lines):
        if present.startswith(f"{user}:"):
            lines[index] = line
            break
    else:
        lines.append(line)
    return "\n".join(lines) + "\n"
