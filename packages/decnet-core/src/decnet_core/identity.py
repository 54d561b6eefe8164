"""Who a peer is: a role on a host, written `role@host`; of an operator, who is no host, `operator@name`.

An identity is bound by a certificate: its one URI SAN is `decnet:<role>@<host>`, its CN is `<role>@<host>`, and its
DNS SAN is the host, so that a client checks whom it dialled by name whatever address it used (an operator is dialled by
nobody and has no such name). `decnet_core.pki` writes such certificates; this module reads the identity back from what
the TLS library verified, without importing a certificate parser (a daemon's memory is worth more than that).

It does not decide whether a peer may do something: that is the caller's question to its own table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from decnet_core.errors import TrustError

MASTER_HOST = "decnet-master"
"""The master's host name in every certificate, whatever the machine is called."""

MAX_HOST_LENGTH = 64 - len("updater@")
"""Characters of a worker's name: with the longest role of a worker it fits a CN (RFC 5280: ub-common-name is 64)."""

MAX_OPERATOR_LENGTH = 64 - len("operator@")
"""Characters of an operator's name, for the same reason."""

RESERVED_HOSTS = frozenset({MASTER_HOST, "decnet", "localhost", "master"})
"""Names that no worker or operator may have: they would read as something else in a log or a certificate."""

URI_SCHEME = "decnet:"

# RFC 1123 host label, lower case, 63 octets at most (one label: a host's name is not a domain).
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Role(StrEnum):
    """What a program is to its peers."""

    MASTER = "master"
    AGENT = "agent"
    UPDATER = "updater"
    LOGSHIP = "logship"
    OPERATOR = "operator"


WORKER_ROLES = (Role.AGENT, Role.LOGSHIP, Role.UPDATER)
"""The identities that one worker holds."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A role on a host."""

    role: Role
    host: str

    def __str__(self) -> str:
        return f"{self.role}@{self.host}"

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read `role@host`.

        Raises:
            TrustError: the text is no identity.
        """
        role, at, host = text.partition("@")
        if not at or role not in set(Role) or not is_host_name(host):
            raise TrustError(f"{text[:80]!r} is not a DECNET identity", "Use a certificate that this CA issued.")
        return cls(Role(role), host)


MASTER = Identity(Role.MASTER, MASTER_HOST)


def is_host_name(text: str) -> bool:
    """Tell whether the text is one lower-case RFC 1123 label, the only form of a worker's or decky's name."""
    return _HOST.fullmatch(text) is not None


def identity_of_peer(certificate: Mapping[str, Any]) -> Identity:
    """Read the identity out of a verified certificate.

    Args:
        certificate: what `ssl.SSLObject.getpeercert()` returns for a verified peer; an empty mapping means that
            the peer sent none.

    Raises:
        TrustError: no certificate, not exactly one URI SAN, or a CN that says something else.
    """
    advice = "Enrol the peer again; it must use the certificate that `join` stored."
    if not certificate:
        raise TrustError("The peer presented no certificate", advice)
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1 or not uris[0].startswith(URI_SCHEME):
        raise TrustError("The peer's certificate does not name exactly one DECNET identity", advice)
    identity = Identity.parse(uris[0].removeprefix(URI_SCHEME))
    names = [value for rdn in certificate.get("subject", ()) for key, value in rdn if key == "commonName"]
    if names != [str(identity)]:
        raise TrustError("The peer's certificate names one identity and its subject another", advice)
    return identity
