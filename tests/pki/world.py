"""A small world of CAs and identities, made with the product where it should be and forged by hand where not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from decnet_core.identity import MASTER, MASTER_HOST, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.certificates import PrivateKey
from decnet_core.pki.tls import IdentityFiles

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
AGENT = Identity(Role.AGENT, "web-1")
LOGSHIP = Identity(Role.LOGSHIP, "web-1")
DAY = timedelta(days=1)
WAIT_SECS = 60  # a bound for what takes milliseconds: a busy machine is no fault of the code

__all__ = ["AGENT", "CLIENT", "DAY", "LOGSHIP", "MASTER", "MASTER_HOST", "SERVER", "WAIT_SECS", "Ca", "Echo", "now"]


def now() -> datetime:
    """OpenSSL's clock, which no test can set."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Ca:
    key: PrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, at: datetime | None = None, name: str = "Test CA", lifetime: timedelta = 365 * DAY) -> Ca:
        key = certificates.generate_key()
        serial = x509.random_serial_number()
        return cls(key, certificates.self_signed_ca(key, name, serial=serial, now=at or now(), lifetime=lifetime))

    @property
    def pem(self) -> bytes:
        return certificates.certificate_pem(self.certificate)

    def issue(
        self, identity: Identity, key: PrivateKey, at: datetime | None = None, **named: object
    ) -> x509.Certificate:
        arguments = {"serial": x509.random_serial_number(), "now": at or now(), "lifetime": DAY} | named
        return certificates.issue_leaf(
            certificates.load_csr_key(certificates.make_csr(key, identity)),
            identity,
            issuer=self.certificate,
            issuer_key=self.key,
            **arguments,
        )

    def forge(
        self,
        key: PrivateKey,
        *,
        cn: str = str(AGENT),
        uris: Sequence[str] = (f"decnet:{AGENT}",),
        dns: Sequence[str] = (AGENT.host,),
        usage: Sequence[x509.ObjectIdentifier] = (SERVER, CLIENT),
        at: datetime | None = None,
    ) -> x509.Certificate:
        """Sign what the product would not."""
        at = at or now()
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - DAY)
            .not_valid_after(at + DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def files(self, folder: Path, identity: Identity, **named: object) -> IdentityFiles:
        key = certificates.generate_key()
        return lay_down(folder, key, self.issue(identity, key, **named), self.pem)


def lay_down(folder: Path, key: PrivateKey, certificate: x509.Certificate, ca_pem: bytes) -> IdentityFiles:
    folder.mkdir(parents=True, exist_ok=True)
    files = IdentityFiles(folder / "key.pem", folder / "cert.pem", folder / "ca.pem")
    files.key.touch(mode=0o600)
    files.key.write_bytes(certificates.key_pem(key))
    files.certificate.write_bytes(certificates.certificate_pem(certificate))
    files.ca.write_bytes(ca_pem)
    return files


class Echo:
    """A TLS server on loopback that answers each connection with one line; `transports` are those it accepted."""

    def __init__(self, context) -> None:
        self.context = context
        self.transports: list[asyncio.BaseTransport] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for transport in self.transports:
            transport.abort()
        await asyncio.wait_for(self._server.wait_closed(), WAIT_SECS)

    async def _serve(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.transports.append(writer.transport)
        writer.write(b"hello\n")
        await writer.drain()

    async def hear(self, context, name: str = MASTER_HOST) -> bytes:
        """Connect as a client and read the line.

        asyncio's servers drop a client that they refuse without sending the alert, and its streams show that as an
        ordinary end.
        """
        async with asyncio.timeout(WAIT_SECS):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=name)
            try:
                line = await reader.readline()
                if not line:
                    raise ConnectionResetError("refused")
                return line
            finally:
                writer.transport.abort()
