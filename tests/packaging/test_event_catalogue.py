"""The event catalogue, its documentation and the sensors that emit say the same."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from decnet_core.events import CATALOGUE, RESERVED_PARAMS, EventType
from tests.packaging.sources import modules
from tests.packaging.wheels import ROOT

EMITTERS = ("decnet_agent", "decnet_master.store.silence", "decnet_master.store.heartbeats")
"""What makes events: the sensors, and the master of workers that went away; everybody else hands them on."""


def test_every_event_type_has_an_entry():
    assert set(CATALOGUE) == set(EventType)


def test_no_field_takes_a_name_that_belongs_to_the_event():
    for event_type, spec in CATALOGUE.items():
        names = [*spec.required, *spec.optional]
        assert len(names) == len(set(names)), event_type
        assert RESERVED_PARAMS.isdisjoint(names), event_type


@pytest.mark.parametrize("script", ["event-catalogue", "log-catalogue"])
def test_a_document_is_what_its_catalogue_says(script):
    command = [sys.executable, ROOT / "scripts" / script, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_event_type_is_documented():
    text = (ROOT / "docs" / "events.md").read_text()
    assert [event_type for event_type in EventType if f"| `{event_type}` |" not in text] == []


@pytest.mark.parametrize("event_type", EventType, ids=str)
def test_some_program_emits_it(event_type):
    assert event_type.name in _named_in(EMITTERS)


def test_what_is_emitted_is_in_the_catalogue():
    for module, nodes in modules().items():
        for node in nodes:
            if isinstance(node, ast.keyword) and node.arg == "event_type" and isinstance(node.value, ast.Constant):
                assert node.value.value is None or node.value.value in set(EventType), module


def _named_in(rooms):
    """Return every X of `EventType.X` in packages or modules."""
    return {
        node.attr
        for module, nodes in modules().items()
        if f"{module}.".startswith(tuple(f"{room}." for room in rooms))
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "EventType"
    }
