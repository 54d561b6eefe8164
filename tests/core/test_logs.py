"""Our own log, written by a process of its own: what is configured here stays configured."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import ConfigError
from decnet_core.logs import configure, shown

PRELUDE = """
import asyncio, logging, sys, threading
from pathlib import Path
import structlog
from decnet_core import logs
log = structlog.get_logger()
"""


def lines(code, *arguments):
    """Run code in its own process and return what it logged on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_is_json_with_role_level_and_time():
    (line,) = lines("""
        logs.configure("agent", level="info")
        log.info("agent.started", port=8765, host="wörker")
    """)
    time = line.pop("timestamp")
    assert line == {"event": "agent.started", "level": "info", "role": "agent", "port": 8765, "host": "wörker"}
    assert time.endswith(("Z", "+00:00"))


def test_the_level_is_a_bound():
    found = lines("""
        logs.configure("agent", level="warning")
        log.debug("a.b"); log.info("a.b"); log.warning("c.d"); log.error("e.f")
    """)
    assert [line["event"] for line in found] == ["c.d", "e.f"]


def test_threads_and_tasks_carry_the_role():
    found = lines("""
        logs.configure("listener", level="info")
        thread = threading.Thread(target=lambda: log.info("a.b"))
        thread.start(); thread.join()
        async def main():
            await asyncio.to_thread(log.info, "a.b")
            await asyncio.create_task(asyncio.sleep(0))
            log.info("a.b")
        asyncio.run(main())
    """)
    assert [line["role"] for line in found] == ["listener"] * 3


def test_libraries_are_heard_when_something_is_wrong():
    found = lines(r"""
        logs.configure("agent", level="info")
        library = logging.getLogger("uvicorn.error")
        library.info("unheard")
        library.warning("sent %s", "\x1b[2J evil\n" + "x" * 1000)
        try:
            raise OSError("gone")
        except OSError:
            library.exception("broken")
    """)
    first, second = found
    assert (first["event"], first["library"], first["level"]) == ("library.logged", "uvicorn.error", "warning")
    assert first["message"].startswith("sent \\x1b[2J evil\\n")
    assert len(first["message"]) < 600
    assert second["level"] == "error"
    assert "OSError: gone" in second["exception"]


def test_a_file_takes_the_lines_one_after_the_other(tmp_path):
    file = tmp_path / "log" / "decnet.agent.log"
    code = """
        logs.configure("agent", level="info", file=Path(sys.argv[1]))
        log.info("agent.started", path="caf\\udce9")
    """
    assert lines(code, file) == lines(code, file) == []
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["event"] for line in written] == ["agent.started"] * 2


def test_a_file_that_cannot_be_opened_is_a_config_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Cannot write the log") as caught:
        configure("agent", level="info", file=tmp_path / "file" / "decnet.agent.log")
    assert "log-directory" in caught.value.advice


def test_a_full_disk_loses_lines_and_nothing_else():
    assert lines("""
        logs.configure("agent", level="info", file=Path("/dev/full"))
        for _ in range(10_000):
            log.info("agent.started")
        log.error("agent.started")
    """) == []  # fmt: skip


def test_a_stream_that_was_closed_stops_nobody():
    assert lines("""
        logs.configure("agent", level="info")
        sys.stderr.close()
        log.error("agent.started")
    """) == []  # fmt: skip


def test_a_reader_that_went_away_stops_nobody():
    code = PRELUDE + textwrap.dedent("""
        logs.configure("agent", level="info")
        for _ in range(10_000):
            log.info("agent.started")
        print("alive", flush=True)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stderr.close()
        assert process.stdout.read() == "alive\n"
        assert process.wait(timeout=30) == 0


@given(st.binary() | st.text(st.characters(exclude_categories=())), st.integers(0, 100))
def test_foreign_text_is_shown_in_printable_ascii(data, limit):
    text = shown(data, limit)
    assert text.removesuffix("…").isascii()
    assert text.isprintable()
    assert len(text) <= limit * len("\\U0001f600") + 1


def test_what_is_cut_says_so():
    assert shown(b"abc", 3) == "abc"
    assert shown(b"abcd", 3) == "abc…"
    assert shown("\x1b[2J\n") == "\\x1b[2J\\n"
