"""An operator's own identity, on the operator's own machine: request, install, renew.

    <operator-directory>/operator     a link to the folder in use (see `decnet_core.pki.keystore`)

The key is made here and never leaves. What a master grants is verified before it replaces anything: the certificate
names an operator, is for the key that was made here, and the CAs that came with it vouch for it. What is stored is
written anew from what was read: readers of PEM differ in what they skip.

A renewal is begun by whatever command comes after two thirds of the certificate's life. One that fails is said and
tried again by the next command; the certificate in use stays in use until it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from decnet_core.errors import RemoteProtocolError, TrustError
from decnet_core.identity import Identity, Role
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.pki.live import renewal_due
from decnet_master.settings import MasterSettings
from decnet_master.swarmctl.operator_messages import Grant, RenewalRequest

_AGAIN = (
    "Make a new request here (`decnet-master operator request NAME`), and have that one signed on the master "
    "(`decnet-master operator sign NAME`)."
)


def load(settings: MasterSettings) -> StoredIdentity:
    """Return the operator's identity, proved.

    Raises:
        TrustError: there is none, it has ended, is open to others or damaged.
        ConfigError: it is not known where it lies.
    """
    return KeyStore(settings.operator_identity_directory).load(Role.OPERATOR, datetime.now(UTC))


def request(settings: MasterSettings, name: str) -> str:
    """Make a key, or find the one of a request that was not answered yet, and return the request for it (PEM).

    Raises:
        ConfigError: the folder cannot be written; the name is too long.
        TrustError: the unfinished key cannot be used.
        Conflict: another command is changing the identity.
    """
    from decnet_core.pki.certificates import make_csr  # noqa: PLC0415 -- heavy

    store = KeyStore(settings.operator_identity_directory)
    with store.turn():
        return make_csr(store.create_key(Role.OPERATOR), Identity(Role.OPERATOR, name)).decode("ascii")


def install(settings: MasterSettings, answer: bytes) -> StoredIdentity:
    """Put what was signed into use.

    Args:
        settings: of the operator.
        answer: what `operator sign` printed: the certificate, then the CAs to trust (PEM).

    Raises:
        RemoteProtocolError: the text holds something else.
        TrustError: it is not for the key that waits here, or no CA in it vouches for it.
        ConfigError: the folder cannot be written.
        Conflict: another command is changing the identity.
    """
    store = KeyStore(settings.operator_identity_directory)
    with store.turn():
        return _store(store, answer, None)


def renew(
    settings: MasterSettings, ask: Callable[[RenewalRequest], Grant], *, forced: bool = False
) -> StoredIdentity | None:
    """Trade the identity for one of a new key when that is due.

    Args:
        settings: of the operator.
        ask: asks the master, on a connection that shows the certificate in use.
        forced: also when it is not due.

    Returns:
        the new one, None when it was not due.

    Raises:
        DecnetError: what asking, loading and storing raise.
    """
    from decnet_core.pki.certificates import make_csr  # noqa: PLC0415 -- heavy

    store = KeyStore(settings.operator_identity_directory)
    with store.turn():
        present = store.load(Role.OPERATOR, datetime.now(UTC))
        if not forced and datetime.now(UTC) < renewal_due(present):
            return None
        csr = make_csr(store.create_key(Role.OPERATOR), present.identity).decode("ascii")
        grant = ask(RenewalRequest(csr=csr))
        return _store(store, (grant.certificate + grant.ca_pem).encode("ascii", "replace"), present.identity)


def _store(store: KeyStore, answer: bytes, expected: Identity | None) -> StoredIdentity:
    from decnet_core.pki.certificates import certificate_pem  # noqa: PLC0415 -- heavy
    from decnet_core.pki.der import Usage  # noqa: PLC0415 -- with the above
    from decnet_core.pki.verification import load_certificates, load_roots, verify_chain  # noqa: PLC0415 -- heavy

    now = datetime.now(UTC)
    leaf, *cas = load_certificates(answer)
    if not cas:
        raise RemoteProtocolError("The answer holds no CA to trust", _AGAIN)
    roots = load_roots(b"".join(map(certificate_pem, cas)), now)
    identity = verify_chain(leaf, roots, now, usage=Usage.CLIENT, expected=expected)
    if identity.role is not Role.OPERATOR:
        raise TrustError(f"The answer is for {identity}, who is no operator", _AGAIN)
    try:
        return store.store(Role.OPERATOR, certificate_pem(leaf), b"".join(map(certificate_pem, roots)), now)
    except TrustError as error:
        raise TrustError(error.message, _AGAIN) from error
