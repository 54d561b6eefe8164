"""A master and its workers, enrolled: directories with identities of one CA, and a database that knows them.

    <folder>/master            data directory of the master; the listener's journal lies in it
    <folder>/<worker>          data directory of a worker
    <folder>/<worker>/log      its log directory

Benches and the tests that run small forms of them make their sites with this; they start the daemons themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from decnet_core.identity import MASTER, Identity, Role
from decnet_core.pki.authority import CertificateAuthority
from decnet_core.pki.certificates import make_csr
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_master.store import IssuedCertificate, Redemption, Store, migrate

LIFETIME = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The site; see the module's text for its folders."""

    folder: Path
    database_url: str
    shippers: dict[str, StoredIdentity]

    @property
    def master(self) -> Path:
        """Data directory of the master."""
        return self.folder / "master"

    def worker(self, name: str) -> Path:
        """Name the data directory of a worker."""
        return self.folder / name

    def log_directory(self, name: str) -> Path:
        """Name the folder of a worker's event log."""
        return self.folder / name / "log"

    def master_environment(self) -> dict[str, str]:
        """Give the variables of the master's daemons, whatever the machine's own configuration says."""
        return _environment(self.master) | {"DECNET_DATABASE_URL": self.database_url}

    def worker_environment(self, name: str) -> dict[str, str]:
        """Give the variables of a worker's daemons."""
        return _environment(self.worker(name)) | {"DECNET_LOG_DIRECTORY": str(self.log_directory(name))}


async def enrol(folder: Path, database_url: str | None, workers: Iterable[str]) -> Enrolled:
    """Make the site.

    Args:
        folder: empty or not there yet.
        database_url: an empty database; None is SQLite in the master's data directory.
        workers: host names.
    """
    now = datetime.now(UTC)
    authority = CertificateAuthority.open_or_create(folder / "ca", "Bench CA", None, now)
    _identity(authority, folder / "master", MASTER, now)
    url = database_url or f"sqlite:///{folder / 'master' / 'decnet.sqlite3'}"
    await migrate(url)
    shippers = {}
    async with await Store.open(url) as store:
        for number, name in enumerate(workers):
            stored = _identity(authority, folder / name, Identity(Role.LOGSHIP, name), now)
            (folder / name / "log").mkdir(mode=0o750)
            issued = IssuedCertificate(stored.fingerprint, f"{Role.LOGSHIP.value}@{name}", stored.not_after)
            redemption = Redemption("{}", "127.0.0.1", 8765, 8766, "0", (issued,))

            def issue(_host: str, made: Redemption = redemption) -> Redemption:
                return made

            token = f"{number:016x}"
            await store.hosts.create(name, token, "hash", now + timedelta(minutes=5), now)
            await store.hosts.redeem(token, "hash", "digest", now, issue)
            shippers[name] = stored
    return Enrolled(folder, url, shippers)


def _environment(data_directory: Path) -> dict[str, str]:
    return {
        "DECNET_CONFIG": os.devnull,
        "DECNET_DATA_DIRECTORY": str(data_directory),
        "DECNET_LOG_OUTPUT": "stderr",
    }


def _identity(authority: CertificateAuthority, data: Path, identity: Identity, now: datetime) -> StoredIdentity:
    store = KeyStore(data / "identities")
    csr = make_csr(store.create_key(identity.role), identity)
    pem = authority.issue(csr, identity, now=now, lifetime=LIFETIME)
    return store.store(identity.role, pem, authority.certificate_pem, now)
