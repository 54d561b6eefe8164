"""Keep child processes running: restart with back-off, one signal stops all, none outlives its supervisor.

A child that dies is started again after a delay that doubles from `FIRST_DELAY_SECS` to `LONGEST_DELAY_SECS` and
starts anew once it has run for `STEADY_SECS`. A child that ends with a code that restarting cannot mend (usage,
trust, configuration, a port in use), or whose program is missing, ends the whole: waiting would hide it. `optional`
children are given up instead, with a log line.

A supervisor is up when its children are: each child is given a notification socket of its own in place of the
manager's (`notify.Notices`), says READY=1 there, and is believed by its pid. An optional child that ends
before it was up is not waited for.

A child with `kept_descriptors` may leave open files with us (`descriptors`), which its next process inherits: what the
kernel holds there outlives the child, but never the supervisor.

It does not redirect output: children write to the supervisor's standard error, whose lines carry their role.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from decnet_core.daemon import SUPERVISOR_PID
from decnet_core.descriptors import INHERITED, DescriptorStore
from decnet_core.errors import DecnetError, ExitCode
from decnet_core.notify import Notices

FIRST_DELAY_SECS = 0.2
LONGEST_DELAY_SECS = 30.0
STEADY_SECS = 30.0
STOP_SECS = 10.0
"""How long a child has to end after SIGTERM before SIGKILL; systemd's own default is 90 s, so we stay inside it."""

CONFLICT_ATTEMPTS = 5
"""A port in use may still belong to the child of a supervisor that was killed and is just ending: about six seconds."""

_HOPELESS = frozenset({ExitCode.USAGE, ExitCode.TRUST, ExitCode.CONFIG})
_NO_SUCH_PROGRAM = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC, errno.ELOOP})
"""Why a program cannot be started however often it is tried; a lack of memory or processes passes."""

_OURS = frozenset({"WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"})
"""What a manager tells us in our environment, and not our children; and `INHERITED`."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Child:
    """A program to keep running.

    Attributes:
        kept_descriptors: the most open files that it may leave with us.
    """

    name: str
    argv: Sequence[str]
    optional: bool = False
    kept_descriptors: int = 0


class ChildFailed(DecnetError):
    """A child ended in a way that a restart cannot mend; carries the child's own exit code."""


async def keep_running(
    child: Child, environment: Mapping[str, str] | None = None, up: Callable[[], None] = lambda: None
) -> None:
    """Run one child for ever; cancel to stop it.

    Args:
        child: what to run.
        environment: added to ours.
        up: called once: when the child is ready for the first time, or, for an optional one, has ended before.

    Raises:
        ChildFailed: it cannot run as it is configured (never for an optional one, which is given up).
    """
    store = DescriptorStore(child.kept_descriptors)
    try:
        await _keep_running(child, environment, _Once(up), store)
    finally:
        store.close()


async def _keep_running(
    child: Child, environment: Mapping[str, str] | None, told: Callable[[], None], store: DescriptorStore
) -> None:
    delay_secs = FIRST_DELAY_SECS
    conflicts = 0
    while True:
        started = time.monotonic()
        code = await _run_once(child, environment, told, store)
        if child.optional:
            told()
        conflicts = conflicts + 1 if code == ExitCode.CONFLICT else 0
        if code in _HOPELESS or conflicts == CONFLICT_ATTEMPTS:
            if child.optional:
                log.warning("child.given_up", child=child.name, exit_code=code)
                store.close()
                return await asyncio.Event().wait()  # type: ignore[return-value]  # never comes back
            failure = ChildFailed(f"{child.name} ended with exit code {code}", "Its own message stands above.")
            failure.exit_code = ExitCode(code)
            raise failure
        if time.monotonic() - started >= STEADY_SECS:
            delay_secs = FIRST_DELAY_SECS
        log.warning("child.exited", child=child.name, exit_code=code, restart_in_secs=delay_secs)
        await asyncio.sleep(delay_secs)
        delay_secs = min(delay_secs * 2, LONGEST_DELAY_SECS)


class _Once:
    """Calls a function the first time only."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._called = False

    def __call__(self) -> None:
        if not self._called:
            self._called = True
            self._function()


async def _run_once(
    child: Child, environment: Mapping[str, str] | None, up: Callable[[], None], store: DescriptorStore
) -> int:
    with Notices() as notices:
        surroundings = {**os.environ, **(environment or {}), SUPERVISOR_PID: str(os.getpid())}
        surroundings["NOTIFY_SOCKET"] = notices.address  # the manager hears from the supervisor alone
        for name in [name for name in surroundings if name in _OURS or name.startswith(INHERITED)]:
            del surroundings[name]
        surroundings.update(store.environment())
        try:
            process = await asyncio.create_subprocess_exec(
                *child.argv, env=surroundings, stdin=asyncio.subprocess.DEVNULL, pass_fds=store.fds
            )
        except OSError as cause:
            log.warning("child.start_failed", child=child.name, program=child.argv[0], reason=cause.strerror)
            return ExitCode.CONFIG if cause.errno in _NO_SUCH_PROGRAM else ExitCode.UNAVAILABLE
        log.info("child.started", child=child.name, pid=process.pid)
        notices.listen(process.pid, up, store)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        notices.hear(process.pid, up, store)
        return code


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
