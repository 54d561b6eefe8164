"""From a persona to the files of its machine, each with the date that its story gives it.

Pure. Dates lie between the cloning and now, never later than now. The folders above what is put in are put in as well,
with the modes that Debian gives them: a folder is as old as the newest thing in it, and not of the minute in which all
was unpacked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from decnet_agent.furnishing.archive import ArchiveEntry
from decnet_agent.furnishing.login_records import Visit, wtmp
from decnet_agent.furnishing.persona import DAY_SECS, Person, Persona, draw_persona
from decnet_agent.furnishing.site import BOOT_SCRIPT, Site, site_files
from decnet_core.fleet import DeckySpec

_UTC = "Etc/UTC"
_UTMP_GID = 43  # Debian's base-passwd: group utmp
_FOLDER_MODES = {"root": 0o700}
_FOLDER_MODE = 0o755
_NOT_OURS = frozenset({"", ".", "etc/ssh"})
"""Folders that are left as they are: the root itself, and one whose files the packages date."""


@dataclass(frozen=True, slots=True)
class Life:
    """All that makes one machine that machine."""

    persona: Persona
    host: str
    site: Site

    def joined_at(self, person: Person, now_secs: int) -> int:
        """When a person got the account, Unix seconds."""
        return min(self.persona.cloned_at + int(person.joined_days * DAY_SECS), self.left_at(person, now_secs))

    def left_at(self, person: Person, now_secs: int) -> int:
        """When a person last worked here."""
        return now_secs - int(person.last_seen_days * DAY_SECS)

    def cloned_at(self, now_secs: int) -> int:
        """When the machine was made from its template; a clock that stands before that day is not believed."""
        return min(self.persona.cloned_at, now_secs - DAY_SECS)


def life_of(spec: DeckySpec, site: Site) -> Life | None:
    """Draw the life of a decky; None for one without a seed."""
    if spec.seed is None:
        return None
    persona = draw_persona(spec.seed, spec.name, [account.user for account in spec.accounts])
    return Life(persona, spec.name, site)


@dataclass(frozen=True, slots=True)
class Home:
    """Where somebody lives."""

    path: str
    uid: int
    gid: int
    mode: int


def home_of(life: Life, person: Person, home: Home, skeleton: Mapping[str, bytes], now_secs: int) -> list[ArchiveEntry]:
    """Return a home and what is in it."""
    joined, left = life.joined_at(person, now_secs), life.left_at(person, now_secs)

    def owned(name: str, content: bytes | None, mode: int, at_secs: int) -> ArchiveEntry:
        return ArchiveEntry(f"{home.path}/{name}", content, mode, home.uid, home.gid, at_secs)

    entries = [ArchiveEntry(home.path, None, home.mode, home.uid, home.gid, left)]
    entries += [owned(name, content, 0o644, joined) for name, content in skeleton.items()]
    entries.append(owned(".bash_history", "".join(f"{line}\n" for line in person.history).encode(), 0o600, left))
    if person.key is not None:
        entries.append(owned(".ssh", None, 0o700, joined))
        entries.append(owned(".ssh/authorized_keys", f"{person.key}\n".encode(), 0o600, joined))
    if person.notes is not None:
        entries.append(owned("notes.txt", person.notes.encode(), 0o644, (joined + left) // 2))
    return entries


def machine(life: Life, homes: Mapping[str, Home], now_secs: int) -> list[ArchiveEntry]:
    """Return what belongs to no home: the site's files, what lies about, who was here."""
    persona, site = life.persona, life.site
    cloned = life.cloned_at(now_secs)
    newest = max((life.left_at(person, now_secs) for person in persona.people), default=cloned)
    entries = [
        ArchiveEntry(path, text.encode(), 0o755 if path == BOOT_SCRIPT else 0o644, at_secs=cloned)
        for path, text in site_files(life.host, site).items()
    ]
    zone = site.zone if persona.local_time else _UTC
    entries += [
        ArchiveEntry("etc/machine-id", f"{persona.machine_id}\n".encode(), 0o444, at_secs=cloned),
        ArchiveEntry("etc/timezone", f"{zone}\n".encode(), 0o644, at_secs=cloned),
        ArchiveEntry("etc/localtime", None, 0o777, at_secs=cloned, link=f"/usr/share/zoneinfo/{zone}"),
    ]
    if persona.motd is not None:
        entries.append(ArchiveEntry("etc/motd", _of(site, persona.motd), 0o644, at_secs=cloned))
    for left in persona.files:
        owner = next((home for home in homes.values() if left.path.startswith(f"{home.path}/")), None)
        uid, gid = (owner.uid, owner.gid) if owner else (0, 0)
        at_secs = int(cloned + left.age * max(0, newest - cloned))
        entries.append(
            ArchiveEntry(left.path, _of(site, left.content), 0o755 if left.executable else 0o644, uid, gid, at_secs)
        )
    visits = [
        Visit(
            user=visit.user,
            host=persona.workstation,
            began_at=(began := now_secs - int(visit.days_ago * DAY_SECS)),
            ended_at=min(began + visit.minutes * 60, now_secs - 60),
            pid=visit.pid,
        )
        for visit in persona.visits
    ]
    entries.append(ArchiveEntry("var/log/wtmp", wtmp(visits), 0o664, 0, _UTMP_GID, newest))
    return entries


def with_folders(entries: Sequence[ArchiveEntry]) -> list[ArchiveEntry]:
    """Add the folders above dated entries, each as old as its newest; one that is among them keeps its own facts."""
    there = {entry.path for entry in entries}
    newest: dict[str, int] = {}
    owners: dict[str, tuple[int, int]] = {}
    for entry in entries:
        if entry.at_secs is None:
            continue
        for folder in map(str, PurePosixPath(entry.path).parents):
            if folder not in there and folder not in _NOT_OURS:
                newest[folder] = max(newest.get(folder, 0), entry.at_secs)
                owners[folder] = (entry.uid, entry.gid) if folder.count("/") > 1 else (0, 0)
    added = (
        ArchiveEntry(folder, None, _FOLDER_MODES.get(folder, _FOLDER_MODE), *owners[folder], at_secs)
        for folder, at_secs in newest.items()
    )
    return _in_order([*added, *entries])


def _in_order(entries: Iterable[ArchiveEntry]) -> list[ArchiveEntry]:
    """Put folders before what is in them, and let nothing else move."""
    return sorted(
        entries, key=lambda entry: (entry.content is not None or entry.link is not None, entry.path.count("/"))
    )


def _of(site: Site, text: str) -> bytes:
    return text.replace("{domain}", site.domain).encode()
