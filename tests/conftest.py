"""Fixtures that every folder of tests shares: a master's installation, the lab's pieces; one of each for the session.

A piece that the machine lacks skips the tests that need it, with a line that says what is missing and how to get it.
Where CI=true, any skip is a failure: there the machine is ours, and a test that never runs proves nothing.

Hypothesis draws by profile. `fast`, the default, draws few examples; `thorough`, the default where CI=true, draws many.
Both always draw the same, so that a run fails only for what somebody changed. `fresh` draws many new ones each time:
what it finds becomes an example of its test. Another profile is chosen by DECNET_EXAMPLES. None has a deadline: a busy
machine is no fault of the code.

A test that hangs says where: after `timeout` seconds (pyproject.toml) it fails with the stacks of all threads, and the
tasks that its event loops still had are added to its report. Where not even that helps, because the interpreter is
stuck below Python, `faulthandler_timeout` ends the process a little later, again with all stacks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import traceback
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

from tests.lab.engine import LabEngine
from tests.lab.image import ensure_images
from tests.lab.lan import Lan
from tests.lab.postgres import PostgresCluster
from tests.lab.slots import MissingPart
from tests.swarm.master import Template

IN_CI = os.environ.get("CI") == "true"

_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", _PATIENT, max_examples=40, derandomize=True)
settings.register_profile("thorough", _PATIENT, max_examples=400, derandomize=True)
settings.register_profile("fresh", _PATIENT, max_examples=400, print_blob=True)
settings.load_profile(os.environ.get("DECNET_EXAMPLES", "thorough" if IN_CI else "fast"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say what a test that hung was waiting for; where CI=true, let a skip be a failure.

    An expected failure is reported as a skip too, and stays one.
    """
    report = yield
    if (
        call.excinfo is not None
        and call.excinfo.errisinstance(pytest.fail.Exception)
        and "Timeout" in str(call.excinfo.value)
    ):
        report.sections.append(("Tasks that were not done", _tasks_not_done() or "none"))
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"A skip is a failure where CI=true: {report.longreprtext}"
    return report


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests stay together and which come first, where several processes share the work (`--dist loadgroup`).

    A file stays on one process, with what its tests share. What needs an engine, a network or the kernel stays on one
    process too, wherever no other group is named: one engine is started, and its tests come one after the other. It
    comes first, then what takes long: a process that came to that last would work on it alone.
    """
    long = {item.path for item in items if item.get_closest_marker("long")}
    real = {item for item in items if item.get_closest_marker("docker") or item.get_closest_marker("root")}
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("engine" if item in real else item.location[0]))
    items.sort(key=lambda item: (item not in real, item.path not in long))


def pytest_collection_finish() -> None:
    """Let the collector of garbage forget what was imported: half a million objects that live to the end anyway."""
    gc.collect()
    gc.freeze()


def _tasks_not_done() -> str:
    """Return where each task of each event loop of this process waits, outermost call first."""
    told = []
    for loop in [each for each in gc.get_objects() if issubclass(type(each), asyncio.AbstractEventLoop)]:
        for task in asyncio.all_tasks(loop):
            told.append(f"{task.get_name()}:\n")
            told += traceback.format_list(traceback.StackSummary.extract(_suspended(task.get_coro())))
    return "".join(told)


def _suspended(waiting: object) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of a coroutine that waits, and of what it waits for in turn, as `traceback.walk_stack` does."""
    while frame := getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None):
        yield frame, frame.f_lineno
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


@contextmanager
def _or_skip() -> Iterator[None]:
    """Turn a missing part into a skip."""
    try:
        yield
    except MissingPart as missing:
        pytest.skip(f"missing: {missing.message}. {missing.advice}")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A master that was initialised, to be copied: its CA, its password's hash and its database are slow to make."""
    return Template.make(tmp_path_factory.mktemp("master"))


@pytest.fixture(scope="session")
def lab_engine() -> Iterator[LabEngine]:
    """A private Docker engine, empty but for its images."""
    with ExitStack() as stack:
        with _or_skip():
            engine = stack.enter_context(LabEngine())
        yield engine


@pytest.fixture(scope="session")
def decky_image(lab_engine: LabEngine) -> str:
    """The tag of the SSH decky's image, built and present in `lab_engine`."""
    with _or_skip():
        return ensure_images(lab_engine)


@pytest.fixture(scope="session")
def lan() -> Iterator[Lan]:
    """A network segment with an attacker on it."""
    with ExitStack() as stack:
        with _or_skip():
            segment = stack.enter_context(Lan())
        yield segment


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    """A private PostgreSQL cluster."""
    with ExitStack() as stack:
        with _or_skip():
            cluster = stack.enter_context(PostgresCluster())
        yield cluster


@pytest.fixture
def postgres_url(postgres: PostgresCluster) -> str:
    """The URL of a database that this test alone uses, and that is empty."""
    return postgres.create_database()
