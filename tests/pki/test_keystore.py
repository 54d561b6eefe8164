from __future__ import annotations

import stat
import subprocess
import sys
from datetime import timedelta

import pytest

from decnet_core.errors import ConfigError, ExitCode, IdentityEnded, IdentityNotBegun, TrustError
from decnet_core.identity import MASTER, WORKER_ROLES, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.keystore import KeyStore
from tests.pki.world import AGENT, DAY, LOGSHIP, SERVER, lay_down, now


@pytest.fixture
def store(tmp_path) -> KeyStore:
    return KeyStore(tmp_path / "identities")


def enrol(store, ca, identity=AGENT, **named):
    key = store.create_key(identity.role)
    leaf = ca.issue(identity, key, **named)
    return leaf, store.store(identity.role, certificates.certificate_pem(leaf), ca.pem, now())


@pytest.mark.parametrize("identity", [MASTER, *(Identity(role, "web-1") for role in WORKER_ROLES)], ids=str)
def test_what_was_stored_is_loaded(store, ca, identity):
    leaf, stored = enrol(store, ca, identity)
    loaded = store.load(identity.role, now())
    assert loaded == stored
    assert loaded.identity == identity
    assert loaded.fingerprint == certificates.fingerprint(leaf)
    assert (loaded.not_before, loaded.not_after) == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    assert loaded.files.certificate.read_bytes() == certificates.certificate_pem(leaf)


def test_the_layout(store, ca, tmp_path):
    enrol(store, ca)
    folder = tmp_path / "identities" / "agent"
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list((tmp_path / "identities").iterdir())) == 2


def test_a_missing_identity_says_join(store):
    with pytest.raises(TrustError, match="no agent identity") as caught:
        store.load(Role.AGENT, now())
    assert "decnet-agent join" in caught.value.advice


def test_a_pending_key_is_no_identity_and_survives_a_retry(store):
    key = store.create_key(Role.AGENT)
    again = store.create_key(Role.AGENT)
    assert key.public_key() == again.public_key()
    with pytest.raises(TrustError, match="no agent identity"):
        store.load(Role.AGENT, now())


def test_a_renewal_leaves_the_old_identity_until_it_is_whole(store, ca):
    leaf, first = enrol(store, ca)
    key = store.create_key(Role.AGENT)
    assert key.public_key() != leaf.public_key()
    assert store.load(Role.AGENT, now()) == first
    renewed = ca.issue(AGENT, key)
    second = store.store(Role.AGENT, certificates.certificate_pem(renewed), ca.pem, now())
    assert store.load(Role.AGENT, now()) == second != first
    assert first.files.key.exists()  # for who reads it at this moment
    enrol(store, ca)
    assert not first.files.key.exists()
    assert second.files.key.exists()


def test_a_failed_renewal_leaves_the_old_identity(store, ca, impostor):
    _, first = enrol(store, ca)
    key = store.create_key(Role.AGENT)
    foreign = certificates.certificate_pem(impostor.issue(AGENT, key))
    with pytest.raises(TrustError, match="does not vouch"):
        store.store(Role.AGENT, foreign, ca.pem, now())
    assert store.load(Role.AGENT, now()) == first


def test_a_certificate_without_a_request_is_refused(store, ca):
    leaf = ca.issue(AGENT, certificates.generate_key())
    with pytest.raises(TrustError, match="No key waits"):
        store.store(Role.AGENT, certificates.certificate_pem(leaf), ca.pem, now())


@pytest.mark.parametrize("remnant", ["copied", "switched"])
def test_a_crash_while_storing_is_repeated(store, ca, tmp_path, remnant):
    """The pending folder is the last to go: a crash before that stores the same certificate again."""
    directory = tmp_path / "identities"
    key = store.create_key(Role.AGENT)
    pem = certificates.certificate_pem(ca.issue(AGENT, key))
    key_pem = (directory / "agent.pending" / "key.pem").read_bytes()
    first = store.store(Role.AGENT, pem, ca.pem, now())
    (directory / "agent.pending").mkdir(mode=0o700)
    (directory / "agent.pending" / "key.pem").touch(mode=0o600)
    (directory / "agent.pending" / "key.pem").write_bytes(key_pem)
    (directory / ".agent.0011223344556677.tmp").symlink_to("nowhere")
    if remnant == "copied":
        (directory / "agent").unlink()
    assert store.store(Role.AGENT, pem, ca.pem, now()) == first == store.load(Role.AGENT, now())
    assert len(list(directory.iterdir())) == 2


def test_a_key_in_use_is_never_the_key_of_a_renewal(store, ca, tmp_path):
    leaf, first = enrol(store, ca)
    pending = tmp_path / "identities" / "agent.pending"
    pending.mkdir(mode=0o700)
    (pending / "key.pem").hardlink_to(first.files.key)
    assert store.create_key(Role.AGENT).public_key() != leaf.public_key()


def damage_missing_key(files, _ca):
    files.key.unlink()


def damage_missing_certificate(files, _ca):
    files.certificate.unlink()


def damage_missing_ca(files, _ca):
    files.ca.unlink()


def damage_garbage_key(files, _ca):
    files.key.write_bytes(b"garbage")


def damage_garbage_certificate(files, _ca):
    files.certificate.write_bytes(b"\x00\xff")


def damage_garbage_ca(files, _ca):
    files.ca.write_bytes(b"")


def damage_other_key(files, _ca):
    files.key.write_bytes(certificates.key_pem(certificates.generate_key()))


def damage_encrypted_key(files, _ca):
    files.key.write_bytes(certificates.key_pem(certificates.generate_key(), b"secret"))


def damage_other_ca(files, impostor):
    files.ca.write_bytes(impostor.pem)


def damage_open_key(files, _ca):
    files.key.chmod(0o640)


DAMAGES = {
    damage_missing_key: "cannot be read",
    damage_missing_certificate: "cannot be read",
    damage_missing_ca: "cannot be read",
    damage_garbage_key: "no unencrypted PEM",
    damage_garbage_certificate: "no unencrypted PEM",
    damage_garbage_ca: "holds no CA certificate",
    damage_other_key: "is not the key of",
    damage_encrypted_key: "no unencrypted PEM",
    damage_other_ca: "does not vouch",
    damage_open_key: "may be used by others",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_what_to_do(store, ca, impostor, damage):
    _, stored = enrol(store, ca)
    damage(stored.files, impostor)
    with pytest.raises(TrustError, match=DAMAGES[damage]) as caught:
        store.load(Role.AGENT, now())
    assert caught.value.advice


@pytest.mark.parametrize(("after", "message"), [(DAY + timedelta(seconds=2), "expired"), (-DAY, "not valid before")])
def test_the_dates_count(store, ca, after, message):
    enrol(store, ca)
    with pytest.raises(TrustError, match=message):
        store.load(Role.AGENT, now() + after)


def test_only_a_clock_that_is_behind_is_worth_another_try(store, ca):
    """Units and supervisors start a program again unless it ends with the exit code of lacking trust."""
    enrol(store, ca)
    with pytest.raises(IdentityNotBegun) as behind:
        store.load(Role.AGENT, now() - DAY)
    assert behind.value.exit_code == ExitCode.UNAVAILABLE
    with pytest.raises(IdentityEnded) as ended:
        store.load(Role.AGENT, now() + DAY + timedelta(seconds=2))
    assert ended.value.exit_code == ExitCode.TRUST


def test_an_identity_that_has_expired_for_openssl_too_is_said_to_have(store, ca, tmp_path):
    ca.files(tmp_path / "identities" / "agent", AGENT, at=now() - timedelta(hours=2), lifetime=timedelta(hours=1))
    with pytest.raises(TrustError, match="expired at"):
        store.load(Role.AGENT, now())


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"cn": str(LOGSHIP), "uris": [f"decnet:{LOGSHIP}"]}, "not of the role agent"),
        ({"cn": str(LOGSHIP)}, "its subject another"),
        ({"uris": []}, "exactly one"),
        ({"usage": []}, "does not state its usage"),
        ({"usage": [SERVER]}, "does not vouch"),
    ],
)
def test_a_certificate_that_is_no_identity_of_the_role(store, ca, tmp_path, named, message):
    key = certificates.generate_key()
    lay_down(tmp_path / "identities" / "agent", key, ca.forge(key, **named), ca.pem)
    with pytest.raises(TrustError, match=message):
        store.load(Role.AGENT, now())


def test_a_link_in_a_circle_is_unreadable_not_missing(store, tmp_path):
    (tmp_path / "identities").mkdir()
    (tmp_path / "identities" / "agent").symlink_to("agent")
    with pytest.raises(TrustError, match="cannot be read"):
        store.load(Role.AGENT, now())


def test_a_directory_that_is_a_file_is_a_configuration_fault(tmp_path):
    (tmp_path / "identities").touch()
    with pytest.raises(ConfigError):
        KeyStore(tmp_path / "identities").create_key(Role.AGENT)


@pytest.mark.parametrize("content", [b"half a k", None])
def test_a_damaged_pending_key_is_named(store, tmp_path, content):
    store.create_key(Role.AGENT)
    path = tmp_path / "identities" / "agent.pending" / "key.pem"
    if content is None:
        path.chmod(0o644)
    else:
        path.write_bytes(content)
    with pytest.raises(TrustError):
        store.create_key(Role.AGENT)


def test_a_daemons_start_never_imports_cryptography(store, ca, tmp_path):
    enrol(store, ca)
    program = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import decnet_core.peer
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import client_context, server_context
stored = KeyStore(Path(sys.argv[1])).load(Role.AGENT, datetime.now(UTC))
server_context(stored.files), client_context(stored.files, stored.files.ca)
print(stored.identity, "cryptography" in sys.modules)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "identities")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "agent@web-1 False\n"
