"""The updater as it is started on a worker: the real command, real mutual TLS, real signals."""

from __future__ import annotations

import json
import os
import platform
import socket
import ssl
import subprocess
import sys

import httpx
import pytest

from decnet_core.identity import MASTER, Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import client_context
from decnet_updater import __version__
from tests.lab.processes import Daemon
from tests.pki.world import Ca, lay_down, now

HOST = "web-1"
UPDATER = Identity(Role.UPDATER, HOST)
SERVE = [sys.executable, "-m", "decnet_updater", "serve"]
WAIT_SECS = 5
BROKEN = (httpx.TransportError, ssl.SSLError, OSError)


@pytest.fixture(scope="module")
def ca():
    return Ca.make()


@pytest.fixture(scope="module")
def home(ca, tmp_path_factory):
    """A worker's folder that holds the updater's identity."""
    folder = tmp_path_factory.mktemp("worker")
    store = KeyStore(folder / "data" / "identities")
    key = store.create_key(Role.UPDATER)
    store.store(Role.UPDATER, certificates.certificate_pem(ca.issue(UPDATER, key)), ca.pem, now())
    return folder


def environment(folder, address="127.0.0.1:0"):
    return {
        "DECNET_CONFIG": str(config_in(folder)),
        "DECNET_DATA_DIRECTORY": str(folder / "data"),
        "DECNET_UPDATER_ADDRESS": address,
    }


def config_in(folder):
    path = folder / "decnet.ini"
    path.touch()
    return path


@pytest.fixture(scope="module")
def updater(home):
    with Daemon(SERVE, log_path=home / "updater.log", env=environment(home)) as daemon:
        daemon.port = _port(daemon)
        daemon.wait_for_port(daemon.port)
        yield daemon


def _port(daemon):
    return int(daemon.wait_for_line(r'"address": "127\.0\.0\.1:(\d+)"')[1])


def ask(updater, context, path="/health", method="GET"):
    with httpx.Client(verify=context, timeout=WAIT_SECS, trust_env=False) as client:
        url = f"https://127.0.0.1:{updater.port}{path}"
        return client.request(method, url, extensions={"sni_hostname": HOST})


@pytest.fixture(scope="module")
def master(ca, tmp_path_factory):
    files = ca.files(tmp_path_factory.mktemp("master"), MASTER)
    return client_context(files, files.ca)


def test_the_master_learns_that_it_is_well(updater, master):
    answer = ask(updater, master)
    assert answer.status_code == 200
    assert answer.json() == {"role": "updater", "host": HOST, "version": __version__, "ok": True}
    assert {"server", "date"}.isdisjoint(answer.headers)


def test_the_master_learns_what_it_runs_on(updater, master):
    answer = ask(updater, master, "/status").json()
    assert answer == {
        "host": HOST,
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/health", 405),
    ],
)
def test_there_is_nothing_else(updater, master, method, path, status):
    answer = ask(updater, master, path, method)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["status"] == status


@pytest.mark.parametrize("role", [Role.AGENT, Role.LOGSHIP, Role.UPDATER])
@pytest.mark.parametrize("path", ["/health", "/status", "/nothing"])
def test_no_worker_may_ask(updater, ca, tmp_path, role, path):
    files = ca.files(tmp_path, Identity(role, HOST))
    answer = ask(updater, client_context(files, files.ca), path)
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert answer.json()["type"] == "urn:decnet:problem:not-trusted"
    assert updater.wait_for_line(rf'"identity": "{role}@{HOST}".*"request.refused"|"request.refused".*"{role}@{HOST}"')


def test_an_impostors_master_is_refused_at_the_handshake(updater, ca, tmp_path):
    files = Ca.make().files(tmp_path, MASTER)
    (tmp_path / "true-ca.pem").write_bytes(ca.pem)
    with pytest.raises(BROKEN):
        ask(updater, client_context(files, tmp_path / "true-ca.pem"))


def test_without_a_certificate_nothing_is_answered(updater, ca, tmp_path):
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    with pytest.raises(BROKEN):
        ask(updater, client_context(None, tmp_path / "ca.pem"))


def test_a_certificate_of_our_ca_that_names_nobody_is_cut_off(updater, ca, tmp_path):
    key = certificates.generate_key()
    files = lay_down(tmp_path, key, ca.forge(key, cn="decnet-master", uris=(), dns=("decnet-master",)), ca.pem)
    with pytest.raises(BROKEN):
        ask(updater, client_context(files, files.ca))
    assert updater.wait_for_line('"peer.refused"')


def test_plain_http_is_not_answered(updater):
    with socket.create_connection(("127.0.0.1", updater.port), timeout=WAIT_SECS) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(1024)


def test_a_head_without_end_is_refused(updater, master):
    with (
        socket.create_connection(("127.0.0.1", updater.port), timeout=WAIT_SECS) as plain,
        master.wrap_socket(plain, server_hostname=HOST) as secured,
    ):
        secured.sendall(b"GET /health HTTP/1.1\r\nx: " + b"a" * 20_000)
        assert b" 400 " in secured.recv(1024).splitlines()[0]


@pytest.mark.slow
def test_it_stops_at_once_with_a_connection_open(home, master):
    with Daemon(SERVE, log_path=home / "stopped.log", env=environment(home)) as daemon:
        daemon.port = _port(daemon)
        with (
            socket.create_connection(("127.0.0.1", daemon.port), timeout=WAIT_SECS) as plain,
            master.wrap_socket(plain, server_hostname=HOST),
        ):
            daemon.stop()
        assert daemon.returncode == 0
        assert "library.logged" not in daemon.log_text()


def run(*arguments, env=None):
    return subprocess.run(
        [sys.executable, "-m", "decnet_updater", *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_it_refuses_to_start_without_an_identity(tmp_path):
    done = run("serve", env=environment(tmp_path))
    assert done.returncode == 77
    assert "error: This host has no updater identity" in done.stderr
    assert "decnet-agent join" in done.stderr


def test_it_refuses_to_start_with_the_agents_identity(ca, tmp_path):
    store = KeyStore(tmp_path / "data" / "identities")
    agent = Identity(Role.AGENT, HOST)
    certificate = ca.issue(agent, store.create_key(Role.AGENT))
    store.store(Role.AGENT, certificates.certificate_pem(certificate), ca.pem, now())
    (tmp_path / "data" / "identities" / "updater").symlink_to("agent")
    done = run("serve", env=environment(tmp_path))
    assert done.returncode == 77
    assert "agent@web-1" in done.stderr


def test_a_port_in_use_is_one_clear_sentence(home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("serve", env=environment(home, address))
    assert done.returncode == 5
    assert done.stderr.startswith(f"error: Another process listens on {address}\n  what to do: ")
    assert "updater-address" in done.stderr


def test_a_key_that_is_not_known_is_refused_by_name(tmp_path):
    config_in(tmp_path).write_text("[updater]\nupdater-adress = 127.0.0.1:1\n")
    done = run("serve", env=environment(tmp_path))
    assert done.returncode == 78
    assert "Did you mean 'updater-address'?" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["--version"], 0, __version__), (["--help"], 0, "serve"), ([], 2, "usage:"), (["fly"], 2, "usage:")],
)
def test_the_command_line(arguments, code, words):
    done = run(*arguments)
    assert (done.returncode, words in done.stdout + done.stderr) == (code, True)


def test_asking_for_the_version_imports_nothing_heavy():
    code = (
        "import sys; sys.argv[1:] = ['--version']\n"
        "from decnet_updater.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert {"pydantic", "ssl", "asyncio", "uvicorn", "starlette", "structlog"}.isdisjoint(done.stdout.split())


def test_its_log_lines_are_json_of_its_role(updater):
    line = json.loads(updater.wait_for_line(r"^.*updater\.started.*$")[0])
    assert (line["role"], line["identity"]) == ("updater", str(UPDATER))


@pytest.mark.slow
def test_a_renewed_certificate_is_used_without_a_restart(updater, home, ca, master):
    """Another process renews; the running one looks every two seconds."""

    def shown() -> str:
        with (
            socket.create_connection(("127.0.0.1", updater.port), WAIT_SECS) as raw,
            master.wrap_socket(raw, server_hostname=HOST) as connection,
        ):
            return certificates.fingerprint(connection.getpeercert(True))

    store = KeyStore(home / "data" / "identities")
    before = store.load(Role.UPDATER, now()).fingerprint
    assert shown() == before
    key = store.create_key(Role.UPDATER)
    renewed = store.store(Role.UPDATER, certificates.certificate_pem(ca.issue(UPDATER, key)), ca.pem, now())
    assert renewed.fingerprint != before
    updater.wait_for_line('"event": "identity.changed"')
    assert shown() == renewed.fingerprint
    assert ask(updater, master).status_code == 200
