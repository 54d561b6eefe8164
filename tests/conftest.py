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
import re
import sys
import traceback
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

import pytest
import structlog
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what needs real pieces, then with what takes long: who came to that last would work on it alone."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    real = {item.path for item in items if item.get_closest_marker("docker") or item.get_closest_marker("root")}
    items.sort(key=lambda item: (item.path not in real, item.path not in long))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Share the tests out by what belongs together, where several processes share the work."""
    return _Together(config, log)


class _Together(LoadScopeScheduling):
    """A file stays on one process, with what its tests share; and so do all files that need real pieces.

    One engine is then started, and nobody else changes the machine's networks while a test looks at them. Which files
    those are is read from their text: who shares the tests out has imported none.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _group(self.config.rootpath / nodeid.partition("::")[0])


@cache
def _group(path: Path) -> str:
    return "real pieces" if re.search(r"\bmark\.(docker|root)\b", path.read_text()) else str(path)


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


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Undo the set-up of logs by a command that ran in this process: its level would hide the next test's lines.

    A logger keeps the set-up of its first line (`cache_logger_on_first_use`), so each is told to forget it.
    """
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        for name, module in list(sys.modules.items()):
            if name.startswith("decnet_") and "log" in vars(module):
                vars(module.log).pop("bind", None)


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
