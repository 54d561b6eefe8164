"""Names of what outlives a tap, and how many there may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from decnet_agent.tap.holdings import MAX_DESCRIPTORS, Holdings

UNIT = Path(__file__).parents[2] / "systemd" / "decnet-tap.service"


def test_the_unit_holds_as_many_as_our_supervisor():
    assert f"FileDescriptorStoreMax={MAX_DESCRIPTORS}" in UNIT.read_text().splitlines()


def test_their_names_fit_into_one_environment_variable():
    probes = ["p.012345.4026532000.3.012345"] * 4000
    files = ["name.1048575.18446744073709551615"] * 128
    files += ["file.1.4194304.012345"] * (MAX_DESCRIPTORS - len(probes) - len(files))
    assert len("LISTEN_FDNAMES=" + ":".join(probes + files)) < 128 * 1024  # MAX_ARG_STRLEN, linux/binfmts.h


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
