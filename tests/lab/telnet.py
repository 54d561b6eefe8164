"""A telnet client that types what it is told after the prompts that it is told, run in the attacker's namespace.

    python tests/lab/telnet.py ADDRESS   with {"secs": …, "leave": …, "script": [[prompt, line], …]} on standard input

It agrees to the server's echo and refuses every other option, as the plainest bots do, and prints what the server
wrote, options left out. It ends when the server does or the time is over. It imports nothing of ours: it stands for a
stranger. `log_in` runs it.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.lan import Attacker

PORT = 23
IAC, DONT, DO, WONT, WILL, SB, SE = 255, 254, 253, 252, 251, 250, 240
_ECHO, _SUPPRESS_GO_AHEAD = 1, 3

LOGIN, PASSWORD = "login: ", "Password: "
_SECS = 60.0


def log_in(
    attacker: Attacker,
    address: str,
    tries: Sequence[tuple[str, str]],
    lines: Sequence[tuple[str, str]] = (),
    *,
    leave: bool = False,
) -> subprocess.CompletedProcess[bytes]:
    """Try users and passwords one after the other in one connection, then type lines, each after its prompt.

    `leave` hangs up after the last line, instead of waiting for the server to do so.
    """
    script = [step for user, password in tries for step in ((LOGIN, user), (PASSWORD, password))]
    told = json.dumps({"secs": _SECS, "leave": leave, "script": [*script, *lines]}).encode()
    return attacker.run([sys.executable, str(Path(__file__)), address], input=told, timeout_secs=_SECS + 10)


class _Connection:
    def __init__(self, address: str, secs: float) -> None:
        self._socket = socket.create_connection((address, PORT), timeout=secs)
        self._raw = b""
        self.text = b""

    def send(self, line: str) -> None:
        self._socket.sendall(line.encode() + b"\r\0")

    def read_until(self, prompt: bytes) -> bool:
        """Read on until what was written since the last prompt ends with this one; False at the end."""
        seen = len(self.text)
        while not self.text[seen:].endswith(prompt):
            chunk = self._socket.recv(4096)
            if not chunk:
                return False
            self._raw += chunk
            self._take()
        return True

    def _take(self) -> None:
        while self._raw:
            if self._raw[0] != IAC:
                text, iac, _ = self._raw.partition(bytes([IAC]))
                self.text += text
                self._raw = self._raw[len(text) :]
                if not iac:
                    return
            elif len(self._raw) < 3:
                return
            elif self._raw[1] == SB:
                end = self._raw.find(bytes([IAC, SE]))
                if end < 0:
                    return
                self._raw = self._raw[end + 2 :]
            else:
                self._answer(self._raw[1], self._raw[2])
                self._raw = self._raw[3:]

    def _answer(self, verb: int, option: int) -> None:
        if verb == DO:
            self._socket.sendall(bytes([IAC, WONT, option]))
        elif verb == WILL:
            agreed = option in (_ECHO, _SUPPRESS_GO_AHEAD)
            self._socket.sendall(bytes([IAC, DO if agreed else DONT, option]))


def main() -> int:
    """Type the script and print what came."""
    told = json.load(sys.stdin)
    connection = _Connection(sys.argv[1], told["secs"])
    finished = all(_step(connection, *step) for step in told["script"])
    if finished and not told["leave"]:
        connection.read_until(b"\xff")  # which no text holds: to the end
    sys.stdout.buffer.write(connection.text)
    return 0 if finished else 1


def _step(connection: _Connection, prompt: str, line: str) -> bool:
    if not connection.read_until(prompt.encode()):
        return False
    connection.send(line)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
