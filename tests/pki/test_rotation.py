from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from decnet_core.errors import ConfigError, Conflict, IdentityEnded
from decnet_core.identity import MASTER
from decnet_core.pki import certificates, rotation
from decnet_core.pki.authority import CA_LIFETIME, CertificateAuthority
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.rotation import Authorities
from decnet_core.pki.tls import client_context, server_context
from decnet_core.pki.verification import load_certificates, verify_chain
from tests.pki.test_crash import every_crash
from tests.pki.world import AGENT, DAY, Echo, now

NOW = datetime(2031, 5, 4, 12, tzinfo=UTC)
SECRET = b"correct horse"
NAME = "DECNET CA"


def opened(folder, passphrase=None, at=NOW) -> Authorities:
    return rotation.open_or_create(folder, NAME, passphrase, at)


def issue(authority: CertificateAuthority, identity=AGENT, at=NOW) -> bytes:
    csr = certificates.make_csr(certificates.generate_key(), identity)
    return authority.issue(csr, identity, now=at, lifetime=DAY)


@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_a_whole_change(tmp_path, passphrase):
    first = opened(tmp_path, passphrase)
    assert not first.rotating
    assert first.trusted_pem == first.anchor.certificate_pem

    both = rotation.rotate(tmp_path, NAME, passphrase, NOW)
    assert both.rotating
    assert both.anchor.fingerprint == first.anchor.fingerprint
    again = opened(tmp_path, passphrase)
    assert (again.anchor.fingerprint, again.issuing.fingerprint) == (both.anchor.fingerprint, both.issuing.fingerprint)
    roots = load_certificates(again.trusted_pem)
    for authority in (again.anchor, again.issuing):
        assert verify_chain(load_certificates(issue(authority))[0], roots, NOW) == AGENT
    assert (b"ENCRYPTED" in (tmp_path / "next" / "ca.key").read_bytes()) == (passphrase is not None)

    done = rotation.retire(tmp_path, NAME, passphrase, NOW)
    assert not done.rotating
    assert done.anchor.fingerprint == both.issuing.fingerprint
    assert opened(tmp_path, passphrase).trusted_pem == done.trusted_pem
    retired = tmp_path / f"retired-{first.anchor.fingerprint[:16]}.crt"
    assert retired.read_bytes() == first.anchor.certificate_pem
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "ca.key", retired.name]


def test_one_change_at_a_time(tmp_path):
    opened(tmp_path)
    with pytest.raises(Conflict, match="no old CA"):
        rotation.retire(tmp_path, NAME, None, NOW)
    rotation.rotate(tmp_path, NAME, None, NOW)
    with pytest.raises(Conflict, match="being changed already"):
        rotation.rotate(tmp_path, NAME, None, NOW)


def test_of_many_that_rotate_at_once_one_does(tmp_path):
    opened(tmp_path)

    def attempt(_: int) -> bool:
        try:
            return rotation.rotate(tmp_path, NAME, None, NOW).rotating
        except Conflict:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_the_two_have_different_names(tmp_path):
    opened(tmp_path)
    both = rotation.rotate(tmp_path, NAME, None, NOW)
    assert both.anchor.certificate.subject != both.issuing.certificate.subject
    rotation.retire(tmp_path, NAME, None, NOW)
    third = rotation.rotate(tmp_path, NAME, None, NOW)
    assert third.anchor.certificate.subject != third.issuing.certificate.subject


def test_a_wrong_passphrase_changes_nothing(tmp_path):
    opened(tmp_path, SECRET)
    with pytest.raises(ConfigError, match="decrypted"):
        rotation.rotate(tmp_path, NAME, b"wrong", NOW)
    assert not opened(tmp_path, SECRET).rotating


def test_an_anchor_that_has_ended_gives_way(tmp_path):
    opened(tmp_path)
    both = rotation.rotate(tmp_path, NAME, None, NOW + 300 * DAY)
    later = opened(tmp_path, at=NOW + CA_LIFETIME)
    assert not later.rotating
    assert later.anchor.fingerprint == both.issuing.fingerprint
    with pytest.raises(IdentityEnded):
        opened(tmp_path, at=NOW + 2 * CA_LIFETIME)


@pytest.mark.parametrize("verb", ["rotate", "retire"])
def test_killed_between_any_two_steps_it_is_one_or_the_other(tmp_path, verb):
    prepared = tmp_path / "prepared"
    opened(prepared)
    if verb == "retire":
        rotation.rotate(prepared, NAME, None, NOW)
    before = opened(prepared)
    work = getattr(rotation, verb)

    seen = set()
    for folder, alive in every_crash(tmp_path, lambda folder: work(folder, NAME, None, NOW), prepared):
        found = opened(folder)
        seen.add(found.rotating)
        if verb == "rotate":
            assert found.anchor.fingerprint == before.anchor.fingerprint
            assert found.rotating or not alive
        else:
            assert found.anchor.fingerprint in (before.anchor.fingerprint, before.issuing.fingerprint)
            assert found.rotating == (found.anchor.fingerprint == before.anchor.fingerprint)
            assert not (alive and found.rotating)
        assert verify_chain(load_certificates(issue(found.issuing))[0], load_certificates(found.trusted_pem), NOW)
        if found.rotating != (verb == "rotate"):
            work(folder, NAME, None, NOW)
        assert opened(folder).rotating == (verb == "rotate")
        shutil.rmtree(folder)
    assert seen == {True, False}


@pytest.mark.slow
async def test_an_older_rsa_ca_without_identifiers_gives_way_over_tls(tmp_path):
    """RSA-4096 under the very name that ours have: OpenSSL must find the right issuer for both."""
    at = now()
    key = rsa.generate_private_key(65537, 4096)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(at - DAY)
        .not_valid_after(at + 300 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path / "ca"
    folder.mkdir()
    (folder / "ca.key").touch(mode=0o600)
    (folder / "ca.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    (folder / "ca.crt").write_bytes(certificates.certificate_pem(certificate))
    both = rotation.rotate(folder, NAME, None, at)
    assert isinstance(both.issuing.certificate.public_key(), certificates.PublicKey)

    def identity(where: str, identity, authority):
        store = KeyStore(tmp_path / where)
        csr = certificates.make_csr(store.create_key(identity.role), identity)
        pem = authority.issue(csr, identity, now=at, lifetime=DAY)
        return store.store(identity.role, pem, both.trusted_pem, at).files

    for served_by, called_by in ((both.anchor, both.issuing), (both.issuing, both.anchor)):
        tag = served_by.fingerprint[:4]
        master = identity(f"master-{tag}", MASTER, served_by)
        agent = identity(f"agent-{tag}", AGENT, called_by)
        async with Echo(server_context(master)) as server:
            assert await server.hear(client_context(agent, agent.ca)) == b"hello\n"
