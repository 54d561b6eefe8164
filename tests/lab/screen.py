"""The operator's screen: logs in at the API, follows the live stream, remembers what came and when.

A thread of its own reads the stream (Server-Sent Events) and reconnects with `Last-Event-ID` when it ends, as a
browser would: so what it saw is what an operator would have seen, across restarts of the API too.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from decnet_core.errors import Unavailable
from tests.lab.attack import Expectation, Row

_RECONNECT_SECS = 0.1
_CALL_SECS = 10.0
_POLL_SECS = 0.02


@dataclass(frozen=True)
class Seen:
    """A row and the moment it reached the screen (seconds of time.time)."""

    arrived_at: float
    row: Row


class Screen:
    """Watch a master: `with Screen(url, password) as screen: screen.wait_for(expected)`.

    Args:
        url: the API's base.
        password: of the user `admin`.
        on_event: called in the reading thread for each row that arrives.
    """

    def __init__(self, url: str, password: str, on_event: Callable[[Seen], None] = lambda _seen: None) -> None:
        self._client = httpx.Client(base_url=url, timeout=_CALL_SECS)
        self._password = password
        self._on_event = on_event
        self._seen: list[Seen] = []
        self._last_id = ""
        self._closing = threading.Event()
        self._connected = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._follow, name="screen", daemon=True)

    def __enter__(self) -> Self:
        self._log_in()
        self._thread.start()
        if not self._connected.wait(_CALL_SECS):
            self.close()
            raise Unavailable("The live stream does not open")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has ended already
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which a close would not
        self._thread.join(_CALL_SECS)
        self._client.close()

    def get(self, path: str) -> Any:
        """GET a path of the API and return its JSON."""
        answer = self._client.get(path)
        answer.raise_for_status()
        return answer.json()

    def seen(self) -> list[Seen]:
        """Return all that has arrived so far, in order."""
        return list(self._seen)

    def stored(self) -> list[Row]:
        """Return every event that the master has stored, oldest first, by paging through the API."""
        rows: list[Row] = []
        while True:
            page = self.get(f"/api/v1/events?after={rows[-1]['seq'] if rows else 0}&limit=500")["events"]
            if not page:
                return rows
            rows += page

    def wait_for(self, expected: Iterable[Expectation], *, timeout_secs: float) -> list[Expectation]:
        """Wait until every expected event has arrived; return those that have not in time."""
        missing = list(expected)
        deadline = time.monotonic() + timeout_secs
        while missing and time.monotonic() < deadline:
            seen = self.seen()
            missing = [one for one in missing if find(one, seen) is None]
            time.sleep(_POLL_SECS)
        return missing

    def _log_in(self) -> None:
        answer = self._client.post("/api/v1/auth/login", json={"username": "admin", "password": self._password})
        answer.raise_for_status()
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _follow(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(httpx.HTTPError, RuntimeError):  # RuntimeError: the client was closed
                for identifier, data in self._stream():
                    self._last_id = identifier
                    seen = Seen(time.time(), json.loads(data))
                    self._seen.append(seen)
                    self._on_event(seen)
            self._closing.wait(_RECONNECT_SECS)

    def _stream(self) -> Iterator[tuple[str, str]]:
        """Yield (id, data) of each message of one connection."""
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        timeout = httpx.Timeout(_CALL_SECS, read=60.0)  # the stream sends a comment well within that
        with self._client.stream("GET", "/api/v1/stream", headers=headers, timeout=timeout) as answer:
            answer.raise_for_status()
            self._socket = answer.extensions["network_stream"].get_extra_info("socket")
            self._connected.set()
            identifier, data = "", []
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    identifier = value
                elif name == "data":
                    data.append(value)
                elif not line and data:
                    yield identifier, "\n".join(data)
                    identifier, data = "", []


def find(expected: Expectation, seen: Iterable[Seen]) -> Seen | None:
    """Return the first arrival that an expectation means."""
    for one in seen:
        if one.row["event_type"] == expected.event_type and expected.matches(one.row):
            return one
    return None
