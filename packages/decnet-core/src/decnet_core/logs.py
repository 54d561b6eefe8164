"""Our own log: structured lines about what the programs do, never about what attackers did (those are events).

JSON on standard error when it is not a terminal (systemd's journal takes it from there), readable text on a terminal,
or JSON appended to `<log-directory>/decnet.<role>.log`. What libraries write through the standard library's logging
goes the same way as `library.logged`, warnings and worse only.

A log that cannot be written, because the disk is full or the reader of a pipe went away, loses lines and never stops
the program: evidence is not kept here, and a daemon that dies of its own log keeps none.

An event name is a constant `noun.past_verb`; each package declares its own in `log_events.py`. Secrets, keys and raw
bytes of attackers are never values: `shown` makes foreign text safe to print.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, TextIO, cast

from decnet_core.errors import ConfigError


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python's way to say that there is none
    try:
        yield
    finally:
        del sys.modules[name]


# For tracebacks in colour structlog loads rich wherever it is installed, as on a master, whose CLI brings it: a tenth
# of a second and some megabytes of every daemon, for what none of them prints.
with _without("rich"):
    import structlog

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(role: str, *, level: str, file: Path | None = None) -> None:
    """Set up logging for this process; called once, by the composition root of a program.

    Args:
        role: what this process is (`agent`, `listener`, …), a field of every line.
        level: `debug`, `info`, `warning` or `error`.
        file: appended to instead of standard error.

    Raises:
        ConfigError: the file cannot be opened.
    """
    out: TextIO = sys.stderr
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            out = file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as cause:
            raise ConfigError(
                f"Cannot write the log {file}: {cause.strerror}", "Correct log-directory, or set log-output = stderr."
            ) from cause
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if out.isatty()
        else structlog.processors.JSONRenderer(serializer=_dumps, ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _Role(role),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Forgiving(out))),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)


def shown(data: bytes | str, limit: int = 80) -> str:
    """Make foreign bytes safe to log: printable ASCII only, bounded."""
    text = data.decode("latin-1") if isinstance(data, bytes) else data
    return ascii(text[:limit])[1:-1] + ("…" if len(text) > limit else "")


class _Role:
    """Names the process in every line, whichever thread or task writes it."""

    def __init__(self, role: str) -> None:
        self._role = role

    def __call__(self, _logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line.setdefault("role", self._role)
        return line


class _Forgiving:
    """A text stream whose failures to write are nobody's business.

    A pipe whose reader went away stays so; it is replaced by /dev/null, or what is still buffered would fail once more
    when the interpreter ends, and turn a good exit code into 120.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> None:
        self._try(lambda: self._out.write(text))

    def flush(self) -> None:
        self._try(self._out.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BrokenPipeError:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, self._out.fileno())
                os.close(nowhere)
        except (OSError, ValueError):  # a full disk; a stream that somebody closed
            pass


def _dumps(value: Any, **options: Any) -> str:
    return json.dumps(value, **options)


class _ToStructlog(logging.Handler):
    """Hands a library's record on as one structured line."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        log = structlog.get_logger()
        getattr(log, level)(
            "library.logged",
            library=record.name,
            message=shown(record.getMessage(), 500),
            exc_info=record.exc_info if record.exc_info and record.exc_info[0] else None,
        )
