from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import TrustError
from decnet_core.identity import (
    MASTER,
    MAX_HOST_LENGTH,
    WORKER_ROLES,
    Identity,
    Role,
    identity_of_peer,
    is_host_name,
)

hosts = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


def certificate(uri="decnet:agent@web-1", cn="agent@web-1", **more):
    """Write what `getpeercert` returns for such a certificate."""
    return {"subject": ((("commonName", cn),),), "subjectAltName": (("DNS", "web-1"), ("URI", uri)), **more}


@given(st.sampled_from(Role), hosts)
def test_an_identity_reads_back(role, host):
    identity = Identity(role, host)
    assert Identity.parse(str(identity)) == identity
    assert identity_of_peer(certificate(f"decnet:{identity}", str(identity))) == identity


@given(st.text())
def test_any_text_is_an_identity_or_a_trust_error(text):
    try:
        identity = Identity.parse(text)
    except TrustError:
        return
    assert str(identity) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "agent",
        "agent@",
        "@web",
        "Agent@web",
        "root@web",
        "agent@Web",
        "agent@web@web",
        "agent@web.lan",
        "agent@web\n",
    ],
)
def test_what_is_no_identity(text):
    with pytest.raises(TrustError):
        Identity.parse(text)


@pytest.mark.parametrize(
    ("name", "is_name"),
    [
        ("a", True), ("web-1", True), ("0", True), ("a" * 63, True),
        ("", False), ("a" * 64, False), ("-a", False), ("a-", False), ("a_b", False), ("a.b", False), ("A", False),
        ("ä", False), ("a\n", False), ("٣", False),
    ],
)  # fmt: skip
def test_host_names(name, is_name):
    assert is_host_name(name) is is_name


def test_the_longest_name_fits_a_common_name_with_every_role():
    longest = max(len(str(Identity(role, "h" * MAX_HOST_LENGTH))) for role in WORKER_ROLES)
    assert longest == 64  # RFC 5280: ub-common-name


def test_the_master_has_one_name():
    assert str(MASTER) == "master@decnet-master"


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ({}, "no certificate"),
        (certificate(subjectAltName=()), "exactly one"),
        (certificate(subjectAltName=(("DNS", "agent@web-1"),)), "exactly one"),
        (certificate(subjectAltName=(("URI", "decnet:agent@a"), ("URI", "decnet:agent@b"))), "exactly one"),
        (certificate("https://web-1/"), "exactly one"),
        (certificate("decnet:root@web-1", "root@web-1"), "not a DECNET identity"),
        (certificate(cn="agent@web-2"), "another"),
        (certificate(subject=()), "another"),
        (certificate(subject=((("commonName", "agent@web-1"),), (("commonName", "agent@web-2"),))), "another"),
    ],
)
def test_a_certificate_that_names_nobody(shown, words):
    with pytest.raises(TrustError, match=words):
        identity_of_peer(shown)
