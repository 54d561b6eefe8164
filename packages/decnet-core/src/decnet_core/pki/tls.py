"""Make the TLS contexts of every DECNET connection.

Invariants
- TLS 1.3 only, so there is no renegotiation, no compression and no choice of weak ciphers.
- The private CA is the only root: a context built here never loads the system's.
- Servers hand out no session tickets: a resumed session is not verified again, so a revoked peer would come back in.
- Clients check the name that they dialled (`decnet-master` or the worker's), whatever address they used, against
  the DNS SAN; never against the CN.
- A key file that wants a passphrase is an error, never a prompt on a daemon's terminal.

What OpenSSL does not check, `decnet_core.peer` does: the identity, and that the certificate states its usage.
In TLS 1.3 a client's handshake succeeds before the server has looked at its certificate: a refused client learns it
from its first read.

A context is never changed once it serves: roots can be added to a live one, not taken away. What serves while its
certificate and its roots change is made by `decnet_core.pki.live`. Established connections keep what they agreed on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from decnet_core.errors import TrustError

READ_BUFFER_BYTES = 64 * 1024
"""An idle asyncio connection costs 104 KiB with it and 296 KiB with the default of 256 KiB, at the same throughput."""

_JOIN_FIRST = "Run `decnet-agent join` first; on the master, `decnet-master init`."


class Clients(Enum):
    """What a server wants of those who call; the value is the TLS library's word for it."""

    REQUIRED = ssl.CERT_REQUIRED
    """A certificate of the private CA."""
    ASKED = ssl.CERT_OPTIONAL
    """Nothing, but a certificate that is shown must be one of the private CA (joining and renewing at one port)."""
    STRANGERS = ssl.CERT_NONE
    """Nothing, and none is asked for."""


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """Where one identity lies: key (0600), certificate, and the CAs that it trusts; all PEM."""

    key: Path
    certificate: Path
    ca: Path


def server_context(
    files: IdentityFiles, *, clients: Clients = Clients.REQUIRED, alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    """Build the context of a server.

    Args:
        files: the server's identity.
        clients: what is wanted of those who call.
        alpn: protocols offered, best first; a client that names none of them is served without.

    Raises:
        TrustError: the files are missing, unreadable or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, alpn)
    context.num_tickets = 0
    context.verify_mode = clients.value
    _load_identity(context, files)
    _load_roots(context, files.ca)
    return context


def client_context(files: IdentityFiles | None, ca: Path, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """Build the context of a client, which must be given the name to check as `server_hostname`.

    Args:
        files: the client's identity; None where it has none yet (enrolment).
        ca: PEM of the CAs to trust.
        alpn: protocols offered, best first.

    Raises:
        TrustError: the files are missing, unreadable or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, alpn)
    context.hostname_checks_common_name = False
    if files is not None:
        _load_identity(context, files)
    _load_roots(context, ca)
    return context


def unverified_context() -> ssl.SSLContext:
    """Build the context of the one client that trusts nobody yet: it asks for the CA, and `pki.pin` judges the answer.

    Nothing but that question may be sent through it: whoever answers may be anyone.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, ())
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def bound_connection_memory(read_buffer_bytes: int = READ_BUFFER_BYTES) -> None:
    """Bound the read buffer of every asyncio TLS connection that this process opens from now on.

    For processes that hold thousands of them. asyncio offers it per class only, hence per process.
    """
    from asyncio import sslproto  # noqa: PLC0415 - only who calls this needs it

    sslproto.SSLProtocol.max_size = read_buffer_bytes


def resize_read_buffer(transport: asyncio.BaseTransport, read_buffer_bytes: int) -> None:
    """Give one live connection a read buffer of its own size, from its next read on.

    asyncio has no word for it. A Python whose transports are made otherwise keeps the size that it has: the buffer is
    a matter of memory and speed, never of correctness.
    """
    protocol: Any = getattr(transport, "_ssl_protocol", None)
    if all(hasattr(protocol, name) for name in ("max_size", "_ssl_buffer", "_ssl_buffer_view")):
        protocol.max_size = read_buffer_bytes
        protocol._ssl_buffer = bytearray(read_buffer_bytes)  # noqa: SLF001 -- see above
        protocol._ssl_buffer_view = memoryview(protocol._ssl_buffer)  # noqa: SLF001


def _harden(context: ssl.SSLContext, alpn: Sequence[str]) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    if alpn:
        context.set_alpn_protocols(list(alpn))


def _load_identity(context: ssl.SSLContext, files: IdentityFiles) -> None:
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TrustError(f"The key {files.key} is not the key of {files.certificate}", _JOIN_FIRST) from error
        raise TrustError(f"{files.key} or {files.certificate} is no unencrypted PEM file", _JOIN_FIRST) from error
    except OSError as error:
        raise TrustError(f"The identity in {files.key.parent} cannot be read: {error.strerror}", _JOIN_FIRST) from error


def _load_roots(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(cafile=ca)
    except ssl.SSLError as error:
        raise TrustError(f"{ca} holds no CA certificate", _JOIN_FIRST) from error
    except OSError as error:
        raise TrustError(f"The CA certificate {ca} cannot be read: {error.strerror}", _JOIN_FIRST) from error


def _no_passphrase() -> str:
    return ""
