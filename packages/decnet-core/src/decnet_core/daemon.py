"""The life of a daemon: named tasks, signals, readiness, one way to end.

`run` starts every task at once. SIGINT and SIGTERM cancel them all; a task that ends by itself ends the daemon too (a
daemon's tasks live for ever), and a task's DecnetError comes out as it was raised. READY is told once every task that
takes part called `Ready.one_more`; the watchdog is fed from the loop, so a stuck loop is restarted.

The tasks are not held by an asyncio.TaskGroup, because a cancellation can get lost inside one of them: up to CPython
3.12 a TaskGroup whose child fails in the same turn in which it is cancelled raises the child's error alone, and a task
that goes on after such an error would live on (cpython#116720). What has not ended is therefore cancelled again.

A supervised daemon dies with its supervisor: `die_with_parent` asks the kernel for it, because a `kill -9` of the
supervisor gives it no chance to tell its children.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from decnet_core.errors import DecnetError
from decnet_core.notify import notify, watchdog_interval_secs

SUPERVISOR_PID = "DECNET_SUPERVISOR_PID"
"""Set by a supervisor for its children: the pid that they must not outlive."""

CANCEL_AGAIN_SECS = 12.0
"""Longer than any clean-up may take (a supervised child has ten seconds to end), and short of a unit's grace."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Ready:
    """Counts the parts that must be up before the daemon says that it is ready."""

    def __init__(self, parts: int) -> None:
        self._missing = parts
        self._all = asyncio.Event()
        if parts == 0:
            self._all.set()

    def one_more(self) -> None:
        """Say that one part is up."""
        self._missing -= 1
        if self._missing <= 0:
            self._all.set()

    async def wait(self) -> None:
        """Wait until every part is up."""
        await self._all.wait()


async def run(tasks: Mapping[str, Callable[[], Awaitable[None]]], ready: Ready | None = None) -> None:
    """Run the tasks until a signal comes or one of them ends.

    Args:
        tasks: name to coroutine function.
        ready: when given, READY=1 is told after all its parts are up, else at once.

    Raises:
        DecnetError: what the first failing task raised.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    parts = {**tasks, "notify": lambda: _tell_manager(ready)}
    running = [loop.create_task(_until_done(part, stop), name=name) for name, part in parts.items()]
    try:
        await stop.wait()
    finally:
        notify("STOPPING=1")
        await _end(running)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if errors := [error for task in running if not task.cancelled() and (error := task.exception()) is not None]:
        raise _first_cause(errors)


def die_with_parent() -> None:
    """Ask the kernel to end this process (SIGTERM) when its supervisor is gone; nothing where none is set."""
    supervisor = os.environ.get(SUPERVISOR_PID, "")
    if not supervisor.isdigit():
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(supervisor):  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)


async def _until_done(task: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    try:
        await task()
    finally:
        stop.set()


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks until none of them is left."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:  # in the order in which they were started
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_SECS)


async def _tell_manager(ready: Ready | None) -> None:
    if ready is not None:
        await ready.wait()
    notify("READY=1")
    interval = watchdog_interval_secs()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
    await asyncio.Event().wait()


def _first_cause(errors: Sequence[BaseException]) -> BaseException:
    """Pick what to tell the operator: a DecnetError before anything else, also out of a group."""
    found: list[BaseException] = []

    def collect(error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                collect(inner)
        else:
            found.append(error)

    for error in errors:
        collect(error)
    return next((error for error in found if isinstance(error, DecnetError)), found[0])
