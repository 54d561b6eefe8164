"""Who may speak to the controller: whoever shows its secret, on this machine, under its own name."""

from __future__ import annotations

import httpx
import pytest
from structlog.testing import capture_logs

from decnet_core.errors import ConfigError, Conflict, TrustError
from decnet_master import secret_files
from decnet_master.settings import MasterSettings
from decnet_master.swarmctl import app as swarmctl
from decnet_master.swarmctl.operator_door import TOLD
from tests.swarm.master import Template, plain_client, port_of, running


@pytest.fixture
async def stranger(swarm: swarmctl.App):
    async with plain_client(port_of(swarm.controller_socket)) as client:
        yield client


async def test_without_the_secret_nothing_is_told(stranger: httpx.AsyncClient) -> None:
    for authorization in (None, "", "Bearer", "Bearer wrong", "Basic eDp5", "Bearer \xe9"):
        for path in ("/health", "/hosts", "/fleet/deckies", "/nowhere", "/docs", "/openapi.json"):
            headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
            answer = await stranger.get(path, headers=headers)
            assert answer.status_code == 401, (path, authorization)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["type"] == "urn:decnet:problem:unauthenticated"


async def test_who_has_no_secret_is_told_of_but_fills_no_log(
    stranger: httpx.AsyncClient, controller: httpx.AsyncClient
) -> None:
    with capture_logs() as logs:
        for _ in range(3 * TOLD):
            assert (await stranger.get("/hosts%1b", headers={"authorization": "Bearer a-guess"})).status_code == 401
        assert (await controller.get("/health")).status_code == 200
    told = [line for line in logs if line["event"] == "controller.refused"]
    assert TOLD <= len(told) < 3 * TOLD, "as many as that at once, and then one every few seconds"
    assert {(line["log_level"], line["method"], line["path"]) for line in told} == {("warning", "GET", "/hosts\\x1b")}
    assert "a-guess" not in str(logs)


async def test_a_foreign_name_is_refused_even_with_the_secret(controller: httpx.AsyncClient) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8770", "[::1].example"):
        answer = await controller.get("/health", headers={"host": host})
        assert answer.status_code == 403, host
        assert "name" in answer.json()["detail"]


async def test_the_loopbacks_names_are_its_own(controller: httpx.AsyncClient) -> None:
    for host in ("localhost", "127.0.0.1:8770", "LOCALHOST:1", "[::1]:8770"):
        assert (await controller.get("/health", headers={"host": host})).status_code == 200, host


async def test_answers_carry_the_guards_headers(controller: httpx.AsyncClient) -> None:
    answer = await controller.get("/health")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    forged = await controller.get("/health", headers={"x-request-id": "mine"})
    assert forged.headers["x-request-id"] not in ("mine", answer.headers["x-request-id"])


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:8770", "example.com:8770"])
def test_it_listens_on_the_loopback_only(settings: MasterSettings, address: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        swarmctl.build(settings.model_copy(update={"controller_address": address}))


async def test_a_port_in_use_is_told_at_once(settings: MasterSettings, swarm: swarmctl.App) -> None:
    taken = f"127.0.0.1:{port_of(swarm.controller_socket)}"
    with pytest.raises(Conflict, match="Another process listens"):
        swarmctl.build(settings.model_copy(update={"controller_address": taken}))


async def test_a_secret_that_others_may_read_is_not_used(settings: MasterSettings) -> None:
    settings.controller_secret_file.chmod(0o644)
    with pytest.raises(TrustError, match="read by others"):
        async with running(swarmctl.build(settings)):
            pass


async def test_without_init_it_says_so(settings: MasterSettings) -> None:
    settings.controller_secret_file.unlink()
    with pytest.raises(ConfigError) as told:
        async with running(swarmctl.build(settings)):
            pass
    assert "decnet-master init" in told.value.advice


def test_the_secret_is_long_and_its_own(template: Template, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("secret") / "controller.secret"
    assert secret_files.create(path)
    first = secret_files.read(path)
    assert not secret_files.create(path)
    assert secret_files.read(path) == first
    assert len(first) >= 43
    assert path.stat().st_mode & 0o777 == 0o600
    assert first != secret_files.read(template.folder / "data" / "controller.secret")
