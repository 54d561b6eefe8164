from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from decnet_core.errors import RemoteProtocolError, TrustError
from decnet_core.identity import MASTER
from decnet_core.pki import certificates
from decnet_core.pki.der import Usage
from decnet_core.pki.verification import load_certificates, verify_chain
from tests.pki.world import AGENT, CLIENT, DAY, LOGSHIP, SERVER, Ca

NOW = datetime(2031, 5, 4, 12, tzinfo=UTC)
KEY = certificates.generate_key()


@pytest.fixture(scope="module")
def ca() -> Ca:
    return Ca.make(NOW)


@pytest.mark.parametrize("usage", Usage)
def test_a_leaf_of_ours_is_known(ca, usage):
    leaf = ca.issue(AGENT, KEY, NOW)
    assert verify_chain(leaf, [ca.certificate], NOW, usage=usage, expected=AGENT) == AGENT


def test_two_roots_are_trusted_while_the_ca_changes(ca):
    after = Ca.make(NOW, "Next CA")
    roots = [ca.certificate, after.certificate]
    for issuer in (ca, after):
        assert verify_chain(issuer.issue(AGENT, KEY, NOW), roots, NOW) == AGENT


@pytest.mark.parametrize(
    ("after", "message"), [(-timedelta(minutes=6), "not valid before"), (DAY + timedelta(seconds=1), "expired at")]
)
def test_the_dates_count(ca, after, message):
    with pytest.raises(TrustError, match=message):
        verify_chain(ca.issue(AGENT, KEY, NOW), [ca.certificate], NOW + after)


def test_a_worker_whose_clock_is_behind_is_served(ca):
    assert verify_chain(ca.issue(AGENT, KEY, NOW), [ca.certificate], NOW - timedelta(minutes=4))


@pytest.mark.parametrize("roots", [0, 1])
def test_another_ca_of_the_same_name_does_not_count(ca, roots):
    foreign = [Ca.make(NOW).certificate][:roots]
    with pytest.raises(TrustError):
        verify_chain(ca.issue(AGENT, KEY, NOW), foreign, NOW)


def test_a_leaf_is_no_root(ca):
    leaf = ca.issue(AGENT, KEY, NOW)
    grandchild = Ca(KEY, leaf).forge(KEY, at=NOW)
    for roots in ([leaf], [leaf, ca.certificate]):
        with pytest.raises(TrustError):
            verify_chain(grandchild, roots, NOW)


def test_another_identity_does_not_count(ca):
    with pytest.raises(TrustError, match="is of agent@web-1, not of master@decnet-master"):
        verify_chain(ca.issue(AGENT, KEY, NOW), [ca.certificate], NOW, expected=MASTER)


@pytest.mark.parametrize(
    ("usages", "usage"),
    [([], Usage.CLIENT), ([], Usage.SERVER), ([SERVER], Usage.CLIENT), ([CLIENT], Usage.SERVER)],
)
def test_a_usage_must_be_stated(ca, usages, usage):
    leaf = ca.forge(KEY, usage=usages, at=NOW)
    with pytest.raises(TrustError, match="is not for a"):
        verify_chain(leaf, [ca.certificate], NOW, usage=usage)


def test_logship_answers_no_connection(ca):
    leaf = ca.issue(LOGSHIP, KEY, NOW)
    assert verify_chain(leaf, [ca.certificate], NOW) == LOGSHIP
    with pytest.raises(TrustError, match="is not for a server"):
        verify_chain(leaf, [ca.certificate], NOW, usage=Usage.SERVER)


@pytest.mark.parametrize(
    "named",
    [
        {"cn": str(LOGSHIP)},
        {"uris": []},
        {"uris": [], "dns": []},
        {"uris": [f"decnet:{AGENT}", f"decnet:{LOGSHIP}"]},
        {"uris": ["https://web-1/"]},
        {"uris": ["decnet:root@web-1"]},
    ],
)
def test_one_identity_and_the_cn_says_the_same(ca, named):
    with pytest.raises(TrustError):
        verify_chain(ca.forge(KEY, at=NOW, **named), [ca.certificate], NOW)


@pytest.mark.parametrize("pem", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_said_to_be_none(pem):
    with pytest.raises(RemoteProtocolError):
        load_certificates(pem)


def test_a_file_of_certificates_is_bounded(ca):
    with pytest.raises(RemoteProtocolError, match="longer"):
        load_certificates(ca.pem * 200)
