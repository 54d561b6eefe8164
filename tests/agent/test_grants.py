"""What a master grants is judged before it is stored: each line here would lock a worker out, or let another in."""

from __future__ import annotations

from datetime import timedelta

import pytest

from decnet_agent.grants import judged
from decnet_core.errors import DecnetError, RemoteProtocolError, TrustError
from decnet_core.identity import MASTER, WORKER_ROLES, Identity, Role
from decnet_core.pki import certificates
from tests.pki.world import CLIENT, DAY, SERVER, Ca, now

HOST = "w1"


@pytest.fixture(scope="module")
def ca() -> Ca:
    return Ca.make(now() - 30 * DAY)


@pytest.fixture(scope="module")
def other() -> Ca:
    return Ca.make(now() - 30 * DAY, name="Another CA")


def leaf(ca: Ca, role: Role, host: str = HOST, **more) -> str:
    key = certificates.generate_key()
    return certificates.certificate_pem(ca.issue(Identity(role, host), key, **more)).decode()


def forged(ca: Ca, role: Role, usage, *, dns=(HOST,)) -> str:
    identity = Identity(role, HOST)
    made = ca.forge(certificates.generate_key(), cn=str(identity), uris=[f"decnet:{identity}"], dns=dns, usage=usage)
    return certificates.certificate_pem(made).decode()


def all_of(ca: Ca, **changed: str) -> dict[Role, str]:
    return {role: leaf(ca, role) for role in WORKER_ROLES} | {Role(role): pem for role, pem in changed.items()}


def judge(ca_pem: bytes, granted: dict[Role, str], **more):
    return judged(HOST, ca_pem.decode(), granted, WORKER_ROLES, now(), **more)


def test_what_holds_together_is_written_anew(ca, other):
    granted = all_of(ca)
    master = ca.issue(MASTER, certificates.generate_key())
    noisy = b"# a remark\n" + ca.pem + b"\n\n" + other.pem
    trusted, leaves = judge(
        noisy, granted, pin=certificates.fingerprint(ca.certificate), master_der=certificates_der(master)
    )
    assert trusted == ca.pem + other.pem
    assert {role: pem.decode() for role, pem in leaves.items()} == granted


def certificates_der(leaf) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return leaf.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda cas: {"agent": leaf(cas[1], Role.AGENT)}, "No trusted CA vouches"),
        (lambda cas: {"agent": leaf(cas[0], Role.UPDATER)}, "is of updater@w1, not of agent@w1"),
        (lambda cas: {"agent": leaf(cas[0], Role.AGENT, "w2")}, "is of agent@w2, not of agent@w1"),
        (lambda cas: {"agent": forged(cas[0], Role.AGENT, [CLIENT])}, "not for a server"),
        (lambda cas: {"updater": forged(cas[0], Role.UPDATER, [SERVER])}, "not for a client"),
        (lambda cas: {"updater": forged(cas[0], Role.UPDATER, [])}, "not for a client"),
        (lambda cas: {"agent": forged(cas[0], Role.AGENT, [SERVER, CLIENT], dns=["w2"])}, "No trusted CA vouches"),
        (lambda cas: {"logship": forged(cas[0], Role.LOGSHIP, [SERVER, CLIENT])}, "which that is none"),
        (lambda cas: {"logship": leaf(cas[0], Role.LOGSHIP) * 2}, "2 certificates for logship@w1"),
        (lambda _: {"logship": "-----BEGIN"}, "cannot be read"),
        (lambda _: {"logship": "\N{SNOWMAN}"}, "cannot be read"),
        (
            lambda cas: {"agent": leaf(cas[0], Role.AGENT, at=now() - 3 * DAY, lifetime=DAY)},
            "expired",
        ),
        (
            lambda cas: {"agent": leaf(cas[0], Role.AGENT, at=now() + timedelta(hours=1))},
            "not valid before",
        ),
    ],
)
def test_a_certificate_that_is_not_what_was_asked_for(ca, other, changed, message):
    with pytest.raises(DecnetError, match=message) as refused:
        judge(ca.pem, all_of(ca, **changed((ca, other))))
    assert refused.value.advice


def test_an_identity_that_is_missing(ca):
    granted = all_of(ca)
    del granted[Role.UPDATER]
    with pytest.raises(RemoteProtocolError, match="lacks the identity updater@w1"):
        judge(ca.pem, granted)


def test_a_clock_that_is_behind_is_told(ca):
    """The worker's clock is an hour behind the master's."""
    with pytest.raises(TrustError, match="not valid before") as refused:
        judged(HOST, ca.pem.decode(), all_of(ca), WORKER_ROLES, now() - timedelta(hours=1))
    assert "clock" in refused.value.advice


def test_cas_that_are_none(ca):
    key = certificates.generate_key()
    agent = certificates.certificate_pem(ca.issue(Identity(Role.AGENT, HOST), key))
    for pem, message in (
        (agent, "not the certificate of a CA"),
        (ca.pem * 5, "More than 4"),
        (b"", "cannot be read"),
        (Ca.make(now() - 3 * DAY, lifetime=DAY).pem, "expired"),
    ):
        with pytest.raises(DecnetError, match=message):
            judge(pem, all_of(ca))


def test_the_pinned_ca_must_be_among_them(ca, other):
    with pytest.raises(TrustError, match="other CAs than the one of this join token"):
        judge(other.pem, all_of(other), pin=certificates.fingerprint(ca.certificate))


def test_new_cas_must_vouch_for_the_master_that_sends_them(ca, other):
    """Else the worker would refuse its master from the next call on, for good."""
    master = certificates_der(ca.issue(MASTER, certificates.generate_key()))
    with pytest.raises(TrustError, match="No trusted CA vouches"):
        judge(other.pem, all_of(other), master_der=master)
    agent = certificates_der(ca.issue(Identity(Role.AGENT, "w2"), certificates.generate_key()))
    with pytest.raises(TrustError, match="not of master@decnet-master"):
        judge(ca.pem, all_of(ca), master_der=agent)
