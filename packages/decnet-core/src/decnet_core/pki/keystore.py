"""Keep the identities of one host on disk, and prove them before they are used.

    <dir>/<role>             a link to the folder in use; always whole, switched in one step
    <dir>/<role>.<16 hex>/   0700: key.pem (0600), cert.pem, ca.pem; named by the certificate's fingerprint
    <dir>/<role>.pending/    0700: key.pem, while the master has not answered yet

A renewal makes a pending key, fetches a certificate for it and is stored: the old identity stays in use and whole
until the link is switched, and its folder stays until the renewal after that, for a process that is reading it.
A crash at any point leaves the old identity or the new one; the pending key is found again by the next try, so
that a repeated request is about the same key.

`load` proves an identity by using it: it shakes hands with itself in memory, and the side that verifies tells the
names, the dates and that key, certificate and CA belong together. That is the verdict that peers will reach, from the
TLS library alone, in a few milliseconds and 1 MB. Reading the certificate with `cryptography.x509` would cost each
daemon 13 MB for good, and notes kept beside the certificate could disagree with it. Only `create_key` imports
`cryptography`.

It neither asks for certificates nor decides when to renew; daemons follow the link by `decnet_core.pki.live`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from decnet_core.errors import (
    ConfigError,
    Conflict,
    IdentityEnded,
    IdentityNotBegun,
    RemoteProtocolError,
    TrustError,
)
from decnet_core.identity import Identity, Role, identity_of_peer
from decnet_core.pki.der import Usage, fingerprint, usages
from decnet_core.pki.durable import PUBLIC_MODE, SECRET_MODE, create_file, replace_file, sync_folder
from decnet_core.pki.tls import IdentityFiles, client_context, server_context

if TYPE_CHECKING:
    from decnet_core.pki.certificates import PrivateKey

KEY_FILE = "key.pem"
CERTIFICATE_FILE = "cert.pem"
CA_FILE = "ca.pem"

# X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h, which `ssl` does not name: the dates are held against `now` here.
_NO_CHECK_TIME = 0x200000

# Hello, answer, finish: a TLS 1.3 handshake needs two turns of each side.
_HANDSHAKE_TURNS = 4


_JOIN_ANEW = (
    "It was not renewed in time and cannot be any more: this worker has to join again. On the master run "
    "`decnet-master swarm decommission {host}` and `decnet-master swarm enroll {host}`, then here `decnet-agent join` "
    "with that token."
)


_ASK_TO_BE_LET_IN = (
    "Make a request with `decnet-master operator request NAME`, have it signed on the master with "
    "`decnet-master operator sign NAME`, and give the answer to `decnet-master operator install`."
)

_FIRST = {Role.MASTER: "Run `decnet-master init` first.", Role.OPERATOR: _ASK_TO_BE_LET_IN}
"""How the identities come about that no worker has."""


class StoredIdentity(NamedTuple):
    """An identity that was proved.

    Attributes:
        identity: whose it is.
        files: the folder that the link led to; it outlives the next renewal.
        not_before: aware UTC.
        not_after: aware UTC.
        fingerprint: SHA-256 of the certificate's DER, lower-case hex.
    """

    identity: Identity
    files: IdentityFiles
    not_before: datetime
    not_after: datetime
    fingerprint: str


class KeyStore:
    """The identities under one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def create_key(self, role: Role) -> PrivateKey:
        """Make the key of an identity to come, or find the one of an attempt that did not finish.

        Raises:
            ConfigError: the directory cannot be written.
            TrustError: the unfinished key is damaged or others may read it.
        """
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - 13 MB

        from decnet_core.pki import certificates  # noqa: PLC0415 - as above

        pending = self._pending(role)
        path = pending / KEY_FILE
        try:
            self._drop_finished(role)
            pending.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                create_file(path, certificates.key_pem(certificates.generate_key()), SECRET_MODE)
                sync_folder(self._directory)
            _check_mode(path, _advice(role))
            key = load_pem_private_key(path.read_bytes(), None)
        except OSError as error:
            raise _unwritable(self._directory, error) from error
        except (ValueError, TypeError) as error:
            raise TrustError(f"The unfinished key {path} cannot be read", f"Remove {pending} and try again.") from error
        if not isinstance(key, certificates.PrivateKey):
            raise TrustError(f"The unfinished key {path} is of another type", f"Remove {pending} and try again.")
        return key

    def adopt_key(self, role: Role, key_pem: bytes) -> None:
        """Take a key that was made elsewhere (an offline bundle) as the one of an identity to come.

        Raises:
            ConfigError: the directory cannot be written.
        """
        pending = self._pending(role)
        try:
            if pending.exists():
                shutil.rmtree(pending)
            pending.mkdir(mode=0o700, parents=True)
            create_file(pending / KEY_FILE, key_pem, SECRET_MODE)
            sync_folder(self._directory)
        except OSError as error:
            raise _unwritable(self._directory, error) from error

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keep other writers out for the length of a block; readers need no turn.

        Raises:
            Conflict: another process has it.
            ConfigError: the directory cannot be written.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _unwritable(self._directory, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise Conflict(
                f"Another process is changing the identities in {self._directory}", "Wait until it has ended."
            ) from error
        finally:
            os.close(descriptor)

    def store(self, role: Role, certificate_pem: bytes, ca_pem: bytes, now: datetime) -> StoredIdentity:
        """Complete the pending key with what the master sent, prove it, and put it into use.

        Raises:
            ConfigError: the directory cannot be written.
            TrustError: there is no pending key, or what was sent does not make an identity of this role with it;
                what was in use before stays in use.
        """
        pending = self._pending(role)
        try:
            if not (pending / KEY_FILE).exists():
                raise TrustError(f"No key waits for the {role}'s certificate", "Make the request on this host first.")
            replace_file(pending / CERTIFICATE_FILE, certificate_pem, PUBLIC_MODE)
            replace_file(pending / CA_FILE, ca_pem, PUBLIC_MODE)
            proved = _prove(_files_in(pending), role, now)
            folder = self._directory / f"{role}.{proved.fingerprint[:16]}"
            before = self.in_use(role)
            if folder.resolve() != before:
                self._copy(pending, folder)
                self._switch(role, folder)
            shutil.rmtree(pending)
            self._sweep(role, {folder.resolve(), before})
        except OSError as error:
            raise _unwritable(self._directory, error) from error
        return proved._replace(files=_files_in(folder))

    def load(self, role: Role, now: datetime) -> StoredIdentity:
        """Return the identity in use, proved.

        Raises:
            IdentityEnded: expired.
            IdentityNotBegun: not yet valid.
            TrustError: missing, unreadable, open to others, of another role, or key, certificate and CA do not belong
                together.
        """
        folder = self.in_use(role)
        if folder is None:
            raise TrustError(
                f"This host has no {role} identity in {self._directory}",
                _FIRST.get(role, "Run `decnet-agent join` with a token that `decnet-master swarm enroll` printed."),
            )
        return _prove(_files_in(folder), role, now)

    def in_use(self, role: Role) -> Path | None:
        """Return the folder that the role's link leads to, None when there is no such identity.

        A renewal always leads it to another one, so that who remembers it knows of a change.

        Raises:
            TrustError: this user may not look.
        """
        try:
            return (self._directory / role).resolve(strict=True)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError) as error:  # not allowed to look; a link that leads in a circle
            raise TrustError(
                f"The {role} identity in {self._directory} cannot be read",
                "Run as the user whom the folder belongs to, or as root.",
            ) from error

    def _pending(self, role: Role) -> Path:
        return self._directory / f"{role}.pending"

    def _drop_finished(self, role: Role) -> None:
        """Forget a pending key that is in use already: a crash came after the switch."""
        waiting, used = self._pending(role) / KEY_FILE, self._directory / role / KEY_FILE
        if waiting.exists() and used.exists() and waiting.read_bytes() == used.read_bytes():
            shutil.rmtree(waiting.parent)

    def _copy(self, pending: Path, folder: Path) -> None:
        # Under another name until it is whole; what a crash left under either name was never in use.
        unfinished = self._directory / f".{folder.name}.tmp"
        for remnant in (unfinished, folder):
            if remnant.exists():
                shutil.rmtree(remnant)
        unfinished.mkdir(mode=0o700)
        for name in (KEY_FILE, CERTIFICATE_FILE, CA_FILE):
            os.link(pending / name, unfinished / name)
        sync_folder(unfinished)
        unfinished.rename(folder)

    def _switch(self, role: Role, folder: Path) -> None:
        sync_folder(self._directory)
        link = self._directory / f".{role}.{secrets.token_hex(8)}.tmp"
        link.symlink_to(folder.name)
        link.replace(self._directory / role)
        sync_folder(self._directory)

    def _sweep(self, role: Role, keep: set[Path | None]) -> None:
        """Remove what is older than the identity before this one, and what a crash left."""
        for entry in self._directory.iterdir():
            if not re.fullmatch(rf"{role}\.[0-9a-f]{{16}}|\.{role}\.[0-9a-f]{{16}}\.tmp", entry.name):
                continue
            if entry.is_symlink():
                entry.unlink()
            elif entry.resolve() not in keep:
                shutil.rmtree(entry)


def _files_in(folder: Path) -> IdentityFiles:
    return IdentityFiles(folder / KEY_FILE, folder / CERTIFICATE_FILE, folder / CA_FILE)


def _prove(files: IdentityFiles, role: Role, now: datetime) -> StoredIdentity:
    advice = _advice(role)
    _check_mode(files.key, advice)
    shown, der = _shake_hands_with_itself(files, advice)
    identity = identity_of_peer(shown)
    if identity.role is not role:
        raise TrustError(f"{files.certificate} is of {identity}, not of the role {role}", advice)
    try:
        stated = usages(der)
    except RemoteProtocolError as error:
        raise TrustError(f"{files.certificate} cannot be read", advice) from error
    if Usage.CLIENT not in stated:
        raise TrustError(f"The certificate of {identity} does not state its usage", advice)
    not_before, not_after = _date(shown["notBefore"]), _date(shown["notAfter"])
    if now < not_before:
        raise IdentityNotBegun(
            f"The certificate of {identity} is not valid before {not_before.isoformat()}", "Set this host's clock."
        )
    if now > not_after:
        raise IdentityEnded(
            f"The certificate of {identity} expired at {not_after.isoformat()}",
            advice if role in _FIRST else _JOIN_ANEW.format(host=identity.host),
        )
    return StoredIdentity(identity, files, not_before, not_after, fingerprint(der))


def _advice(role: Role) -> str:
    """Say how an identity of this role is made anew."""
    if role is Role.MASTER:
        return "Run `decnet-master init`: it issues a new one."
    if role is Role.OPERATOR:
        return _ASK_TO_BE_LET_IN
    return "Enrol this worker again on the master (`decnet-master swarm`), then run `decnet-agent join` here."


def _shake_hands_with_itself(files: IdentityFiles, advice: str) -> tuple[dict[str, Any], bytes]:
    """Return the certificate as a verifying server sees it (every role may be a client, not all a server), and its DER.

    Raises:
        TrustError: the files are missing or do not belong together, or the CA does not vouch for the certificate.
    """
    accepting, dialling = server_context(files), client_context(files, files.ca)
    accepting.verify_flags |= _NO_CHECK_TIME
    dialling.check_hostname = False
    dialling.verify_mode = ssl.CERT_NONE  # this side only shows; the other verifies
    forth, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = accepting.wrap_bio(forth, back, server_side=True)
    client = dialling.wrap_bio(back, forth)
    try:
        for _ in range(_HANDSHAKE_TURNS):
            done = [_turn(side) for side in (client, server)]
            if all(done):
                break
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", None) or error.reason
        raise TrustError(f"{files.ca} does not vouch for {files.certificate}: {why}", advice) from error
    return server.getpeercert() or {}, server.getpeercert(binary_form=True) or b""


def _turn(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _check_mode(key: Path, advice: str) -> None:
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError as error:
        raise TrustError(f"The key {key} cannot be read: {error.strerror}", advice) from error
    if mode & 0o077:
        raise TrustError(f"{key} may be used by others (mode {mode:04o})", f"Run `chmod 600 {key}`.")


def _date(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _unwritable(directory: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{directory} cannot be read or written: {error.strerror}", "Give it to the user who runs this program."
    )
