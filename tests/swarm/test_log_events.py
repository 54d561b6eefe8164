"""Every line that the master logs is declared, and every declared one is logged."""

from __future__ import annotations

import re
from pathlib import Path

import decnet_master
from decnet_master import log_events
from decnet_master.ingester.log_events import LOG_EVENTS as INGESTER
from decnet_master.listener.log_events import LOG_EVENTS as LISTENER
from decnet_master.store.log_events import LOG_EVENTS as STORE

LOGGED = re.compile(r"""\blog\.(?:debug|info|warning|error|exception)\(\s*"([^"]+)\"""")


def test_code_and_table_agree() -> None:
    source = Path(decnet_master.__file__).parent
    logged = {name for path in source.rglob("*.py") for name in LOGGED.findall(path.read_text())}
    assert logged == log_events.LOG_EVENTS.keys()


def test_names_are_a_noun_and_what_happened() -> None:
    assert all(re.fullmatch(r"[a-z]+(?:_[a-z]+)*\.[a-z]+(?:_[a-z]+)*", name) for name in log_events.LOG_EVENTS)


def test_no_two_rooms_declare_the_same_name() -> None:
    tables = (STORE, INGESTER, LISTENER, log_events.CONTROL)
    assert sum(map(len, tables)) == len(log_events.LOG_EVENTS)
