"""The three calls of the engine's API that pausing speaks, against something that answers as an engine may."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from decnet_agent.engine.pausing import Pauser
from decnet_core.errors import Unavailable


class Engine(socketserver.ThreadingUnixStreamServer):
    """Containers by their state; `codes` are what orders are answered with."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.containers = {"a" * 12: "running", "b" * 12: "running"}
        self.listing: bytes | None = None
        self.code = 204
        self.path = path
        super().__init__(str(path), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "-"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        filters = json.loads(parse_qs(asked.query)["filters"][0])
        assert asked.path == "/containers/json"
        assert filters["label"] == ["decnet.decky"]
        found = [{"Id": name} for name, state in self.server.containers.items() if [state] == filters["status"]]
        body = json.dumps(found).encode() if self.server.listing is None else self.server.listing
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        _, _, name, verb = self.path.split("/")
        if self.server.code == 204:
            self.server.containers[name] = {"pause": "paused", "unpause": "running"}[verb]
        self.send_response(self.server.code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "docker.sock") as engine:
        thread = threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield engine
        engine.shutdown()
        thread.join()


def test_all_that_run_are_paused_and_all_that_are_paused_go_on(engine):
    pauser = Pauser(f"unix://{engine.path}")
    assert pauser.pause_all() == 2
    assert set(engine.containers.values()) == {"paused"}
    assert pauser.pause_all() == 0
    assert pauser.resume_all() == 2
    assert set(engine.containers.values()) == {"running"}


def test_an_engine_that_refuses_is_told_of(engine):
    engine.code = 500
    with pytest.raises(Unavailable, match="2 deckies did not pause: 500"):
        Pauser(f"unix://{engine.path}").pause_all()


@pytest.mark.parametrize("listing", [b"{}", b"nonsense", b"[1]", b'[{"Name": "x"}]', b"null"])
def test_an_engine_that_says_something_else(engine, listing):
    engine.listing = listing
    with pytest.raises(Unavailable):
        Pauser(f"unix://{engine.path}").pause_all()


def test_no_engine(tmp_path):
    with pytest.raises(Unavailable, match="Cannot unpause deckies"):
        Pauser(f"unix://{tmp_path}/none").resume_all()
