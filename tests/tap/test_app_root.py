"""The whole tap, with shells in namespaces of their own as deckies: whom it watches after changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from decnet_agent.tap.app import Tap
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.quarantine import Quarantine
from tests.tap.test_captures_root import Decky, decky

__all__ = ["decky"]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for BPF, fanotify and mounts"),
]


def listed(folder: Path, decky: Decky, container_id: str) -> None:
    """Say that this is what runs now."""
    rows = [{"name": "web-01", "container_id": container_id, "pid1": decky.pid1}]
    fresh = folder / "deckies.new"
    fresh.write_text(json.dumps(rows))
    fresh.replace(folder / "deckies.json")


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Tap]:
    tap = Tap(Holdings(), Quarantine(folder / "quarantine"), folder, folder / "tap")
    up = asyncio.Event()
    task = asyncio.create_task(tap.run(up.set))
    try:
        await asyncio.wait_for(up.wait(), 60)
        yield tap
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not reached():
            await asyncio.sleep(0.005)


def owners(tap: Tap) -> set[str]:
    """Whose filesystems are watched."""
    return {decky.container_id for decky in tap._captures._filesystems.devices.values()}


async def test_a_decky_that_got_the_number_of_one_that_is_gone_is_watched(tmp_path: Path, decky: Decky) -> None:
    """It was made while no tap ran; the kernel gives a namespace's number away again as soon as it is free."""
    listed(tmp_path, decky, "c0ffee")
    async with running(tmp_path) as first:
        await until(lambda: owners(first) == {"c0ffee"})
    listed(tmp_path, decky, "c0de")
    async with running(tmp_path) as second:
        await until(lambda: set(second._watched) == {"c0de"})
        await until(lambda: owners(second) == {"c0de"})
        assert second._observer.find(decky.watched.namespace, decky.pid1) is not None
        assert [watched.container_id for watched in second._observer._deckies.values()] == ["c0de"]


async def test_filesystems_that_are_not_there_yet_are_watched_when_they_are(tmp_path: Path) -> None:
    """The list may be quicker than the engine, which makes the decky's root its root as one of its last steps."""
    decky = Decky(tmp_path, at_once=False)
    try:
        listed(tmp_path, decky, "c0ffee")
        async with running(tmp_path) as tap:
            await until(lambda: tap._unmarked == {"c0ffee"})
            assert owners(tap) == set()
            decky.enter()
            await until(lambda: owners(tap) == {"c0ffee"})
            await until(lambda: not tap._unmarked)
    finally:
        decky.close()
