"""Issue certificates: the CAs of this master in the one process that has them open.

The CAs may change while it runs (`rotate`, `retire`), so whoever needs one asks here each time. `keep_identity` keeps
the master's own certificate: it is as short-lived as the workers', and renewed by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Self

from decnet_core.identity import Identity, Role
from decnet_core.pki import rotation
from decnet_core.pki.certificates import IPAddress, fingerprint, load_csr_key, public_key_fingerprint
from decnet_core.pki.rotation import Authorities
from decnet_core.pki.verification import load_certificates
from decnet_master import installation
from decnet_master.settings import MasterSettings
from decnet_master.store import IssuedCertificate


class Issuer:
    """Issues for one master."""

    def __init__(self, settings: MasterSettings, authorities: Authorities) -> None:
        self._settings = settings
        self._authorities = authorities

    @classmethod
    def open(cls, settings: MasterSettings, now: datetime) -> Self:
        """Open the CAs; raises as `installation.open_authorities` does."""
        return cls(settings, installation.open_authorities(settings, now))

    @property
    def authorities(self) -> Authorities:
        """The CAs as they are now."""
        return self._authorities

    def issue(self, csr: str, identity: Identity, ips: Sequence[IPAddress], now: datetime) -> IssuedCertificate:
        """Issue a worker's or an operator's certificate for the key of a request (PEM).

        Raises:
            RemoteProtocolError: the request cannot be taken.
            TrustError: the identity stands for the master; the CA has ended.
        """
        issuing = self._authorities.issuing
        is_operator = identity.role is Role.OPERATOR
        hours = self._settings.operator_hours if is_operator else self._settings.certificate_hours
        lifetime = timedelta(hours=hours)
        pem = issuing.issue(csr.encode(), identity, ips=ips, now=now, lifetime=lifetime)
        leaf = load_certificates(pem)[0]
        return IssuedCertificate(
            fingerprint=fingerprint(leaf),
            identity=str(identity),
            not_after=leaf.not_valid_after_utc,
            serial=f"{leaf.serial_number:x}",
            key_digest=key_digest(csr),
            issuer=issuing.fingerprint,
            pem=pem.decode("ascii"),
        )

    def keep_identity(self, now: datetime) -> bool:
        """Renew the master's own certificate when that is due; return whether it was.

        Raises:
            ConfigError: the folder cannot be written.
            TrustError: the CA has ended, or what lies in the folder cannot be used.
        """
        return installation.ensure_identity(self._settings, self._authorities, now)[1]

    def rotate(self, now: datetime) -> None:
        """Make the next CA and trust both; raises as `rotation.rotate` does."""
        passphrase = installation.ca_passphrase(self._settings)
        self._authorities = rotation.rotate(self._settings.ca_directory, installation.CA_NAME, passphrase, now)

    def retire(self, now: datetime) -> None:
        """Trust the old CA no more; raises as `rotation.retire` does."""
        passphrase = installation.ca_passphrase(self._settings)
        self._authorities = rotation.retire(self._settings.ca_directory, installation.CA_NAME, passphrase, now)


def key_digest(csr: str) -> str:
    """Return what tells one key from another in a request (PEM).

    Raises:
        RemoteProtocolError: the request cannot be taken.
    """
    return public_key_fingerprint(load_csr_key(csr.encode()))
