"""Kill the process between any two changes of the disk: what is there must be old or new, and the next try go on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from decnet_core.errors import TrustError
from decnet_core.identity import WORKER_ROLES, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.authority import CertificateAuthority
from decnet_core.pki.keystore import KeyStore
from tests.pki.world import AGENT, now

NOW = datetime(2031, 5, 4, 12, tzinfo=UTC)
CHANGES = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.chmod"}
KILLED = 9


def killed_before_change(number: int, work: Callable[[], object]) -> bool:
    """Run the work in a child that ends, without any clean-up, before the number-th change; False if it got through."""
    child = os.fork()
    if child == 0:
        left = number

        def on_audit(event: str, arguments: tuple) -> None:
            nonlocal left
            left -= event in CHANGES or (event == "open" and bool((arguments[2] or 0) & os.O_CREAT))
            if left < 0:
                os._exit(KILLED)

        status = 1
        try:
            sys.addaudithook(on_audit)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    exit_code = os.waitstatus_to_exitcode(status)
    assert exit_code in (0, KILLED)
    return exit_code == KILLED


def every_crash(tmp_path: Path, work: Callable[[Path], object], prepared: Path | None = None):
    """Yield the folder after a kill before each change in turn, and at last after none."""
    number, alive = 0, False
    while not alive:
        folder = tmp_path / str(number)
        if prepared is not None:
            shutil.copytree(prepared, folder, symlinks=True)
        alive = not killed_before_change(number, lambda folder=folder: work(folder))
        yield folder, alive
        number += 1
    assert number > 4, "the hook saw nothing"


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_making_a_ca(tmp_path, passphrase):
    def work(folder):
        return CertificateAuthority.open_or_create(folder, "DECNET CA", passphrase, NOW)

    for folder, _ in every_crash(tmp_path, work):
        key = (folder / "ca.key").read_bytes() if (folder / "ca.key").exists() else None
        certificate = (folder / "ca.crt").read_bytes() if (folder / "ca.crt").exists() else None
        authority = work(folder)
        assert key in (None, (folder / "ca.key").read_bytes())
        assert certificate in (None, authority.certificate_pem)


@pytest.mark.slow
def test_renewing_an_identity(tmp_path, ca):
    prepared = tmp_path / "prepared"
    store = KeyStore(prepared)
    for _ in range(2):  # one in use, one before it, and a key for the next
        key = store.create_key(Role.AGENT)
        old = certificates.certificate_pem(ca.issue(AGENT, key))
        store.store(Role.AGENT, old, ca.pem, now())
    new = certificates.certificate_pem(ca.issue(AGENT, store.create_key(Role.AGENT)))

    def work(folder):
        return KeyStore(folder).store(Role.AGENT, new, ca.pem, now())

    seen = set()
    for folder, alive in every_crash(tmp_path, work, prepared):
        used = KeyStore(folder).load(Role.AGENT, now()).files.certificate.read_bytes()
        assert used in (old, new)
        seen.add(used)
        if (folder / "agent.pending" / "key.pem").exists():
            assert not alive
            work(folder)
        else:
            assert used == new
        assert KeyStore(folder).load(Role.AGENT, now()).files.certificate.read_bytes() == new
        KeyStore(folder).create_key(Role.AGENT)
        leftovers = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
        assert not leftovers
    assert seen == {old, new}


def test_joining_again_asks_about_the_same_key(tmp_path):
    def work(folder):
        return KeyStore(folder).create_key(Role.AGENT)

    for folder, _ in every_crash(tmp_path, work):
        path = folder / "agent.pending" / "key.pem"
        before = path.read_bytes() if path.exists() else None
        work(folder)
        assert before in (None, path.read_bytes())
        with pytest.raises(TrustError, match="no agent identity"):
            KeyStore(folder).load(Role.AGENT, now())


@pytest.mark.slow
def test_renewing_all_identities_of_a_worker(tmp_path, ca):
    """Each is whole at any point, and the agent's is the last: who has the new one has all of them."""
    from decnet_agent.renewal import store_all

    prepared = tmp_path / "prepared"
    store = KeyStore(prepared)

    def issued(role: Role) -> bytes:
        return certificates.certificate_pem(ca.issue(Identity(role, "web-1"), store.create_key(role)))

    old = {role: issued(role) for role in WORKER_ROLES}
    for role in WORKER_ROLES:
        store.store(role, old[role], ca.pem, now())
    new = {role: issued(role) for role in WORKER_ROLES}

    def work(folder):
        store_all(KeyStore(folder), new, ca.pem, now())

    for folder, alive in every_crash(tmp_path, work, prepared):
        used = {}
        for role in WORKER_ROLES:
            used[role] = KeyStore(folder).load(role, now()).files.certificate.read_bytes()
            assert used[role] in (old[role], new[role])
        if used[Role.AGENT] == new[Role.AGENT]:
            assert used == new
        assert used == new or not alive
        shutil.rmtree(folder)
