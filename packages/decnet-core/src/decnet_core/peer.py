"""Know who is at the other end of a connection, and tell the application.

A server package makes its HTTP protocol class of these few lines, for uvicorn's `http=`:

    class PeerProtocol(H11Protocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.app = admit(self.app, transport, on_refused)

and its handlers ask `peer_in(scope)`. Tell uvicorn `ws="none"`: its websocket protocols take another application.

Invariants
- A `Peer` comes from the TLS library's verified certificate alone; no header can set one.
- OpenSSL lets a certificate without an extended key usage do anything; `peer_of` does not.
- A peer that is refused is heard no further. Its connection is aborted, not closed: asyncio still delivers
  what arrived together with the handshake to a protocol that closes. Should bytes come through all the same, the
  application that would get them is one that answers 403 to everything.

It knows no table of peers: whether a known peer may do something now is the caller's question, at every request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from decnet_core.errors import RemoteProtocolError, TrustError
from decnet_core.identity import Identity, identity_of_peer
from decnet_core.pki.der import Usage, fingerprint, usages

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

EXTENSION = "decnet.peer"
"""Where a request's scope holds its Peer: `scope["extensions"]["decnet.peer"]`."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who holds the other end.

    Attributes:
        identity: what the certificate names.
        fingerprint: SHA-256 of the certificate's DER, lower-case hex: which of the identity's certificates it is.
        address: the IP address that it came from, empty on a unix socket; says where, never who.
    """

    identity: Identity
    fingerprint: str
    address: str


def peer_of(transport: asyncio.BaseTransport) -> Peer | None:
    """Read who a connection's peer is; call it once the handshake is over (`connection_made`, or with streams).

    Returns:
        None when there is no certificate: a plain connection, or a server context that asks for none.

    Raises:
        TrustError: the certificate names no single identity, or does not state that it is for this side's use.
    """
    tls = transport.get_extra_info("ssl_object")
    if not isinstance(tls, (ssl.SSLObject, ssl.SSLSocket)):
        return None
    der = tls.getpeercert(binary_form=True)
    if der is None:
        return None
    identity = identity_of_peer(tls.getpeercert() or {})
    wanted = Usage.CLIENT if tls.server_side else Usage.SERVER
    advice = "Enrol the peer again; it must use the certificate that `join` stored."
    try:
        stated = usages(der)
    except RemoteProtocolError as error:
        raise TrustError(f"The certificate of {identity} cannot be read", advice) from error
    if wanted not in stated:
        raise TrustError(f"The certificate of {identity} is not for a {wanted.name.lower()}", advice)
    return Peer(identity, fingerprint(der), _address(transport))


def admit(
    app: ASGIApp, transport: asyncio.Transport, on_refused: Callable[[TrustError, str], None] | None = None
) -> ASGIApp:
    """Return the application for a new connection: bound to its peer, or one that refuses, the connection aborted.

    Args:
        app: the server's application.
        transport: the connection, its handshake over.
        on_refused: told why and from which address, so that the server can log it.
    """
    try:
        return bind_peer(app, peer_of(transport))
    except TrustError as error:
        transport.abort()
        if on_refused is not None:
            on_refused(error, _address(transport))
        return _refuse


def bind_peer(app: ASGIApp, peer: Peer | None) -> ASGIApp:
    """Wrap a plain ASGI application so that each of its scopes holds the peer; without one it stays as it is."""
    if peer is None:
        return app

    async def bound(scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {**(scope.get("extensions") or {}), EXTENSION: peer}
        await app({**scope, "extensions": extensions}, receive, send)

    return bound


def peer_in(scope: Scope) -> Peer:
    """Read the peer of a request.

    Raises:
        TrustError: there is none: the connection brought no certificate.
    """
    peer = (scope.get("extensions") or {}).get(EXTENSION)
    if not isinstance(peer, Peer):
        raise TrustError("The peer presented no certificate", "Call with an identity that this CA issued.")
    return peer


async def _refuse(scope: Scope, _receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _address(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) and name else ""
