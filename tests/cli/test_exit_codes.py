"""Each way to fail is a sentence, an advice and a code."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from decnet_master import __version__
from tests.cli.conftest import Cli, Done


def told(done: Done, code: int, *words: str) -> None:
    assert done.code == code, done
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


def test_the_version_is_told_at_once() -> None:
    argv = [sys.executable, "-X", "importtime", "-m", "decnet_master", "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == f"decnet-master {__version__}\n"
    for heavy in ("typer", "pydantic", "structlog", "sqlalchemy", "httpx", "fastapi", "asyncio"):
        assert f" {heavy}\n" not in done.stderr, f"--version imports {heavy}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("deploy", "--count", "-1"),
        ("deploy", "--no-such-option"),
        ("deploy", "--host", "Not_a_label"),
        ("swarm", "enroll", "Not_a_label"),
        ("serve", "--no-api", "--no-swarmctl", "--no-listener", "--no-ingester"),
    ],
)
def test_usage_errors_end_with_2(bare: Cli, arguments: tuple[str, ...]) -> None:
    told(bare(*arguments), 2, "Usage:")


@pytest.mark.slow
def test_a_configuration_that_cannot_be_used(bare: Cli) -> None:
    bare.config.write_text("[master]\napi-adress = 127.0.0.1:1\n")
    told(bare("status"), 78, "api-adress", "api-address")
    bare.config.write_text("no section\n")
    told(bare("status"), 78, "not an INI file")
    bare.config.write_bytes(b"[master]\n\xff\xfe\n")
    told(bare("status"), 78, "UTF-8")
    bare.config.write_text("[master]\nbatch-size = many\n")
    told(bare("status"), 78, "batch-size")
    bare.config.unlink()
    told(bare("status"), 78, "does not exist")
    bare.config.mkdir()
    told(bare("status"), 78, "Cannot read")
    bare.config.rmdir()
    bare.config.write_text("[master]\napi-address = nowhere\n")
    told(bare.process("api"), 78, "not an address")


def test_before_init_the_advice_is_init(bare: Cli) -> None:
    told(bare("swarm", "list"), 78, "decnet-master init")
    told(bare.process("api"), 78, "decnet-master init")


def test_a_controller_that_is_away(cli: Cli) -> None:
    told(cli("swarm", "list"), 69, "does not answer", "decnet-master serve")
    told(cli("deploy"), 69, "decnet-master serve")


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("api", "api"),
        pytest.param("swarmctl", "controller", marks=pytest.mark.slow),
        pytest.param("swarmctl", "enrolment", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_port_in_use(cli: Cli, part: str, name: str) -> None:
    with socket.create_server(("127.0.0.1", cli.ports[name])):
        told(cli.process(part), 5, "Another process listens", f"{name}-address")


@pytest.mark.slow
def test_a_secret_that_others_may_read(cli: Cli) -> None:
    (cli.folder / "data" / "api.secret").chmod(0o640)
    told(cli.process("api"), 77, "chmod 600")


def test_a_teardown_asks_first(cli: Cli) -> None:
    done = cli("teardown")
    assert done.code == 1
    assert "whole fleet" in done.out


@pytest.mark.slow
def test_serve_ends_with_the_code_of_a_part_that_cannot_run(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", cli.ports["api"])):
        started = time.monotonic()
        told(cli.process("serve", "--no-listener", "--no-ingester", "--no-swarmctl"), 5, "Another process listens")
        assert time.monotonic() - started < 50
