"""What a stranger may hand in before anybody knows him: tokens, requests, identities, certificates."""

from __future__ import annotations

import base64
import warnings
from contextlib import suppress

from cryptography.utils import CryptographyDeprecationWarning
from pydantic import ValidationError

from decnet_core.enrolment import TOKEN_PREFIX, JoinRequest, JoinToken
from decnet_core.errors import RemoteProtocolError, TrustError
from decnet_core.identity import Identity, is_host_name
from decnet_core.pki.certificates import load_csr_key
from decnet_core.pki.der import usages
from decnet_core.pki.verification import load_certificates, verify_chain
from tests.fuzz.target import Target, hold, is_refusal, outcome

_DOCUMENT = (
    b'{"address":"192.0.2.1:8771","pin":"' + b"0" * 64 + b'","id":"0123456789abcdef","secret":"' + b"A" * 43 + b'",'
    b'"host":"w1","expires_at":"2026-11-23T16:00:00Z"}'
)
_REQUEST = (
    b'{"token_id":"0123456789abcdef","secret":"' + b"A" * 43 + b'","version":"0.1.0","agent_port":8765,'
    b'"address":null,"csrs":{"agent":"x","logship":"y","updater":"z"}}'
)


def token(data: bytes) -> None:
    """A token is read or refused as damaged; one that is read is written the same."""
    for text in (
        data.decode("utf-8", "replace"),
        TOKEN_PREFIX + base64.urlsafe_b64encode(data).decode("ascii").rstrip("="),
    ):
        read = outcome(JoinToken.parse, text, TrustError)
        if not is_refusal(read):
            hold(JoinToken.parse(read.encode()) == read, "a token comes back as another")
            hold(is_host_name(read.host), "a token names a host that is none")
        else:
            hold("A" * 20 not in read[1], "a refusal quotes a secret")


def request(data: bytes) -> None:
    """A join request is read or refused by its model, and nothing of it reaches a certificate."""
    try:
        read = JoinRequest.model_validate_json(data)
    except ValidationError:
        return
    hold(JoinRequest.model_validate_json(read.model_dump_json()) == read, "a request comes back as another")


def key_request(data: bytes) -> None:
    """A PEM with a key request gives a key or a refusal."""
    outcome(load_csr_key, data, RemoteProtocolError)
    armoured = base64.encodebytes(data)
    outcome(
        load_csr_key,
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + armoured + b"-----END CERTIFICATE REQUEST-----\n",
        RemoteProtocolError,
    )


def identity(data: bytes) -> None:
    """An identity has one spelling."""
    text = data.decode("utf-8", "surrogateescape")
    read = outcome(Identity.parse, text, TrustError)
    hold(is_refusal(read) or str(read) == text, "an identity has two spellings")


def certificate(data: bytes) -> None:
    """A certificate's usages are read or refused."""
    outcome(usages, data, RemoteProtocolError)


def chain(data: bytes) -> None:
    """A PEM of certificates is read or refused, and each of them is somebody's or nobody's."""
    armoured = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(data) + b"-----END CERTIFICATE-----\n"
    for pem in (data, armoured):
        with warnings.catch_warnings(), suppress(RemoteProtocolError, TrustError):
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # of serial numbers that are not positive
            leaves = load_certificates(pem)
            for leaf in leaves:
                verify_chain(leaf, leaves, leaf.not_valid_before_utc)


TARGETS = (
    Target(
        "token",
        token,
        (_DOCUMENT, TOKEN_PREFIX.encode() + base64.urlsafe_b64encode(_DOCUMENT)),
        (TOKEN_PREFIX.encode(), b'"host":"', b'"expires_at":', b"{", b"}", b'":"', b",", b"==", b"[" * 60),
    ),
    Target(
        "join-request", request, (_REQUEST,), (b'"csrs":{', b'"agent":', b'"address":', b"{", b"}", b'":"', b"null")
    ),
    Target(
        "key-request", key_request, (), (b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\x30\x82", b"\x06\x03", b"\n"), 2
    ),
    Target("identity", identity, (b"logship@w1", b"master@decnet-master"), (b"@", b"agent", b"-", b"updater@"), 2),
    Target("chain", chain, (), (b"\x30\x82", b"\x06\x03\x55\x1d\x11", b"\xa0\x03\x02\x01", b"\x86\x12decnet:"), 2),
    Target(
        "certificate", certificate, (), (b"\x30\x82", b"\x06\x03\x55\x1d\x25", b"\xa3\x82", b"\x04\x16", b"\x30\x84")
    ),
)
