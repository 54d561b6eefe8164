"""What is put into a decky before it first starts: its accounts, their homes, its host keys.

Pure: the image's own account files go in, edited ones come out, as the tar archive that the engine unpacks. Passwords
go in as hashes; nothing passes through arguments or the environment, and nothing runs inside for it.

A user that the image has (root, backup) gets the password, and /bin/bash where he had no shell to log in with; a new
one gets the next free number from 1000 on, a group of that name (his own, or the one that Debian has already, such as
operator), /bin/bash and a home filled from /etc/skel, as `adduser` would do it.

Source: passwd(5), shadow(5), group(5), gshadow(5).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from decnet_core.errors import RemoteProtocolError
from decnet_core.fleet import Account

ACCOUNT_FILES = ("passwd", "shadow", "group", "gshadow")
FIRST_UID = 1000
_SHADOW_GID = 42  # Debian's base-passwd: group shadow
_LAST_UID = 60000  # Debian policy 9.2.2: above lie nobody and what is not for people
_PASSWD_FIELDS = 7
_GROUP_FIELDS = 4
LOGIN_SHELL = "/bin/bash"


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """One file or folder to unpack."""

    path: str
    content: bytes | None
    """None is a folder."""
    mode: int
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """What an image brings: the four account files of /etc by name, and /etc/skel's files by name."""

    accounts: Mapping[str, bytes]
    skeleton: Mapping[str, bytes] = field(default_factory=dict)


def furnish(
    image: Image, accounts: Sequence[Account], hashes: Mapping[str, str], host_keys: Mapping[str, str], now_secs: int
) -> list[ArchiveEntry]:
    """Return all that is put in.

    Args:
        image: what the image brings.
        accounts: who may log in.
        hashes: the crypt(5) string of each account, by user.
        host_keys: files of /etc/ssh.
        now_secs: Unix time; the dates of last password change and of the files.

    Raises:
        RemoteProtocolError: the image's account files are not such.
    """
    files = {name: image.accounts.get(name, b"").decode("utf-8", "surrogateescape") for name in ACCOUNT_FILES}
    users = _numbers(files["passwd"])
    if "root" not in users:
        raise RemoteProtocolError("The image's /etc/passwd knows no root", "Build the decky images again.")
    groups = _numbers(files["group"])
    homes: list[ArchiveEntry] = []
    for account in accounts:
        if account.user in users:
            files["passwd"] = _with_login_shell(files["passwd"], account.user)
        else:
            uid = max([FIRST_UID - 1, *(number for number in users.values() if number < _LAST_UID)]) + 1
            users[account.user] = uid
            if account.user not in groups:
                groups[account.user] = uid
                files["group"] += f"{account.user}:x:{uid}:\n"
                files["gshadow"] += f"{account.user}:!::\n"
            gid = groups[account.user]
            files["passwd"] += f"{account.user}:x:{uid}:{gid}:,,,:/home/{account.user}:{LOGIN_SHELL}\n"
            homes += _home(account.user, uid, gid, image.skeleton)
        files["shadow"] = _with_hash(files["shadow"], account.user, hashes[account.user], now_secs // 86400)
    entries = [
        ArchiveEntry(f"etc/{name}", text.encode("utf-8", "surrogateescape"), *_ACCOUNT_MODES[name])
        for name, text in files.items()
        if text
    ]
    entries += homes
    for name, text in host_keys.items():
        entries.append(ArchiveEntry(f"etc/ssh/{name}", text.encode(), 0o644 if name.endswith(".pub") else 0o600))
    return entries


def to_tar(entries: Sequence[ArchiveEntry], now_secs: int) -> bytes:
    """Pack the entries, all dated `now_secs`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, now_secs
            if entry.content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(entry.content)
                archive.addfile(info, io.BytesIO(entry.content))
    return buffer.getvalue()


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
    return [ArchiveEntry(home, None, 0o700, uid, gid), *files]  # adduser's mode since Debian 12


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
