"""An intruder's visit to one SSH decky, and what must be on record after it.

`visit` does what the bots and people who find an open port 22 do: two wrong passwords, a right one, a few commands
typed into the shell, one command line given to ssh, and a file dropped. It returns an `Expectation` for each, with
the moment of the keystroke, so that a watcher can say what is missing and how long each took.

The wrong passwords are on their way while the rest goes on: PAM lets each wait for two seconds and more, and whoever
guesses does so over many connections.
"""

from __future__ import annotations

import hashlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from decnet_core.errors import DecnetError
from tests.lab.lan import SSH_OPTIONS, Attacker

Row = Mapping[str, Any]
"""One event as the API shows it."""

_PROMPTS = (b"$ ", b"# ")
_PROMPT_SECS = 30.0


class VisitFailed(DecnetError):
    """The visit did not go as it should: a decky behaved unlike a machine with that account."""


@dataclass(frozen=True)
class Expectation:
    """One event that must arrive.

    Attributes:
        event_type: its type.
        typed_at: when the attacker's keystroke was sent (seconds of time.time).
        keystroke: whether the time from `typed_at` to the screen is ours alone; a refused password is not, because
            sshd and PAM wait before they answer.
        once: whether the visit's nonce tells it from all others, so that exactly one row may match.
        matches: whether a row is that event.
    """

    event_type: str
    typed_at: float
    keystroke: bool
    once: bool
    matches: Callable[[Row], bool]


@dataclass(frozen=True)
class Target:
    """A decky to visit."""

    name: str
    address: str
    user: str
    password: str


def visit(attacker: Attacker, target: Target, nonce: str) -> list[Expectation]:
    """Break into a decky and look around.

    Args:
        attacker: who.
        target: where, with an account that lets him in.
        nonce: a word that is in every command and file of this visit, so that its events can be told from all others.
    """
    commands = [f"id; echo {nonce}-one", f"uname -a # {nonce}-two", f"w # {nonce}-three"]
    with ThreadPoolExecutor() as others:
        known = others.submit(_guess, attacker, target, "root", f"wrong-{nonce}")
        unknown = others.submit(_guess, attacker, target, f"nobody-{nonce}", "wrong")
        typed = _type_commands(attacker, target, commands)
        dropped = _drop_file(attacker, target, f"/tmp/.kit-{nonce}", f"#!/bin/sh\n# {nonce}\n".encode() * 40)
        return [*known.result(), *unknown.result(), *typed, *dropped]


def _guess(attacker: Attacker, target: Target, user: str, password: str) -> list[Expectation]:
    typed_at = time.time()
    done = attacker.ssh(target.address, user, password, "true")
    if done.returncode == 0:
        raise VisitFailed(f"{target.name} let {user} in with a wrong password")

    def is_it(row: Row) -> bool:
        return _touches(row, attacker, target) and row["fields"].get("user") == user

    return [Expectation("login.failed", typed_at, keystroke=False, once=user != "root", matches=is_it)]


def _type_commands(attacker: Attacker, target: Target, commands: list[str]) -> list[Expectation]:
    """Log in, type each command after the prompt before it, and leave."""
    logged_in_at = time.time()
    shell = attacker.popen(_ssh_argv(target, "-tt"), env={"SSHPASS": target.password})
    expected = []
    try:
        _read_until_prompt(shell)
        for command in commands:
            typed_at = time.time()
            _send(shell, command)
            expected.append(_command(attacker, target, command, typed_at, keystroke=True))
            _read_until_prompt(shell)
        _send(shell, "exit")
        shell.communicate(timeout=_PROMPT_SECS)
    finally:
        shell.kill()
        shell.communicate()

    def of_user(row: Row) -> bool:
        return bool(row["decky"] == target.name and row["fields"].get("user") == target.user)

    def from_here(row: Row) -> bool:
        return _touches(row, attacker, target)

    return [
        Expectation(
            "login.succeeded", logged_in_at, False, False, lambda row: of_user(row) and _touches(row, attacker, target)
        ),
        Expectation("session.opened", logged_in_at, False, False, of_user),
        Expectation("session.closed", logged_in_at, False, False, of_user),
        *expected,
    ]


def _drop_file(attacker: Attacker, target: Target, path: str, content: bytes) -> list[Expectation]:
    """Write a file through `ssh host 'cat > path'`, as droppers do."""
    command = f"cat > {path} && chmod +x {path}"
    typed_at = time.time()
    done = attacker.run([*_ssh_argv(target), command], input=content, env={"SSHPASS": target.password})
    if done.returncode != 0:
        raise VisitFailed(f"{target.name} did not run {command!r}: {done.stderr.decode(errors='replace')}")
    digest = hashlib.sha256(content).hexdigest()

    def is_it(row: Row) -> bool:
        fields = row["fields"]
        return _touches(row, attacker, target) and fields.get("path") == path and fields.get("sha256") == digest

    return [
        _command(attacker, target, command, typed_at, keystroke=False),
        Expectation("file.captured", typed_at, keystroke=False, once=True, matches=is_it),
    ]


def _command(attacker: Attacker, target: Target, command: str, typed_at: float, *, keystroke: bool) -> Expectation:
    def is_it(row: Row) -> bool:
        return _touches(row, attacker, target) and command in row["fields"].get("command", "")

    return Expectation("command.run", typed_at, keystroke, True, is_it)


def _touches(row: Row, attacker: Attacker, target: Target) -> bool:
    return bool(row["decky"] == target.name and row["src_ip"] == str(attacker.address))


def _ssh_argv(target: Target, *options: str) -> list[str]:
    return ["sshpass", "-e", "ssh", *SSH_OPTIONS, *options, f"{target.user}@{target.address}"]


def _send(shell: subprocess.Popen[bytes], line: str) -> None:
    assert shell.stdin is not None
    shell.stdin.write(line.encode() + b"\n")
    shell.stdin.flush()


def _read_until_prompt(shell: subprocess.Popen[bytes]) -> None:
    """Read what the shell prints until it waits for the next command."""
    assert shell.stdout is not None
    seen = b""
    deadline = time.monotonic() + _PROMPT_SECS
    while not seen.endswith(_PROMPTS):
        ready, _, _ = select.select([shell.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(shell.stdout.fileno(), 4096) if ready else b""
        if not chunk:
            why = "the shell ended" if ready else "no prompt came"
            raise VisitFailed(f"{why}; it printed {seen[-200:]!r}")
        seen += chunk
