"""Names of what outlives a tap, and how many there may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from decnet_agent.tap import holdings as holdings_module
from decnet_agent.tap.holdings import MAX_DESCRIPTORS, Holdings
from decnet_core.descriptors import INHERITED, DescriptorStore
from decnet_core.notify import Notices

UNIT = Path(__file__).parents[2] / "systemd" / "decnet-tap.service"


def test_the_unit_holds_as_many_as_our_supervisor():
    assert f"FileDescriptorStoreMax={MAX_DESCRIPTORS}" in UNIT.read_text().splitlines()


def test_their_names_fit_into_one_environment_variable():
    probes = ["p.012345.4026532000.3.012345"] * 4000
    files = ["name.1048575.18446744073709551615"] * 128
    files += ["file.1.4194304.012345"] * (MAX_DESCRIPTORS - len(probes) - len(files))
    assert len("LISTEN_FDNAMES=" + ":".join(probes + files)) < 128 * 1024  # MAX_ARG_STRLEN, linux/binfmts.h


async def test_a_supervisor_that_was_deaf_is_told_in_order_what_it_missed(monkeypatch, tmp_path):
    monkeypatch.setattr(holdings_module, "RETRY_SECS", 0.0)
    store = DescriptorStore(10)
    with Notices() as notices:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
        holdings = Holdings(kept=True)
        left, right = os.pipe()
        holdings.keep("short", left)
        holdings.keep("long", left)
        holdings.let_go("short")
        holdings.let_go("of-an-earlier-tap")
        holdings.settle()
        store.keep("of-an-earlier-tap", [right])
        monkeypatch.setenv("NOTIFY_SOCKET", notices.address)
        holdings.settle()
        holdings.keep("new", left)
        notices.hear(os.getpid(), lambda: None, store)
    kept = store.environment()[INHERITED].split(":")
    assert [item.partition("=")[2] for item in kept] == ["long", "new"]
    store.close()
    os.close(left)


def test_nobody_is_told_where_there_is_no_supervisor(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    holdings = Holdings(kept=True)
    with capture_logs() as logged:
        holdings.keep("name", 0)
        holdings.let_go("name")
        holdings.settle()
    assert logged == []


def test_what_is_not_taken_is_refused_and_closed():
    left, right = os.pipe()
    again = os.dup(right)
    holdings = Holdings([("ring", left), ("other", right), ("other", again)])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(again)  # a name stands for one
    assert holdings.take("ring") == left
    with pytest.raises(KeyError):
        holdings.take("ring")
    assert holdings.refuse() == ["other"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(right)
    assert holdings.names() == []
    os.close(left)
