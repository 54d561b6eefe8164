"""The one line that an operator pastes as root on a bare host.

    printf %s 'decnet-join.…' | python3 -c '…' [--without-…]

It asks the enrolment endpoint for the script, and runs it if its SHA-256 is the one that stands in the line. Nothing is
sent before that but the question, and TLS is trusted for nothing: what is pinned are the very bytes that run. The
script reads the token from its standard input, checks the CA against the pin in it, and shows it to nobody else.

`printf` is built into every shell: the token stands in no process's arguments. Without what comes before `python3` the
script asks for it, so that it does not get into the shell's history either.

Words of the shell and of Python are both in single quotes here: nothing in the line may hold one.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import JoinToken
from decnet_core.identity import MASTER_HOST

SCRIPT_PATH = "/bootstrap.py"
SCRIPT_PARTS = ("worker_fetch.py", "worker_steps.py")
MAX_SCRIPT_BYTES = 1 << 20

_NOT_SENT = frozenset({"__future__", "decnet_master"})

# What is not there or not what was asked for is told in plain words, with the exit codes of all our programs.
_FIRST_STEP = (
    "import hashlib,os,socket,ssl,sys;"
    'sys.excepthook=lambda t,e,_:(print("error: the master does not answer at {address}:",e,file=sys.stderr),'
    "os._exit(69));"
    "c=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT);c.check_hostname=False;c.verify_mode=ssl.CERT_NONE;"
    's=c.wrap_socket(socket.create_connection(("{host}",{port}),30),server_hostname="{name}");'
    's.sendall(b"GET {path} HTTP/1.0\\r\\n\\r\\n");'
    'b=s.makefile("rb").read({limit}).partition(b"\\r\\n\\r\\n")[2];'
    'hashlib.sha256(b).hexdigest()=="{sha256}"or(print("error: what answers at {address} is not the master that '
    'made this line, or has another release since: ask for a new line",file=sys.stderr),os._exit(77));'
    "sys.excepthook=sys.__excepthook__;exec(b)"
)


@dataclass(frozen=True, slots=True)
class Line:
    """The line in its two parts: `command` alone asks for the token, `whole` brings it along."""

    command: str
    token: str

    @property
    def whole(self) -> str:
        """All of it, to be pasted."""
        return f"printf %s '{self.token}' | {self.command}"


def script() -> bytes:
    """Return the script that runs on the worker: its parts in one, without what they import of one another."""
    folder = resources.files("decnet_master.bootstrap")
    pieces = ["from __future__ import annotations\n"]
    for name in SCRIPT_PARTS:
        source = (folder / name).read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        for node in ast.parse(source).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _NOT_SENT:
                lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
        pieces += lines
    return "".join(pieces).encode()


def script_sha256() -> str:
    """Return what the script hashes to."""
    return hashlib.sha256(script()).hexdigest()


def make_line(token: JoinToken, sha256: str, options: Sequence[str] = ()) -> Line:
    """Write the line.

    Args:
        token: of the worker; the line dials its address.
        sha256: of the script that the controller serves.
        options: for the script; plain words.
    """
    master = Endpoint.parse(token.address)
    code = _FIRST_STEP.format(
        address=token.address,
        host=master.host,
        port=master.port,
        name=MASTER_HOST,
        path=SCRIPT_PATH,
        limit=MAX_SCRIPT_BYTES,
        sha256=sha256,
    )
    return Line(" ".join([f"python3 -c '{code}'", *options]), token.encode())
