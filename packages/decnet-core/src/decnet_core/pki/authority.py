"""The certificate authority on the master's disk.

    <folder>/ca.key    0600  PKCS#8 PEM (older CAs: any PEM), encrypted if there is a passphrase
    <folder>/ca.crt    0644  its self-signed certificate; the SHA-256 of its DER is the pin in a join token

Invariants
- Opening is idempotent: what stands there is used, and nothing that stands there is ever overwritten. Of two
  processes that create at one time, one makes the CA and the other opens it.
- The key is on disk, whole and fsynced, before there is a certificate. A crash in between leaves a key that has
  signed nothing; the next opening completes it. A certificate without its key is refused: it cannot be completed.
- A key that others may read, a passphrase that does not fit and a key in plain text where a passphrase is
  configured are refused, each with what to do.

It remembers no certificate that it issued: the store of the master does. `rotation` puts another CA in its place.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from decnet_core.errors import ConfigError, IdentityEnded, RemoteProtocolError, TrustError
from decnet_core.identity import Identity
from decnet_core.pki import certificates
from decnet_core.pki.certificates import IPAddress, PrivateKey
from decnet_core.pki.durable import PUBLIC_MODE, SECRET_MODE, create_file
from decnet_core.pki.verification import load_certificates

KEY_FILE = "ca.key"
CERTIFICATE_FILE = "ca.crt"

CA_LIFETIME = timedelta(days=3653)
"""Ten years: changing the CA touches every worker, its leaves are what is short-lived."""


class CertificateAuthority:
    """A CA that was opened: it issues."""

    def __init__(self, key: PrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def open_or_create(cls, folder: Path, name: str, passphrase: bytes | None, now: datetime) -> CertificateAuthority:
        """Open the CA in a folder; make what is missing of it.

        Args:
            folder: made 0700 if it does not exist.
            name: the CN of a CA that is made; one that exists keeps its own.
            passphrase: what encrypts the key; None for a key in plain text.
            now: the aware time.

        Raises:
            ConfigError: the passphrase does not fit, or the folder's content cannot be a CA.
            IdentityEnded: the CA has expired.
            TrustError: others may read the key.
        """
        if passphrase == b"":
            raise ConfigError("The passphrase of the CA is empty", "Set one, or none at all for a key in plain text.")
        key_path, certificate_path = folder / KEY_FILE, folder / CERTIFICATE_FILE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not key_path.exists():
                _refuse_certificate_alone(folder)
                create_file(key_path, certificates.key_pem(certificates.generate_key(), passphrase), SECRET_MODE)
            key = _read_key(key_path, passphrase)
            if not certificate_path.exists():
                serial = x509.random_serial_number()
                made = certificates.self_signed_ca(key, name, serial=serial, now=now, lifetime=CA_LIFETIME)
                create_file(certificate_path, certificates.certificate_pem(made), PUBLIC_MODE)
            certificate = _read_certificate(certificate_path, key)
        except OSError as error:
            raise ConfigError(
                f"The CA in {folder} cannot be read or written: {error.strerror}",
                "Give the folder to the user who runs decnet-master.",
            ) from error
        if now >= certificate.not_valid_after_utc:
            raise IdentityEnded(f"The CA in {folder} has expired", "Make a new CA and enrol the workers again.")
        return cls(key, certificate)

    @property
    def certificate(self) -> x509.Certificate:
        """The CA's certificate."""
        return self._certificate

    @property
    def certificate_pem(self) -> bytes:
        """The CA's certificate as PEM."""
        return certificates.certificate_pem(self._certificate)

    @property
    def fingerprint(self) -> str:
        """The pin: SHA-256 of the CA certificate's DER, 64 lower-case hex digits."""
        return certificates.fingerprint(self._certificate)

    def issue(
        self,
        csr_pem: bytes,
        identity: Identity,
        *,
        dns: Sequence[str] = (),
        ips: Sequence[IPAddress] = (),
        now: datetime,
        lifetime: timedelta,
    ) -> bytes:
        """Issue an identity's certificate for the key of a request; return its PEM.

        Args:
            csr_pem: only its public key is taken.
            identity: who it is for, as the caller knows it.
            dns: names beside the identity's host.
            ips: addresses that the identity answers on.
            now: the aware time.
            lifetime: cut where the CA ends.

        Raises:
            RemoteProtocolError: the request cannot be taken.
            ConfigError: a name that is none.
            TrustError: the identity or a name stands for the master and the other does not; the CA has ended.
        """
        leaf = certificates.issue_leaf(
            certificates.load_csr_key(csr_pem),
            identity,
            dns=dns,
            ips=ips,
            issuer=self._certificate,
            issuer_key=self._key,
            serial=x509.random_serial_number(),
            now=now,
            lifetime=lifetime,
        )
        return certificates.certificate_pem(leaf)


def _refuse_certificate_alone(folder: Path) -> None:
    # In this order: a process that makes the CA at this moment writes the key first.
    if (folder / CERTIFICATE_FILE).exists() and not (folder / KEY_FILE).exists():
        raise ConfigError(
            f"{folder / CERTIFICATE_FILE} has no {KEY_FILE} beside it",
            f"Restore {KEY_FILE} from a backup, or move {CERTIFICATE_FILE} away to make a new CA.",
        )


def _read_key(path: Path, passphrase: bytes | None) -> PrivateKey:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise TrustError(f"{path} may be used by others (mode {mode:04o})", f"Run `chmod 600 {path}`.")
    pem = path.read_bytes()
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except TypeError as error:  # how the library says that one of key and passphrase is without the other
        if passphrase is None:
            raise ConfigError(f"{path} is encrypted and no passphrase is set", "Set the CA's passphrase.") from error
        raise ConfigError(
            f"{path} is not encrypted although a passphrase is set",
            f"Encrypt it (`openssl pkcs8 -topk8 -in {path} -out NEW`), or unset the passphrase.",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if passphrase is not None:
            raise ConfigError(f"{path} cannot be decrypted", "Set the passphrase that the CA was made with.") from error
        raise ConfigError(f"{path} holds no private key", "Restore it from a backup.") from error
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ConfigError(f"{path} holds a key that is neither ECDSA nor RSA", "Restore it from a backup.")
    return key


def _read_certificate(path: Path, key: PrivateKey) -> x509.Certificate:
    advice = f"Restore both {KEY_FILE} and {CERTIFICATE_FILE} from one backup."
    try:
        found = load_certificates(path.read_bytes())
        certificate = found[0]
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        matches = certificate.public_key() == key.public_key()
    except (RemoteProtocolError, x509.ExtensionNotFound, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is not the certificate of a CA", advice) from error
    if len(found) != 1 or not constraints.ca:
        raise ConfigError(f"{path} is not the certificate of a CA", advice)
    if not matches:
        raise ConfigError(f"{path} is not the certificate of the key beside it", advice)
    return certificate
