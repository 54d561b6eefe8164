"""The agent's list of deckies: read when it changes, refused when it is something else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.tap.deckies import DeckyList, RunningDecky, parse
from decnet_core.errors import RemoteProtocolError

ROW = {"name": "web-01", "container_id": "c0ffee", "pid1": 4242}


def _replace(path: Path, rows: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(rows))
    fresh.replace(path)


def test_a_list_is_read_once_for_each_change(tmp_path: Path) -> None:
    path = tmp_path / "deckies.json"
    deckies = DeckyList(path)
    assert deckies.changed() is None
    _replace(path, [{**ROW, "image": "ssh", "services": ["ssh"], "rootfs": "/x"}])
    assert deckies.changed() == [RunningDecky("web-01", "c0ffee", 4242)]
    assert deckies.changed() is None
    _replace(path, [])
    assert deckies.changed() == []


def test_a_broken_list_is_refused_once_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deckies.json"
    path.write_text('[{"name": ')
    deckies = DeckyList(path)
    with pytest.raises(RemoteProtocolError):
        deckies.changed()
    assert deckies.changed() is None
    _replace(path, [ROW])
    assert deckies.changed() == [RunningDecky("web-01", "c0ffee", 4242)]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Web"},
        {"name": None},
        {"container_id": "../x"},
        {"container_id": ""},
        {"pid1": 1},
        {"pid1": True},
        {"pid1": "7"},
        {"pid1": os.getpid()},
    ],
)
def test_a_row_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(json.dumps([{**ROW, **change}]).encode())


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_list_or_a_named_error(data: bytes) -> None:
    try:
        parse(data)
    except RemoteProtocolError:
        return
