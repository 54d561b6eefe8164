"""Attackers' clients with a terminal of their own, as a person has one: what they get is what a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.lan import SSH_OPTIONS
from tests.tap.lab_site import Site

WAIT_SECS = 60.0


class Terminal:
    """An ssh client at a terminal of a given size, logged in as bob or root; use it in a `with` block.

    `source` is the address that it comes from, if not the attacker's first.
    """

    def __init__(
        self, site: Site, folder: Path, *, columns: int, rows: int, user: str = "bob", source: str | None = None
    ) -> None:
        ask = folder / "ask"
        ask.write_text(f"#!/bin/sh\necho {'s3cret' if user == 'bob' else 'toor'}\n")
        ask.chmod(0o700)
        bound = [] if source is None else [f"-oBindAddress={source}"]
        argv = site.lan.attacker.argv(["ssh", *SSH_OPTIONS, *bound, f"{user}@{site.address}"])
        environment = {
            **os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "TERM": "xterm-256color"
        }  # fmt: skip
        self.got = bytearray()
        ready, go = os.pipe()
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.read(ready, 1)  # until the terminal has its size
            os.execvpe(argv[0], argv, environment)  # noqa: S606 -- that is what a terminal does
        os.close(ready)
        self._size(columns, rows)
        os.write(go, b"x")
        os.close(go)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)  # hangs up, if it is not over
        os.waitpid(self._pid, 0)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._fd, keys)

    def resize(self, columns: int, rows: int) -> None:
        """Pull at the window's corner."""
        self._size(columns, rows)

    def see(self, text: bytes) -> None:
        """Wait until something was shown, after what was waited for before."""
        until = time.monotonic() + WAIT_SECS
        at = len(self.got)
        while text not in self.got[max(0, at - len(text)) :]:
            assert self._read(until), f"{text!r} was not shown: {bytes(self.got[-500:])!r}"

    def end(self) -> None:
        """Wait until the client has ended."""
        until = time.monotonic() + WAIT_SECS
        while self._read(until):
            pass

    def _read(self, until: float) -> bool:
        readable, _, _ = select.select([self._fd], [], [], max(0, until - time.monotonic()))
        if not readable:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the client is gone
            return False
        self.got += data
        return bool(data)

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
