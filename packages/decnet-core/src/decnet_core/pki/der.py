"""Read the little that a running daemon needs from a certificate's DER, without a certificate library.

`ssl` tells a verified peer's names and dates but not its extended key usage, and OpenSSL takes a certificate that
has none for one that may do anything. So the usages are read here: a walk down one path of the structure

    Certificate > TBSCertificate > [3] extensions > Extension(OID 2.5.29.37) > SEQUENCE OF OBJECT IDENTIFIER

Invariants: total over any bytes (it answers or raises RemoteProtocolError), linear in their length, no recursion.
It does not verify anything: it is called with what the TLS library has verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import Enum

from decnet_core.errors import RemoteProtocolError


class Usage(Enum):
    """What a certificate may be used for; the value is the OID's encoding."""

    SERVER = bytes.fromhex("2b06010505070301")  # id-kp-serverAuth, 1.3.6.1.5.5.7.3.1
    CLIENT = bytes.fromhex("2b06010505070302")  # id-kp-clientAuth, 1.3.6.1.5.5.7.3.2


# X.690 8.1.2: class and number of the tags on the path.
_BOOLEAN, _OCTETS, _OID, _SEQUENCE, _EXTENSIONS = 0x01, 0x04, 0x06, 0x30, 0xA3
_EKU = bytes.fromhex("551d25")  # id-ce-extKeyUsage, 2.5.29.37


def fingerprint(der: bytes) -> str:
    """Return a certificate's SHA-256 over its DER, 64 lower-case hex digits: the pin of a CA, the name of a leaf."""
    return hashlib.sha256(der).hexdigest()


def usages(der: bytes) -> frozenset[Usage]:
    """Return the usages that a certificate names; none when it has no such extension.

    Source: RFC 5280, sections 4.1 and 4.2.1.12.

    Raises:
        RemoteProtocolError: the bytes are no certificate.
    """
    found: frozenset[Usage] | None = None
    known = {usage.value: usage for usage in Usage}
    for identifier, value in _extensions(der):
        if identifier != _EKU:
            continue
        if found is not None:
            raise _broken("names its key usages twice")
        purposes = [content for tag, content in _elements(_only(value, _SEQUENCE)) if tag == _OID]
        found = frozenset(known[purpose] for purpose in purposes if purpose in known)
    return found or frozenset()


def _extensions(der: bytes) -> Iterator[tuple[bytes, bytes]]:
    certificate = list(_elements(_only(der, _SEQUENCE)))
    if not certificate or certificate[0][0] != _SEQUENCE:
        raise _broken("has no body")
    for tag, content in _elements(certificate[0][1]):
        if tag != _EXTENSIONS:
            continue
        for kind, extension in _elements(_only(content, _SEQUENCE)):
            parts = [part for part in _elements(extension) if part[0] != _BOOLEAN]
            if kind != _SEQUENCE or [tag for tag, _ in parts] != [_OID, _OCTETS]:
                raise _broken("holds an extension of no known shape")
            yield parts[0][1], parts[1][1]


def _only(data: bytes, wanted: int) -> bytes:
    elements = list(_elements(data))
    if len(elements) != 1 or elements[0][0] != wanted:
        raise _broken("has another structure")
    return elements[0][1]


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split one level of DER into (tag, content); X.690 8.1.3 with definite lengths of up to 4 octets."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise _broken("ends early")
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            octets = length & 0x7F
            if not 1 <= octets <= 4 or at + octets > len(data):
                raise _broken("has a length of no known form")
            length = int.from_bytes(data[at : at + octets])
            at += octets
        if at + length > len(data):
            raise _broken("ends early")
        yield tag, data[at : at + length]
        at += length


def _broken(how: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"The certificate {how}", "Enrol the peer again.")
