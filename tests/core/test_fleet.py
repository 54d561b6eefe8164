from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from pydantic import ValidationError

from decnet_core.fleet import (
    MAX_DECKIES_PER_SHARD,
    Account,
    AgentStatus,
    DeckyPhase,
    DeckySpec,
    DeckyState,
    Health,
    Shard,
    ShardReport,
)

DATA = Path(__file__).parent / "data"


def test_an_old_shard_still_loads():
    shard = Shard.model_validate_json((DATA / "shard-0.1.0.json").read_text())
    first, second = shard.deckies
    assert (shard.generation, first.ip, first.mac) == (7, IPv4Address("10.77.0.20"), "02:42:0a:4d:00:14")
    assert (first.services, first.accounts) == (("ssh",), (Account(user="root", password="toor"),))
    assert (second.name, second.ip, second.accounts) == ("files-1", None, ())


def test_an_old_status_still_loads():
    status = AgentStatus.model_validate_json((DATA / "agent-status-0.1.0.json").read_text())
    assert (status.host, status.generation, status.taps) == ("worker-1", 7, "kernel")
    assert [decky.phase for decky in status.deckies] == [DeckyPhase.RUNNING, DeckyPhase.FAILED]


def test_the_oldest_status_had_less_in_it():
    status = AgentStatus.model_validate_json(
        '{"host": "worker-1", "version": "0.1.0", "generation": 0, "at": "2026-11-23T17:00:00Z"}'
    )
    assert (status.taps, status.events_written, status.engine, status.deckies) == ("none", 0, None, ())


def test_an_old_report_still_loads():
    report = ShardReport.model_validate_json((DATA / "shard-report-0.1.0.json").read_text())
    assert (report.host, report.removed, report.ok) == ("worker-1", ("old-1",), False)


def test_an_old_health_still_loads():
    health = Health.model_validate_json((DATA / "health-0.1.0.json").read_text())
    assert (health.role, health.host, health.ok) == ("agent", "worker-1", True)


@pytest.mark.parametrize("name", [path.name for path in sorted(DATA.glob("*.json"))])
def test_what_is_loaded_is_written_as_it_was(name):
    from decnet_core.enrolment import Enrolment, JoinReply, JoinRequest

    models = {
        "agent-status": AgentStatus, "enrolment": Enrolment, "health": Health, "join-reply": JoinReply,
        "join-request": JoinRequest, "shard": Shard, "shard-report": ShardReport,
    }  # fmt: skip
    model = models[name.removesuffix("-0.1.0.json")]
    loaded = model.model_validate_json((DATA / name).read_text())
    assert model.model_validate_json(loaded.model_dump_json()) == loaded


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Web"},
        {"name": "a" * 64},
        {"services": ()},
        {"services": ("SSH",)},
        {"services": ("ssh",) * 33},
        {"mac": "02:42:0A:4D:00:14"},
        {"mac": "03:42:0a:4d:00:14"},  # multicast
        {"mac": "02:42:0a:4d:00"},
        {"ip": "fe80::1"},
        {"ip": "10.0.0.256"},
        {"accounts": ({"user": "root", "password": "a:b"},)},
        {"accounts": ({"user": "root", "password": ""},)},
        {"accounts": ({"user": "Root", "password": "x"},)},
        {"accounts": ({"user": "root", "password": "x\ny"},)},
        {"extra": 1},
    ],
)
def test_a_decky_that_does_not_fit_is_refused(wrong):
    right = {"name": "web-1", "services": ("ssh",)}
    assert DeckySpec.model_validate(right)
    with pytest.raises(ValidationError):
        DeckySpec.model_validate(right | wrong)


def test_a_shard_is_bounded():
    deckies = [DeckySpec(name=f"d{number}", services=("ssh",)) for number in range(MAX_DECKIES_PER_SHARD)]
    assert Shard(generation=1, deckies=tuple(deckies))
    with pytest.raises(ValidationError):
        Shard(generation=1, deckies=(*deckies, DeckySpec(name="one-more", services=("ssh",))))
    with pytest.raises(ValidationError):
        Shard(generation=0)


def test_models_do_not_change():
    with pytest.raises(ValidationError):
        Shard(generation=1).generation = 2


@pytest.mark.parametrize(("phase", "ok"), [("running", True), ("stopped", False), ("failed", False)])
def test_a_report_is_good_when_every_decky_runs(phase, ok):
    running = DeckyState(name="a", phase=DeckyPhase.RUNNING)
    assert ShardReport(host="w", generation=1, deckies=(running, DeckyState(name="b", phase=phase))).ok is ok
    assert ShardReport(host="w", generation=1).ok
