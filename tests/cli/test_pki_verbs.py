"""Tokens, bundles and the CA from the command line, against a master that runs."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from decnet_agent.bundles import join_from
from decnet_agent.joining import join, read_enrolment
from decnet_agent.renewal import renew
from decnet_agent.settings import AgentSettings
from decnet_core.enrolment import JoinToken
from decnet_core.errors import ConfigError, IdentityEnded, TrustError
from decnet_core.identity import MASTER, WORKER_ROLES, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import IdentityFiles, client_context
from decnet_core.shipping.control import ALPN
from decnet_master import installation
from tests.cli.conftest import Cli
from tests.pki.world import Ca, now
from tests.swarm.master import settings_in

pytestmark = pytest.mark.long


def worker_in(folder: Path) -> AgentSettings:
    return AgentSettings.load(data_directory=folder, agent_address="127.0.0.1:1")


def document(cli: Cli, *arguments: str) -> dict:
    done = cli(*arguments, "--json")
    assert done.code == 0, done
    return json.loads(done.out)


@pytest.mark.slow
def test_tokens_bundles_and_a_change_of_the_ca(served: Cli, tmp_path: Path) -> None:
    _tokens(served)
    _a_bundle(served, tmp_path)
    _a_change(served, tmp_path)


def _tokens(cli: Cli) -> None:
    token = JoinToken.parse(document(cli, "swarm", "enroll", "w1")["token"])
    (listed,) = document(cli, "swarm", "tokens", "list")["tokens"]
    assert (listed["id"], listed["host"], listed["state"]) == (token.id, "w1", "open")
    shown = cli("swarm", "tokens", "list").out
    assert token.id in shown
    assert token.secret not in shown
    assert cli("swarm", "tokens", "revoke", "not-an-id").code == 2
    assert cli("swarm", "tokens", "revoke", "0" * 16).code == 4
    assert "is revoked" in cli("swarm", "tokens", "revoke", token.id).out
    with pytest.raises(TrustError, match="was revoked"):
        join(worker_in(cli.folder / "w1"), token)
    assert cli("swarm", "enroll", "decnet-master").code == 5


def _a_bundle(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    assert cli("swarm", "enroll", "w2", "--out-dir", str(folder), "--ttl-minutes", "5").code == 2
    assert cli("swarm", "enroll", "w2", "--address", "192.0.2.7").code == 2
    assert cli("swarm", "enroll", "w2", "--agent-port", "18765").code == 2
    assert cli("swarm", "enroll", "w2", "--bootstrap", "--updater-port", "18766").code == 2
    told = cli("swarm", "enroll", "w2", "--out-dir", str(folder), "--agent-port", "18765", "--updater-port", "18766")
    assert told.code == 0, told
    assert "decnet-agent join --bundle bundle" in told.out
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert cli("swarm", "enroll", "w3", "--out-dir", str(folder)).code == 5, "it holds another worker"
    refused = tmp_path / "refused"
    assert cli("swarm", "enroll", "w2", "--out-dir", str(refused)).code == 5, "the name is taken"
    assert list(refused.iterdir()) == []

    settings = worker_in(tmp_path / "w2")
    (folder / "agent" / "key.pem").chmod(0o644)
    with pytest.raises(TrustError, match="may be used by others"):
        join_from(settings, folder)
    (folder / "agent" / "key.pem").chmod(0o600)
    for _ in range(2):
        assert join_from(settings, folder) == Identity(Role.AGENT, "w2")
    carried = {(folder / role / "key.pem").read_bytes() for role in WORKER_ROLES}
    assert read_enrolment(settings.data_directory).master == "127.0.0.1"
    assert renew(settings, forced=True).renewed
    for role in WORKER_ROLES:
        files = KeyStore(settings.identities_directory).load(role, now()).files
        assert files.key.read_bytes() not in carried, "the keys that travelled are out of use"
    (host,) = [host for host in document(cli, "swarm", "list")["hosts"] if host["name"] == "w2"]
    assert host["address"] == "127.0.0.1", "learnt from the renewal"
    assert host["agent_port"] == 18765


def _a_change(cli: Cli, tmp_path: Path) -> None:
    assert [row["role"] for row in document(cli, "pki", "status")["authorities"]] == ["only"]
    assert cli("pki", "rotate").code == 1, "nobody said yes"
    begun = document(cli, "pki", "rotate", "--yes")
    assert begun["changing"]
    shown = cli("pki", "status").out
    assert begun["authorities"][1]["fingerprint"][:16] in shown
    assert re.search(r"w2 .*NO", shown)
    refused = cli("pki", "retire", "--yes")
    assert refused.code == 5
    assert "w2" in refused.err
    asked = cli("pki", "retire", "--force")
    assert asked.code == 1, "nobody said yes"
    assert "These workers are cut off" in asked.out + asked.err
    renew(worker_in(tmp_path / "w2"), forced=True)
    assert not document(cli, "pki", "retire", "--yes")["changing"]
    renew(worker_in(tmp_path / "w2"), forced=True)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    settings = worker_in(tmp_path / "w1")
    with pytest.raises(ConfigError, match="cannot be read"):
        join_from(settings, tmp_path / "none")
    (tmp_path / "enrolment.json").write_text("{}")
    with pytest.raises(ConfigError, match="not what a bundle holds"):
        join_from(settings, tmp_path)
    assert not settings.data_directory.exists()


@pytest.mark.slow
def test_serve_repairs_a_certificate_that_has_ended(cli: Cli) -> None:
    """The listener waits for the controller, which issues it anew."""
    settings = settings_in(cli.folder)
    keys = KeyStore(settings.identities_directory)
    authorities = installation.open_authorities(settings, now())
    then = now() - timedelta(days=8)
    ca = Ca(authorities.anchor._key, authorities.anchor.certificate)
    leaf = ca.forge(keys.create_key(Role.MASTER), cn=str(MASTER), uris=[f"decnet:{MASTER}"], dns=[MASTER.host], at=then)
    keys.store(Role.MASTER, certificates.certificate_pem(leaf), authorities.trusted_pem, then)
    with pytest.raises(IdentityEnded):
        keys.load(Role.MASTER, now())
    with cli.daemon("serve", "--no-api", "--no-ingester") as daemon:
        for name in ("controller", "enrolment", "listener"):
            daemon.wait_for_port(cli.ports[name], timeout_secs=60)
    assert keys.load(Role.MASTER, now()).not_after > now()


def hello(cli: Cli, files: IdentityFiles) -> bytes:
    """What the listener answers to a logship that shows these files and names a stream; empty when it hangs up."""
    context = client_context(files, files.ca, [ALPN])
    with contextlib.suppress(OSError):  # an alert or a reset is a refusal, also of the master by us
        raw = socket.create_connection(("127.0.0.1", cli.ports["listener"]), 5)
        with raw, context.wrap_socket(raw, server_hostname=MASTER.host) as connection:
            connection.sendall(b"39 \nHELLO " + b"0" * 32)
            return connection.recv(4096)
    return b""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_listener_follows_a_change_of_the_ca_without_a_restart(cli: Cli, tmp_path: Path) -> None:
    with cli.daemon("serve", "--no-api", "--no-ingester") as daemon:
        for name in ("controller", "enrolment", "listener"):
            daemon.wait_for_port(cli.ports[name], timeout_secs=60)
        settings = worker_in(tmp_path / "w1")
        join(settings, JoinToken.parse(document(cli, "swarm", "enroll", "w1")["token"]))

        def logship() -> IdentityFiles:
            return KeyStore(settings.identities_directory).load(Role.LOGSHIP, now()).files

        old = logship()
        assert b"RESUME" in hello(cli, old)
        document(cli, "pki", "rotate", "--yes")
        assert b"RESUME" in hello(cli, old)
        renew(settings, forced=True)
        until(lambda: b"RESUME" in hello(cli, logship()))  # it looks every two seconds
        assert b"RESUME" in hello(cli, old)
        document(cli, "pki", "retire", "--yes")
        mixed = IdentityFiles(old.key, old.certificate, logship().ca)  # trusts the new CA, shows the old one's
        until(lambda: hello(cli, mixed) == b"")
        assert b"RESUME" in hello(cli, logship())
        log = (cli.folder / "serve.log").read_text()
        assert log.count('"event": "listener.started"') == 1


def typed(cli: Cli, words: list[str], *arguments: str, until: str | None = None) -> tuple[int, str]:
    """Run a verb on a terminal, type words at its prompts, and return its code and what the terminal showed.

    A daemon is asked to end once the terminal shows `until`.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "decnet_master", *arguments],
        env=cli.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    try:
        for word in words:
            while not shown.endswith((b": ",)):
                shown += os.read(ours, 1024)
            os.write(ours, word.encode() + b"\n")
            shown += b"|"
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux: the other side is closed
                break
            if not piece:
                break
            shown += piece
            if until is not None and until in shown.decode():
                process.send_signal(signal.SIGTERM)
                until = None
        return process.wait(60), shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.slow
def test_a_passphrase_may_be_typed(bare: Cli) -> None:
    code, shown = typed(bare, ["correct horse", "correct horse"], "init", "--ask-passphrase")
    assert code == 0, shown
    assert "horse" not in shown
    assert "ENCRYPTED" in (bare.folder / "data/ca/ca.key").read_text()
    assert bare.process("init").code == 78
    code, shown = typed(bare, ["wrong horse"], "init", "--ask-passphrase")
    assert code == 78
    assert "cannot be decrypted" in shown
    only = ("--no-api", "--no-listener", "--no-ingester")
    code, shown = typed(bare, ["correct horse"], "serve", "--ask-passphrase", *only, until="controller.started")
    assert code == 0, shown
    assert bare.process("serve", *only).code == 78
