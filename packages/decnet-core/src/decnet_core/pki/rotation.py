"""The CAs of a master: one, or two while they are changed.

    <folder>/ca.key, ca.crt               the anchor: the CA that every worker trusts
    <folder>/next/ca.key, ca.crt          the CA that takes its place, while both are trusted
    <folder>/retired-<16 hex>.crt         CAs that are trusted no more, for the record; their keys are gone

Between `rotate` and `retire` both are trusted. The new CA issues for the workers, since the master trusts both at once;
the anchor still issues for the master itself and is the pin of join tokens, since a worker learns of the new CA only
when it renews. `retire` is right when the last worker has: then the new one is the anchor.

Invariants
- The folder shows one of two states, whatever is killed: with `next`, whole, or without it. A retirement that was cut
  off is finished by the next opening: its first step takes the anchor's certificate away, and an anchor without its
  certificate beside a whole `next` can mean nothing else.
- An anchor that has ended is retired by opening: nobody trusts it any more.
- Two processes take turns (a lock on the folder).
- The new CA has another subject than the old one. OpenSSL picks an issuer by its name, and an older CA without a key
  identifier would be picked for certificates that it did not sign.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from decnet_core.errors import ConfigError, Conflict, IdentityEnded
from decnet_core.pki.authority import CERTIFICATE_FILE, KEY_FILE, CertificateAuthority
from decnet_core.pki.certificates import fingerprint
from decnet_core.pki.durable import PUBLIC_MODE, create_file, sync_folder
from decnet_core.pki.verification import load_certificates

NEXT_FOLDER = "next"


@dataclass(frozen=True, slots=True)
class Authorities:
    """The CAs, opened; one and the same while none is being changed.

    Attributes:
        anchor: what every worker trusts: issues for the master, and is the pin of join tokens.
        issuing: issues for the workers.
    """

    anchor: CertificateAuthority
    issuing: CertificateAuthority

    @property
    def rotating(self) -> bool:
        """Whether a change is under way."""
        return self.anchor.fingerprint != self.issuing.fingerprint

    @property
    def trusted_pem(self) -> bytes:
        """All that is trusted, as PEM, the anchor first."""
        return self.anchor.certificate_pem + (self.issuing.certificate_pem if self.rotating else b"")


def open_or_create(folder: Path, name: str, passphrase: bytes | None, now: datetime) -> Authorities:
    """Open the CAs in a folder, and make the first one where there is none; arguments as for `CertificateAuthority`.

    Raises:
        ConfigError: the passphrase does not fit, or the folder's content cannot be a CA.
        IdentityEnded: the CA has expired.
        TrustError: others may read a key.
    """
    with _turn(folder):
        return _open(folder, name, passphrase, now)


def rotate(folder: Path, name: str, passphrase: bytes | None, now: datetime) -> Authorities:
    """Make the next CA; from then on both are trusted. Its key has the same passphrase.

    Raises:
        Conflict: a change is under way already.
        ConfigError, IdentityEnded, TrustError: as `open_or_create`.
    """
    with _turn(folder):
        present = _open(folder, name, passphrase, now)
        if present.rotating:
            raise Conflict(
                f"The CA is being changed already, to {present.issuing.fingerprint[:16]}",
                "`decnet-master pki status` says which workers are missing; end it with `decnet-master pki retire`.",
            )
        unfinished = folder / f".{NEXT_FOLDER}.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        CertificateAuthority.open_or_create(unfinished, _another(name, now), passphrase, now)
        sync_folder(unfinished)
        unfinished.rename(folder / NEXT_FOLDER)
        sync_folder(folder)
        return _open(folder, name, passphrase, now)


def retire(folder: Path, name: str, passphrase: bytes | None, now: datetime) -> Authorities:
    """Trust the anchor no more: the next CA takes its place, and the old key is deleted.

    Raises:
        Conflict: no change is under way.
        ConfigError, IdentityEnded, TrustError: as `open_or_create`.
    """
    with _turn(folder):
        if not _open(folder, name, passphrase, now).rotating:
            raise Conflict("There is no old CA to retire", "`decnet-master pki rotate` begins a change.")
        _promote(folder)
        return _open(folder, name, passphrase, now)


def _open(folder: Path, name: str, passphrase: bytes | None, now: datetime) -> Authorities:
    coming = folder / NEXT_FOLDER
    if (coming / CERTIFICATE_FILE).exists() and not (folder / CERTIFICATE_FILE).exists():
        _promote(folder)
    elif coming.is_dir() and not any(coming.iterdir()):
        coming.rmdir()
    if not coming.is_dir():
        only = CertificateAuthority.open_or_create(folder, name, passphrase, now)
        return Authorities(only, only)
    issuing = CertificateAuthority.open_or_create(coming, name, passphrase, now)
    try:
        return Authorities(CertificateAuthority.open_or_create(folder, name, passphrase, now), issuing)
    except IdentityEnded:
        _promote(folder)
    only = CertificateAuthority.open_or_create(folder, name, passphrase, now)
    return Authorities(only, only)


def _promote(folder: Path) -> None:
    """Put the next CA into the anchor's place; may be cut off and repeated at any point."""
    coming, certificate = folder / NEXT_FOLDER, folder / CERTIFICATE_FILE
    if certificate.exists():
        kept = certificate.read_bytes()
        name = fingerprint(load_certificates(kept)[0])
        create_file(folder / f"retired-{name[:16]}.crt", kept, PUBLIC_MODE)
        certificate.unlink()
        sync_folder(folder)
    if (coming / KEY_FILE).exists():
        (coming / KEY_FILE).replace(folder / KEY_FILE)
        sync_folder(folder)
    (coming / CERTIFICATE_FILE).replace(certificate)
    sync_folder(folder)
    coming.rmdir()
    sync_folder(folder)


def _another(name: str, now: datetime) -> str:
    """Name the next CA: never like one before it."""
    return f"{name[:40]} {now:%Y-%m-%d} {secrets.token_hex(4)}"


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise _unusable(folder, error) from error
    finally:
        os.close(descriptor)


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"The CA in {folder} cannot be read or written: {error.strerror}",
        "Give the folder to the user who runs decnet-master.",
    )
