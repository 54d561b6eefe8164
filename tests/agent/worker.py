"""A worker with a real identity, its agent as a process, and a master that calls it over mutual TLS."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from decnet_core.events import Event, from_syslog
from decnet_core.fleet import Shard
from decnet_core.identity import MASTER, WORKER_ROLES, Identity
from decnet_core.pki import certificates
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import IdentityFiles, client_context
from decnet_core.syslog.rfc5424 import decode
from tests.lab.processes import Daemon, free_port
from tests.lab.uncontain import uncontain
from tests.pki.world import Ca, now

HOST = "w1"
PROGRAM = Path(sys.executable).parent / "decnet-agent"


def lay_down(folder: Path, ca: Ca, identity: Identity) -> IdentityFiles:
    """Store an identity as `join` and `init` do, and return its files."""
    store = KeyStore(folder)
    key = store.create_key(identity.role)
    certificate = ca.issue(identity, key)
    return store.store(identity.role, certificates.certificate_pem(certificate), ca.pem, now()).files


@dataclass
class Answer:
    status: int
    media_type: str
    document: Any


class Worker:
    """`with Worker(tmp_path, docker_host=…) as worker: worker.call("GET", "/health")`."""

    def __init__(
        self,
        folder: Path,
        *,
        docker_host: str,
        lan: Mapping[str, object] | None = None,
        program: Path = PROGRAM,
        tap: bool = False,
    ) -> None:
        self.folder = folder
        self.ca = Ca.make()
        for role in WORKER_ROLES:
            lay_down(folder / "data/identities", self.ca, Identity(role, HOST))
        self.master = lay_down(folder / "master", self.ca, MASTER)
        self.port = free_port()
        self.settings = {
            "data-directory": folder / "data",
            "log-directory": folder / "log",
            "run-directory": folder / "run",
            "agent-address": f"127.0.0.1:{self.port}",
            "docker-host": docker_host,
            **(lan or {}),
        }
        ini = folder / "decnet.ini"
        ini.write_text("[agent]\n" + "".join(f"{key} = {value}\n" for key, value in self.settings.items()))
        self.environment = {"DECNET_CONFIG": str(ini)}
        self._program = program
        self.daemon = self._agent(tap=tap)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()
        uncontain(str(self.settings.get("interface", "")))

    def start(self) -> None:
        self.daemon.start()
        self.daemon.wait_for_port(self.port)

    def start_again(self, *, tap: bool) -> None:
        """Stop the agent and start one that watches its deckies, or one that does not."""
        self.daemon.stop()
        self.daemon = self._agent(tap=tap)
        self.start()

    def _agent(self, *, tap: bool) -> Daemon:
        argv = [str(self._program), "serve", "--no-forwarder", *([] if tap else ["--no-tap"])]
        return Daemon(argv, log_path=self.folder / "agent.out", env=self.environment)

    def call(
        self, method: str, path: str, body: object = None, *, files: IdentityFiles | None = None, timeout: float = 240
    ) -> Answer:
        context = client_context(files or self.master, (files or self.master).ca)
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        with context.wrap_socket(raw, server_hostname=HOST) as secured:
            connection = http.client.HTTPConnection("agent")
            connection.sock = secured
            content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, body=content, headers={"content-type": "application/json"})
            response = connection.getresponse()
            data = response.read()
            return Answer(response.status, response.headers.get("content-type", ""), json.loads(data) if data else None)

    def deploy(self, shard: Shard, path: str = "/deploy") -> dict[str, Any]:
        answer = self.call("POST", path, shard.model_dump(mode="json"))
        assert answer.status == 200, answer.document
        return answer.document

    @property
    def event_log(self) -> Path:
        return self.folder / "log/events.log"

    def events(self) -> list[Event]:
        return read_events(self.event_log) if self.event_log.exists() else []


def read_events(path: Path) -> list[Event]:
    """Read the whole lines of an event log."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [
        from_syslog(decode(line), fallback_source="?", fallback_cursor=str(number), received_at=now())
        for number, line in enumerate(lines)
    ]
