"""The agent's process as the master and strangers meet it; no engine is needed, and none answers."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from decnet_agent.api.server import HEAD_SECS
from decnet_core.errors import ExitCode
from decnet_core.fleet import DeckySpec, Shard
from decnet_core.identity import Identity, Role
from decnet_core.pki.tls import IdentityFiles, client_context
from tests.agent.worker import HOST, PROGRAM, Worker, lay_down
from tests.pki.world import Ca

pytestmark = pytest.mark.slow  # starts the agent for each test


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("worker")
    lan = {"interface": "lo", "subnet": "10.77.1.0/24"}
    with Worker(folder, docker_host=f"unix://{folder}/no-docker.sock", lan=lan) as worker:
        yield worker


def run(worker: Worker, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAM), *arguments],
        env={"PATH": "/usr/sbin:/usr/bin:/bin", **worker.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_health(worker):
    answer = worker.call("GET", "/health")
    assert (answer.status, answer.document["role"], answer.document["host"]) == (200, "agent", HOST)


def test_status_without_an_engine(worker):
    status = worker.call("GET", "/status").document
    assert (status["engine"], status["taps"], status["generation"], status["deckies"]) == (None, "none", 0, [])


def test_deploy_without_an_engine(worker):
    shard = Shard(generation=1, deckies=(DeckySpec(name="a", services=("ssh",)),))
    answer = worker.call("POST", "/deploy", shard.model_dump(mode="json"))
    assert (answer.status, answer.document["type"]) == (503, "urn:decnet:problem:unavailable")
    assert "Start Docker" in answer.document["advice"]
    # what is wanted is known all the same, and tried again
    assert worker.call("GET", "/status").document["generation"] == 1


@pytest.mark.parametrize("path", ["/health", "/status", "/deploy", "/docs", "/openapi.json", "/redoc", "/nothing"])
@pytest.mark.parametrize("role", [Role.LOGSHIP, Role.UPDATER, Role.AGENT])
def test_only_the_master_is_answered(worker, tmp_path, path, role):
    files = lay_down(tmp_path, worker.ca, Identity(role, "w2"))
    answer = worker.call("GET", path, files=files)
    assert (answer.status, answer.media_type) == (403, "application/problem+json")
    assert answer.document["type"] == "urn:decnet:problem:not-trusted"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc", "/"])
def test_there_are_no_pages_about_the_api(worker, path):
    assert worker.call("GET", path).status == 404


def test_an_impostor_is_refused_at_the_handshake(worker, tmp_path):
    other = lay_down(tmp_path, Ca.make(), Identity(Role.MASTER, "decnet-master"))
    impostor = IdentityFiles(other.key, other.certificate, worker.master.ca)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        worker.call("GET", "/health", files=impostor)


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"{}", b'{"generation": 0}', b'{"generation": 1, "secret": 1}', b"\xff" * 50, b"[" * 100_000],
)
def test_a_body_that_is_no_shard(worker, body):
    answer = worker.call("POST", "/deploy", body)
    assert (answer.status, answer.document["type"]) == (400, "urn:decnet:problem:bad-request")


def test_a_body_without_end(worker):
    answer = worker.call("POST", "/deploy", b" " * (5 << 20))
    assert (answer.status, answer.document["type"]) == (400, "urn:decnet:problem:bad-request")


def test_a_second_agent_finds_the_port_taken(worker):
    done = run(worker, "serve", "--no-forwarder", "--no-tap")
    assert done.returncode == ExitCode.CONFLICT
    assert "ss -ltnp" in done.stderr


def test_a_second_agent_does_not_write_the_same_log(worker):
    done = run(worker, "serve", "--no-forwarder", "--no-tap", DECNET_AGENT_ADDRESS="127.0.0.1:0")
    assert done.returncode == ExitCode.CONFLICT
    assert "Another agent writes the event log" in done.stderr


def test_without_an_identity_it_does_not_start(worker, tmp_path):
    done = run(worker, "serve", DECNET_DATA_DIRECTORY=str(tmp_path))
    assert done.returncode == ExitCode.TRUST
    assert "decnet-agent join" in done.stderr


@pytest.mark.parametrize(
    ("ini", "words"),
    [
        ("[agent]\nsubnett = 10.0.0.0/8\n", "Did you mean 'subnet'?"),
        ("[agent]\nsubnet = 10.0.0.1/8\n", "subnet"),
        ("[agent]\nsubnet = 10.0.0.0/24\nip-range = 10.0.1.0/24\n", "ip-range must lie within subnet"),
        ("nonsense", "is not an INI file"),
    ],
)
def test_a_configuration_that_does_not_fit(worker, tmp_path, ini, words):
    (tmp_path / "decnet.ini").write_text(ini)
    done = run(worker, "serve", DECNET_CONFIG=str(tmp_path / "decnet.ini"))
    assert done.returncode == ExitCode.CONFIG
    assert words in done.stderr


@pytest.mark.slow
def test_a_damaged_state_is_not_guessed_at(tmp_path):
    worker = Worker(tmp_path, docker_host="unix:///none")
    (tmp_path / "data/agent").mkdir()
    (tmp_path / "data/agent/state.json").write_text('{"seed": 1}')
    done = run(worker, "serve", "--no-forwarder", "--no-tap")
    assert done.returncode == ExitCode.CONFIG
    assert "state.json" in done.stderr


def test_doctor_names_what_is_missing(worker):
    done = run(worker, "doctor")
    assert done.returncode == ExitCode.TRUST  # enrolment.json is what `join` writes last, and this worker has none
    assert "FAIL  engine: No Docker engine answers" in done.stdout
    assert "ok    identity" in done.stdout


def test_status_as_json(worker):
    document = json.loads(run(worker, "status", "--json").stdout)
    assert document["engine"] is None
    assert document["deckies"] == []
    assert document["logship"]["state"] == "absent", "no shipper ever ran here"
    assert "state.json" in document["logship"]["reason"]


def test_strangers_who_only_connect_cost_little(worker):
    pid = worker.daemon.pid
    strangers = [socket.create_connection(("127.0.0.1", worker.port)) for _ in range(400)]
    try:
        assert worker.call("GET", "/health", timeout=10).status == 200
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 150
    finally:
        for stranger in strangers:
            stranger.close()


@pytest.mark.slow
def test_a_second_request_that_does_not_begin_is_cut(worker):
    context = client_context(worker.master, worker.master.ca)
    raw = socket.create_connection(("127.0.0.1", worker.port), timeout=HEAD_SECS + 10)
    with context.wrap_socket(raw, server_hostname=HOST) as secured:
        secured.sendall(b"GET /health HTTP/1.1\r\nHost: w1\r\n\r\n")
        assert secured.recv(4096).startswith(b"HTTP/1.1 200")
        secured.sendall(b"GET /hea")
        with suppress(OSError):
            while secured.recv(4096):
                pass


@pytest.mark.slow
def test_it_ends_when_asked_to(tmp_path):
    worker = Worker(tmp_path, docker_host="unix:///none")
    with worker:
        worker.daemon.wait_for_line("agent.started")
        idle = socket.create_connection(("127.0.0.1", worker.port))
        started = time.monotonic()
        assert worker.daemon.stop() == 0
        assert time.monotonic() - started < 8
        idle.close()


def test_a_version_loads_nothing_that_it_does_not_need():
    argv = [sys.executable, "-X", "importtime", "-m", "decnet_agent", "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "decnet_agent.cli" in loaded
    assert loaded.isdisjoint({"asyncio", "ssl", "docker", "httpx", "pydantic", "starlette", "structlog", "uvicorn"})


def test_the_module_runs_like_the_script():
    done = subprocess.run(
        [sys.executable, "-m", "decnet_agent", "--version"], capture_output=True, timeout=30, check=True
    )
    assert done.stdout.startswith(b"decnet-agent ")


@pytest.mark.slow
def test_docker_is_imported_by_its_room_alone():
    """… and by nobody before it is used."""
    code = "import sys, decnet_agent.app; sys.exit('docker' in sys.modules or 'cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
    package = Path(__file__).parents[2] / "packages/decnet-agent/src/decnet_agent"
    importers = {
        path.parent.name
        for path in package.rglob("*.py")
        if any(line.strip().startswith(("import docker", "from docker")) for line in path.read_text().splitlines())
    }
    assert importers == {"engine"}
