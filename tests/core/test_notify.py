from __future__ import annotations

import os
import secrets
import socket

import pytest

from decnet_core import notify as notify_module
from decnet_core.descriptors import DescriptorStore
from decnet_core.notify import Notices, notify, watchdog_interval_secs


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A real datagram socket, as systemd's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def test_the_manager_hears_it(manager):
    assert notify("READY=1")
    assert notify("STATUS=wörking\nWATCHDOG=1")
    assert [manager.recv(100), manager.recv(100)] == [b"READY=1", "STATUS=wörking\nWATCHDOG=1".encode()]


def test_the_abstract_namespace(monkeypatch):
    name = f"decnet-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify("READY=1")
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    "address", [None, "", "relative/path", "/nowhere/notify", "@nobody-listens-here", "/" + "x" * 300]
)
def test_nobody_listens(monkeypatch, address):
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify("READY=1") is False


def test_a_manager_that_went_away(manager):
    manager.close()
    assert notify("READY=1") is False


@pytest.mark.parametrize(
    ("usec", "interval_secs"),
    [
        ("20000000", 10.0),
        ("1", 0.0000005),
        ("0", None),
        ("", None),
        ("-5", None),
        ("x", None),
        ("²", None),
        ("1.5", None),
    ],
)
def test_half_of_the_watchdogs_time(monkeypatch, usec, interval_secs):
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    assert watchdog_interval_secs() == interval_secs


def test_the_watchdog_of_another_process_is_not_ours(monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_interval_secs() == 10.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert watchdog_interval_secs() is None


async def test_who_sends_without_end_holds_up_nobody_else(monkeypatch):
    monkeypatch.setattr(notify_module, "MAX_HEARD", 2)
    heard = []
    with Notices() as notices:
        monkeypatch.setenv("NOTIFY_SOCKET", notices.address)
        for _ in range(3):
            assert notify("READY=1")
        notices.hear(os.getpid(), lambda: heard.append("ready"), DescriptorStore(0))
        assert len(heard) == 2
        notices.hear(os.getpid(), lambda: heard.append("ready"), DescriptorStore(0))
        assert len(heard) == 3
