"""The life of a daemon: named tasks, signals, readiness, one way to end.

`run` starts every task in one TaskGroup. SIGINT and SIGTERM cancel them all; a task that ends by itself ends the daemon
too (a daemon's tasks live for ever), and a task's DecnetError comes out as it was raised. READY is told once every
task that takes part called `Ready.one_more`; the watchdog is fed from the loop, so a stuck loop is restarted.

A supervised daemon dies with its supervisor: `die_with_parent` asks the kernel for it, because a `kill -9` of the
supervisor gives it no chance to tell its children.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Awaitable, Callable, Mapping

from decnet_core.errors import DecnetError
from decnet_core.notify import notify, watchdog_interval_secs

SUPERVISOR_PID = "DECNET_SUPERVISOR_PID"
"""Set by a supervisor for its children: the pid that they must not outlive."""

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
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(_until_done(task, stop), name=name) for name, task in tasks.items()]
            running.append(group.create_task(_tell_manager(ready), name="notify"))
            await stop.wait()
            notify("STOPPING=1")
            for task in running:
                task.cancel()
    except BaseExceptionGroup as group_error:
        raise _first_cause(group_error) from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


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


async def _tell_manager(ready: Ready | None) -> None:
    if ready is not None:
        await ready.wait()
    notify("READY=1")
    interval = watchdog_interval_secs()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Pick what to tell the operator out of a group: a DecnetError before anything else."""
    found: list[BaseException] = []

    def collect(error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                collect(inner)
        else:
            found.append(error)

    collect(group)
    with contextlib.suppress(StopIteration):
        return next(error for error in found if isinstance(error, DecnetError))
    return found[0]
