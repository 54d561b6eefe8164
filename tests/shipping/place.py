"""A master's and a worker's directories with real identities, and an event log to write."""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from decnet_core.events import Event, EventType, Trust, to_syslog
from decnet_core.identity import MASTER, Identity, Role
from decnet_core.pki.authority import CertificateAuthority
from decnet_core.pki.certificates import make_csr
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.syslog.rfc5424 import encode
from decnet_master.journal.reader import START, Batch, JournalReader
from decnet_master.store import IssuedCertificate, Redemption, Store, migrate

WORKER = "w1"
SENDER = f"logship@{WORKER}"


def enrol(authority: CertificateAuthority, data: Path, identity: Identity) -> StoredIdentity:
    """Put an identity into a data directory's key store."""
    now = datetime.now(UTC)
    store = KeyStore(data / "identities")
    csr = make_csr(store.create_key(identity.role), identity)
    pem = authority.issue(csr, identity, now=now, lifetime=timedelta(days=1))
    return store.store(identity.role, pem, authority.certificate_pem, now)


@dataclass
class Place:
    """`<folder>/master` and `<folder>/worker`, both with identities of one CA."""

    folder: Path
    authority: CertificateAuthority
    shipper: StoredIdentity

    @classmethod
    def make(cls, folder: Path, authority: CertificateAuthority | None = None) -> Place:
        now = datetime.now(UTC)
        authority = authority or CertificateAuthority.open_or_create(folder / "ca", "Test CA", None, now)
        enrol(authority, folder / "master", MASTER)
        (folder / "log").mkdir(parents=True)
        return cls(folder, authority, enrol(authority, folder / "worker", Identity(Role.LOGSHIP, WORKER)))

    @property
    def master_data(self) -> Path:
        return self.folder / "master"

    @property
    def worker_data(self) -> Path:
        return self.folder / "worker"

    @property
    def log_path(self) -> Path:
        return self.folder / "log" / "events.log"

    @property
    def journal(self) -> Path:
        return self.master_data / "journal"

    def enrol_in_database(self) -> None:
        """Make the master's database, with the worker active in it."""
        asyncio.run(self._enrol_in_database())

    async def _enrol_in_database(self) -> None:
        url = f"sqlite+aiosqlite:///{self.master_data / 'decnet.sqlite3'}"
        await migrate(url)
        now = datetime.now(UTC)
        issued = IssuedCertificate(self.shipper.fingerprint, SENDER, self.shipper.not_after)
        redemption = Redemption("{}", "127.0.0.1", 8765, 8766, "0.1.0", (issued,))
        async with await Store.open(url) as store:
            await store.hosts.create(WORKER, "0" * 16, "hash", now + timedelta(minutes=5), now)
            await store.hosts.redeem("0" * 16, "hash", "digest", now, lambda _: redemption)


class Log:
    """Writes an event log as the agent does: a header line with the generation, rotation by rename."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: dict[str, list[bytes]] = {}
        self.generation = ""
        self.begin()

    def begin(self) -> None:
        """Begin a file; one that stands there is rotated."""
        if self.generation:
            self.path.rename(self.path.with_name(f"{self.path.name}.{self.generation}"))
        self.generation = secrets.token_hex(16)
        opened = Event(
            at=datetime.now(UTC),
            decky=WORKER,
            service="decnet",
            event_type=EventType.LOG_OPENED,
            trust=Trust.SENSOR,
            source=f"log:{self.generation}",
            cursor="0",
            fields={"generation": self.generation},
        )
        header = encode(to_syslog(opened))
        unfinished = self.path.with_name(".beginning")
        unfinished.write_bytes(header + b"\n")
        unfinished.rename(self.path)
        self.written[self.generation] = [header]

    def write(self, *lines: bytes) -> None:
        """Append whole lines."""
        self.append(b"".join(line + b"\n" for line in lines))
        self.written[self.generation] += lines

    def append(self, data: bytes) -> None:
        """Append bytes as they are."""
        with self.path.open("ab") as file:
            file.write(data)

    def cut(self, size: int) -> None:
        """Do to the file what nobody should."""
        os.truncate(self.path, size)


def batches(journal: Path) -> list[Batch]:
    """Read the journal from its start."""
    reader, position, found = JournalReader(journal), START, []
    while more := reader.read(position, 1 << 22):
        found += more
        position = more[-1].next
    return found


def streams(journal: Path) -> dict[str, list[bytes]]:
    """Read the lines of each stream, holding each to its offsets: no gap, no overlap."""
    lines: dict[str, list[bytes]] = {}
    ends: dict[str, int] = {}
    for batch in batches(journal):
        assert batch.start == ends.get(batch.stream, 0)
        ends[batch.stream] = batch.end
        lines.setdefault(batch.stream, []).extend(batch.lines)
    return lines
