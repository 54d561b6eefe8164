"""What must be refused, tried against the running site: strangers at every port, and commands that cannot work."""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from decnet_core.identity import MASTER, Identity, Role
from decnet_core.pki import tls
from decnet_core.pki.authority import CertificateAuthority
from decnet_core.pki.certificates import make_csr
from decnet_core.pki.keystore import KeyStore
from tests.lab.attack import Target, visit
from tests.lab.lan import Lan
from tests.lab.screen import Screen
from tests.lab.site import WORKER, Site

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]

_CALL_SECS = 5.0


def _impostor(folder: Path, identity: Identity) -> tls.IdentityFiles:
    """Keys and certificates with the right names, of a CA that is not the site's."""
    now = datetime.now(UTC)
    authority = CertificateAuthority.open_or_create(folder / "ca", "DECNET CA", None, now)
    store = KeyStore(folder / "identities")
    csr = make_csr(store.create_key(identity.role), identity)
    leaf = authority.issue(csr, identity, now=now, lifetime=timedelta(hours=1))
    return store.store(identity.role, leaf, authority.certificate_pem, now).files


def _answer(site: Site, port: str, files: tls.IdentityFiles | None, server: str, request: bytes, ca: Path) -> bytes:
    """What a port sends back to a client that shows these files; empty when it hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if files is not None:
        context.load_cert_chain(files.certificate, files.key)
    if port == "listener":
        context.set_alpn_protocols(["decnet-log/1"])
    with contextlib.suppress(OSError):  # a reset or an alert is a refusal
        raw = socket.create_connection(("127.0.0.1", site.ports[port]), timeout=_CALL_SECS)
        with raw, context.wrap_socket(raw, server_hostname=server) as channel:
            channel.sendall(request)
            return channel.recv(4096)
    return b""


_GARBAGE = (b"GET / HTTP/1.1\r\n\r\n", b"99999999999 x", b"\x00" * 64, b"5 \nNOPE", b"3 <3")
_HELLO = b"39 \nHELLO " + b"0" * 32


@pytest.mark.parametrize(
    ("port", "server", "claimed", "request_bytes"),
    [
        ("agent", WORKER, MASTER, b"GET /health HTTP/1.1\r\nHost: w1\r\n\r\n"),
        ("updater", WORKER, MASTER, b"GET /health HTTP/1.1\r\nHost: w1\r\n\r\n"),
        ("listener", MASTER.host, Identity(Role.LOGSHIP, WORKER), _HELLO),
    ],
)
@pytest.mark.parametrize("shows", ["a certificate of another CA", "no certificate"])
def test_a_stranger_is_refused_at_the_handshake(
    shows: str, port: str, server: str, claimed: Identity, request_bytes: bytes, site: Site, tmp_path: Path
) -> None:
    ca = site.folder / "worker" / "data" / "identities" / "agent" / "ca.pem"
    files = _impostor(tmp_path, claimed) if shows.startswith("a ") else None
    assert _answer(site, port, files, server, request_bytes, ca) == b""


def test_the_real_master_is_answered(site: Site) -> None:
    """The control of the test above: the same request with the site's own master identity."""
    store = KeyStore(site.folder / "master" / "data" / "identities")
    files = store.load(Role.MASTER, datetime.now(UTC)).files
    for port in ("agent", "updater"):
        answer = _answer(site, port, files, WORKER, b"GET /health HTTP/1.1\r\nHost: w1\r\n\r\n", files.ca)
        assert answer.startswith(b"HTTP/1.1 200"), (port, answer)


def test_a_workers_certificate_opens_no_agent(site: Site) -> None:
    store = KeyStore(site.folder / "worker" / "data" / "identities")
    files = store.load(Role.AGENT, datetime.now(UTC)).files
    for port in ("agent", "updater"):
        answer = _answer(site, port, files, WORKER, b"GET /status HTTP/1.1\r\nHost: w1\r\n\r\n", files.ca)
        assert answer.startswith(b"HTTP/1.1 403"), (port, answer)


def test_garbage_from_an_enrolled_worker_leaves_the_listener_up(site: Site, lan: Lan, screen: Screen) -> None:
    store = KeyStore(site.folder / "worker" / "data" / "identities")
    files = store.load(Role.LOGSHIP, datetime.now(UTC)).files
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"99999999999 x",
        b"\x00" * 64,
        b"5 \nNOPE",
        b"3 <3",
        secrets.token_bytes(500),
    ):
        _answer(site, "listener", files, MASTER.host, garbage, files.ca)
    decky = screen.get("/api/v1/deckies")["deckies"][0]
    account = decky["accounts"][0]
    target = Target(decky["name"], decky["ip"], account["user"], account["password"])
    assert screen.wait_for(visit(lan.attacker, target, secrets.token_hex(3)), timeout_secs=45) == []


def test_an_agent_without_an_identity_does_not_start(tmp_path: Path, site: Site) -> None:
    done = _run_with(site, tmp_path, ["decnet-agent", "serve"])
    assert done.returncode == 77
    assert "join" in done.stderr


@pytest.mark.parametrize("program", ["decnet-logship", "decnet-updater"])
def test_its_companions_neither(program: str, tmp_path: Path, site: Site) -> None:
    done = _run_with(site, tmp_path, [program, "serve"])
    assert done.returncode == 77, done.stderr
    assert "what to do" in done.stderr


def _run_with(site: Site, folder: Path, argv: list[str], ini: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "worker").mkdir(exist_ok=True)
    directories = "".join(f"{name}-directory = {folder / name}\n" for name in ("data", "log", "run"))
    (folder / "worker" / "decnet.ini").write_text(f"[decnet]\n{directories}{ini}")
    elsewhere = Site(folder, "unix:///nowhere", site.lan)
    return elsewhere.attempt("worker", argv)


def test_a_port_in_use_is_named(site: Site) -> None:
    done = site.attempt("worker", ["decnet-updater", "serve"])
    assert done.returncode == 5
    assert str(site.ports["updater"]) in done.stderr


@pytest.mark.parametrize(
    ("ini", "word"),
    [
        ("no section", "INI"),
        ("[agent]\nintreface = eth0\n", "interface"),
        ("[agent]\nsubnet = 10.0.0.0/99\n", "subnet"),
    ],
)
def test_a_bad_configuration_is_explained(ini: str, word: str, tmp_path: Path, site: Site) -> None:
    path = tmp_path / "worker" / "decnet.ini"
    path.parent.mkdir()
    path.write_text(ini)
    done = Site(tmp_path, "unix:///nowhere", site.lan).attempt("worker", ["decnet-agent", "serve"])
    assert done.returncode == 78
    assert word in done.stderr


def test_a_missing_engine_is_named(site: Site) -> None:
    done = site.attempt("worker", ["decnet-agent", "doctor"], env={"DECNET_DOCKER_HOST": "unix:///nowhere/docker.sock"})
    assert done.returncode == 69, done.stdout + done.stderr
    assert "No Docker engine answers at unix:///nowhere/docker.sock" in done.stdout + done.stderr
