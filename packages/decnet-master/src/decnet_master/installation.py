"""What `decnet-master init` does: make a machine a master, and complete one that is half made.

Each step looks at what is there and adds what is missing, so the whole may be run again at any time, after a crash,
with another public address, or with a new release (which migrates the database). Nothing that exists is replaced,
except the master's own certificate when it is about to end or lacks a name that it should carry.

The first user's password is made here, told once, and kept as a hash. It is told before it is stored: a crash in
between costs nothing, the next run makes another, while a password that nobody saw could not be had again.

All that is made belongs to the owner of the data directory, also when root runs it: the daemons run as that user. A
data directory that root makes here is given to the user `decnet`, where there is one.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509

from decnet_core.endpoints import Endpoint
from decnet_core.errors import ConfigError, TrustError
from decnet_core.identity import MASTER, Role
from decnet_core.pki import rotation
from decnet_core.pki.authority import CERTIFICATE_FILE
from decnet_core.pki.certificates import make_csr
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.pki.live import renewal_due
from decnet_core.pki.rotation import Authorities
from decnet_core.pki.verification import load_certificates
from decnet_master import passwords, secret_files
from decnet_master.settings import MasterSettings
from decnet_master.store import Store, migrate

CA_NAME = "DECNET CA"
ADMIN = "admin"
SERVICE_USER = "decnet"
MAX_PASSPHRASE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a master needs: what, where, and whether it was made now."""

    what: str
    where: str
    made: bool


@dataclass(frozen=True, slots=True)
class Installation:
    """What `install` found and made.

    Attributes:
        steps: in their order.
        pin: SHA-256 of the CA's certificate.
        admin_password: of the user `admin`, when that user was made now.
    """

    steps: tuple[Step, ...]
    pin: str
    admin_password: str | None


async def install(settings: MasterSettings, tell: Callable[[Installation], None] = lambda _: None) -> Installation:
    """Make what is missing.

    Args:
        settings: of the master.
        tell: shows the result to the operator; called when all is made but the first user.

    Raises:
        ConfigError: a folder or file cannot be written, or what is there is not what it should be.
        TrustError: a secret is open to others.
        Unavailable: the database does not answer.
    """
    now = datetime.now(UTC)
    steps = [_folder(settings.data_directory, 0o750)]
    steps += [_folder(path, 0o700) for path in (settings.identities_directory, settings.journal_directory)]
    ca_is_new = not (settings.ca_directory / CERTIFICATE_FILE).exists()
    authorities = rotation.open_or_create(settings.ca_directory, CA_NAME, ca_passphrase(settings), now)
    steps.append(Step("certificate authority", str(settings.ca_directory), ca_is_new))
    _, renewed = ensure_identity(settings, authorities, now)
    steps.append(Step("the master's certificate", str(settings.identities_directory), renewed))
    for what, path in (
        ("secret of the controller", settings.controller_secret_file),
        ("secret of the API", settings.api_secret_file),
    ):
        steps.append(Step(what, str(path), secret_files.create(path)))
    await migrate(settings.database)
    async with await Store.open(settings.database, connections=1) as store:
        password = passwords.generate() if await store.users.count() == 0 else None
        steps.append(Step("first user", ADMIN, password is not None))
        done = Installation(tuple(steps), authorities.anchor.fingerprint, password)
        _hand_over(settings)
        tell(done)
        if password is not None:
            word = passwords.hash_password(password)
            await store.users.create(ADMIN, word, "admin", must_change=False, now=now)
            _hand_over(settings)  # what the database made beside itself
    return done


def open_authorities(settings: MasterSettings, now: datetime) -> Authorities:
    """Open the CA that `install` made; two of them while it is changed.

    Raises:
        ConfigError: there is none, or its passphrase does not fit.
        IdentityEnded: it has ended.
        TrustError: its key is open to others.
    """
    folder = settings.ca_directory
    if not (folder / CERTIFICATE_FILE).exists() and not (folder / rotation.NEXT_FOLDER).exists():
        raise ConfigError(f"There is no certificate authority in {folder}", "Run `decnet-master init`.")
    return rotation.open_or_create(folder, CA_NAME, ca_passphrase(settings), now)


def ca_passphrase(settings: MasterSettings) -> bytes | None:
    """Return what the CA's keys are encrypted with, None for keys in plain text.

    Raises:
        ConfigError: the file that should hold it cannot be read, or holds none.
    """
    if settings.ca_passphrase is not None:
        return settings.ca_passphrase.encode()
    path = settings.ca_passphrase_file
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            passphrase = file.readline(MAX_PASSPHRASE_BYTES).rstrip(b"\r\n")
    except OSError as cause:
        raise ConfigError(f"{path} cannot be read: {cause.strerror}", "Correct ca-passphrase-file.") from cause
    if not passphrase:
        raise ConfigError(f"{path} holds no passphrase", "Write it into the first line, or unset ca-passphrase-file.")
    return passphrase


def ensure_identity(settings: MasterSettings, authorities: Authorities, now: datetime) -> tuple[StoredIdentity, bool]:
    """Return the master's identity and whether it was issued now.

    That is when there is none, when its renewal is due, when it has ended, lacks a name that it should carry, or does
    not trust exactly the CAs that are trusted now.
    """
    store = KeyStore(settings.identities_directory)
    dns, ips = _public_names(settings)
    try:
        present = store.load(Role.MASTER, now)
        if now < renewal_due(present) and _carries(present, authorities, dns, ips):
            return present, False
    except TrustError:
        pass  # missing or ended: a new one is made; a damaged folder fails below, with its own words
    csr = make_csr(store.create_key(Role.MASTER), MASTER)
    lifetime = timedelta(hours=settings.certificate_hours)
    pem = authorities.anchor.issue(csr, MASTER, dns=dns, ips=ips, now=now, lifetime=lifetime)
    return store.store(Role.MASTER, pem, authorities.trusted_pem, now), True


def _folder(path: Path, mode: int) -> Step:
    try:
        made = not path.exists()
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        if made and os.geteuid() == 0 and (owner := _service_owner()) is not None:
            os.chown(path, *owner)
    except OSError as cause:
        raise ConfigError(
            f"Cannot make the folder {path}: {cause.strerror}",
            "Run as a user who may, or set data-directory to a folder of this user.",
        ) from cause
    return Step("folder", str(path), made)


def _public_names(settings: MasterSettings) -> tuple[list[str], list[IPv4Address | IPv6Address]]:
    address = settings.public_address
    if not address:
        return [], []
    host = Endpoint.parse(address).host if address.count(":") == 1 or "]:" in address else address.strip("[]")
    try:
        return [], [ip_address(host)]
    except ValueError:
        return [host.lower()], []


def _carries(
    present: StoredIdentity,
    authorities: Authorities,
    dns: list[str],
    ips: list[IPv4Address | IPv6Address],
) -> bool:
    leaf = load_certificates(present.files.certificate.read_bytes())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        present.files.ca.read_bytes() == authorities.trusted_pem
        and leaf.issuer == authorities.anchor.certificate.subject
        and set(dns) <= set(names.get_values_for_type(x509.DNSName))
        and set(ips) <= set(names.get_values_for_type(x509.IPAddress))
    )


def _hand_over(settings: MasterSettings) -> None:
    if os.geteuid() != 0:
        return
    folder = settings.data_directory
    owned = [settings.ca_directory, settings.identities_directory, settings.journal_directory]
    paths = [*owned, *(path for tree in owned for path in tree.rglob("*"))]
    paths += [settings.controller_secret_file, settings.api_secret_file, *folder.glob("decnet.sqlite3*")]
    try:
        state = folder.stat()
        for path in paths:
            os.chown(path, state.st_uid, state.st_gid, follow_symlinks=False)
    except OSError as cause:
        raise ConfigError(f"Cannot give {folder} to its owner: {cause.strerror}", "Run as its owner.") from cause


def _service_owner() -> tuple[int, int] | None:
    try:
        user = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    return user.pw_uid, user.pw_gid
