"""Scripted visits to a decky, in the ways that attackers come, each with what the record must then hold.

A visit is known by its number, which stands in all that it does. It comes from one of several addresses. What it leaves
is said before it is made: `Expected`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.evidence.client import Terminal
from tests.lab.lan import SSH_OPTIONS
from tests.tap.lab_site import PASSWORD, Site

USER = "bob"


@dataclass
class Expected:
    """What a visit must leave.

    Attributes:
        lines: typed at a terminal, as typed.
        runs: programs with their arguments.
        files: contents by path.
        shown: what the client got of a terminal; None without one.
        typed: what was typed there.
        wrong: a password that was tried first.
    """

    lines: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    shown: bytes | None = None
    typed: bytes = b""
    wrong: str | None = None


class Visit:
    """One visitor: `Visit(site, 7, address, folder, port).make()`.

    Args:
        number: in all that he does.
        address: where he comes from.
        folder: his own.
        web: address and port of a server that has `payload-NUMBER`.
    """

    def __init__(self, site: Site, number: int, address: str, folder: Path, web: str) -> None:
        self.number, self.address = number, address
        self._site, self._folder, self._web = site, folder, web
        self._ways = _WAYS[number % len(_WAYS)]
        self.content = payload(number)

    def make(self) -> Expected:
        """Come, do it and leave."""
        return self._ways(self)

    def at_a_terminal(self) -> Expected:
        lines = (f"echo typed-{self.number}; /bin/true typed {self.number}", "id", f"cd /tmp; echo {self.number} > t")
        typed = "".join(f"{line}\n" for line in (*lines, "exit")).encode()
        got = self._ssh("-tt", given=typed)
        return Expected(lines=lines, runs=(f"/bin/true typed {self.number}", "id"), shown=got, typed=typed)

    def by_a_command(self) -> Expected:
        self._ssh(f"uname -a; /bin/true given {self.number}")
        whole = f"bash -c 'uname -a; /bin/true given {self.number}'"
        return Expected(runs=(whole, "uname -a", f"/bin/true given {self.number}"))

    def by_scp(self) -> Expected:
        self._copy("scp", "-q", "-O", *self._options)
        return Expected(files={self._there: self.content})

    def by_sftp(self) -> Expected:
        self._copy("scp", "-q", *self._options)
        return Expected(files={self._there: self.content})

    def by_rsync(self) -> Expected:
        self._copy("rsync", "-q", "-e", " ".join(("ssh", *self._options)))
        return Expected(files={self._there: self.content})

    def by_the_web(self) -> Expected:
        name, tool = f"payload-{self.number}", ("wget -qO", "curl -so")[self.number // len(_WAYS) % 2]
        self._ssh(f"{tool} {self._there} http://{self._web}/{name}")
        run = f"{tool} {self._there} http://{self._web}/{name}"
        return Expected(runs=(run,), files={self._there: self.content})

    def by_a_here_document(self) -> Expected:
        text = f"#!/bin/sh\n# {self.number}\nid\n"
        self._ssh(given=f"cat > {self._there} <<'EOF'\n{text}EOF\nsh {self._there}\n".encode())
        return Expected(runs=("cat", f"sh {self._there}"), files={self._there: text.encode()})

    def by_an_editor(self) -> Expected:
        with Terminal(self._site, self._folder, columns=80, rows=24, source=self.address) as terminal:
            terminal.see(b"$ ")
            terminal.type(b"vi %s\r" % self._there.encode())
            terminal.see(b"[New")
            terminal.type(b"iwritten by %d\x1b:wq\r" % self.number)
            terminal.see(b"written")
            terminal.type(b"exit\r")
            terminal.end()
        text = f"written by {self.number}\n".encode()
        return Expected(lines=(f"vi {self._there}", "exit"), files={self._there: text}, shown=bytes(terminal.got))

    def with_bytes_that_are_no_text(self) -> Expected:
        line = f"head -c {20_000 + self.number} /dev/urandom"
        typed = f"{line}; exit\n".encode()
        return Expected(lines=(f"{line}; exit",), runs=(line,), shown=self._ssh("-tt", given=typed), typed=typed)

    def after_a_wrong_password(self) -> Expected:
        wrong = f"guess-{self.number}-\u00fc"
        assert self._run("ssh", *self._options, self._where, password=wrong).returncode == 255
        self._ssh(f"/bin/true guessed {self.number}")
        return Expected(runs=(f"/bin/true guessed {self.number}",), wrong=wrong)

    @property
    def _there(self) -> str:
        return f"/tmp/visit-{self.number}"

    @property
    def _where(self) -> str:
        return f"{USER}@{self._site.address}"

    @property
    def _options(self) -> tuple[str, ...]:
        return (*SSH_OPTIONS, f"-oBindAddress={self.address}")

    def _copy(self, *argv: str) -> None:
        local = self._folder / f"payload-{self.number}"
        local.write_bytes(self.content)
        done = self._run(*argv, str(local), f"{self._where}:{self._there}")
        assert done.returncode == 0, done

    def _ssh(self, *arguments: str, given: bytes = b"") -> bytes:
        flags = [each for each in arguments if each.startswith("-")]
        command = [each for each in arguments if not each.startswith("-")]
        return self._run("ssh", *flags, *self._options, self._where, *command, given=given).stdout

    def _run(self, *argv: str, given: bytes = b"", password: str = PASSWORD) -> subprocess.CompletedProcess[bytes]:
        return self._site.lan.attacker.run(["sshpass", "-e", *argv], input=given, env={"SSHPASS": password})


def payload(number: int) -> bytes:
    """What a visit brings along: no two are alike, and some bytes are no text."""
    return b"payload %d " % number + bytes(range(256)) * (1 + number)


_WAYS: tuple[Callable[[Visit], Expected], ...] = (
    Visit.at_a_terminal,
    Visit.by_a_command,
    Visit.by_scp,
    Visit.by_sftp,
    Visit.by_rsync,
    Visit.by_the_web,
    Visit.by_a_here_document,
    Visit.by_an_editor,
    Visit.with_bytes_that_are_no_text,
    Visit.after_a_wrong_password,
)
