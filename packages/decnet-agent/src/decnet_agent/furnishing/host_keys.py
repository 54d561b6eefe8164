"""Make the SSH host keys of a decky, each decky its own: two machines with one key are no machines.

    <state-directory>/host-keys/<decky>.json   0600: file name -> content, of one set

They are made once for a name and survive the container: a machine that comes back with another key is news to every
client that knows it. The three types and their sizes are those that Debian's openssh-server makes at install.

`cryptography` writes OpenSSH's own format, so the worker needs no ssh-keygen. It runs in a short-lived process of its
own (`python -m decnet_agent.furnishing.host_keys`): 13 MB that the agent would keep for good, and an RSA key is up to
half a second of a core. Names go in through a pipe, sets of keys come back through another, a line each: one process
makes those of a whole shard, because starting it takes as long as a set, and each set is kept as it comes. It ends with
the pipe, whatever became of the agent.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from decnet_core.errors import Unavailable
from decnet_core.pki.durable import SECRET_MODE, create_file

KEY_SECS = 60.0
"""Finding a 3072-bit prime pair takes 0.1 to 2 s; sixty is a machine on its knees."""

_RSA_BITS = 3072


class HostKeys:
    """The host keys of this worker's deckies."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._makers: set[subprocess.Popen[bytes]] = set()

    def stop(self) -> None:
        """End what is being made; who waits for it is told that it cannot be made."""
        for maker in tuple(self._makers):
            maker.kill()

    def make(self, deckies: Sequence[str]) -> Iterator[str]:
        """Make the keys of all that have none, one after the other; yield each name as soon as its keys are kept.

        A name that has them is yielded too. Read it to its end, or close it.

        Raises:
            Unavailable: they cannot be made or kept.
        """
        with self._keeping():
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            missing = [decky for decky in deckies if not self._path(decky).exists()]
            yield from (decky for decky in deckies if decky not in set(missing))
            if missing:
                for decky, made in zip(missing, self._made_elsewhere(missing), strict=True):
                    create_file(self._path(decky), made, SECRET_MODE)
                    yield decky

    def of(self, decky: str) -> dict[str, str]:
        """Return a decky's key files by name (`ssh_host_ed25519_key`, …`.pub`), made now if it has none yet.

        Raises:
            Unavailable: they cannot be made, read or kept.
        """
        for _ in self.make([decky]):
            pass
        with self._keeping():
            content = self._path(decky).read_bytes()
        try:
            return _parsed(content)
        except ValueError as cause:
            raise Unavailable(f"{self._path(decky)} is damaged", "Remove it: the decky gets new host keys.") from cause

    def _path(self, decky: str) -> Path:
        return self._directory / f"{decky}.json"

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        except OSError as cause:
            raise Unavailable(
                f"The host keys in {self._directory} cannot be kept: {cause.strerror}",
                "Give the data directory to the user who runs the agent, and free some space.",
            ) from cause

    def _made_elsewhere(self, deckies: Sequence[str]) -> Iterator[bytes]:
        """Yield a set for each name; one that takes too long ends them all."""
        with subprocess.Popen(
            [sys.executable, "-m", "decnet_agent.furnishing.host_keys"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as maker:
            assert maker.stdin is not None  # noqa: S101 -- pipes, see above
            assert maker.stdout is not None  # noqa: S101
            assert maker.stderr is not None  # noqa: S101
            self._makers.add(maker)
            answers = select.poll()
            answers.register(maker.stdout)
            try:
                for decky in deckies:
                    # One name after the other: no pipe ever holds more than one, so that neither side blocks.
                    with contextlib.suppress(BrokenPipeError):  # past the buffer: nothing is left for its closing
                        os.write(maker.stdin.fileno(), f"{decky}\n".encode())
                    if not answers.poll(KEY_SECS * 1000):
                        raise Unavailable(
                            "Making host keys took too long", "Deploy again when the worker is less busy."
                        )
                    made = maker.stdout.readline()
                    if not made.endswith(b"\n"):
                        raise _unmade(maker.stderr.read())
                    yield made
            finally:
                maker.kill()
                self._makers.discard(maker)


def _unmade(said: bytes) -> Unavailable:
    last = said.decode(errors="replace").strip().splitlines()[-1:]
    return Unavailable(f"Host keys cannot be made: {' '.join(last)[:200]}", "Install the agent again.")


def make_host_keys(host: str) -> dict[str, str]:
    """Make a set of keys; the comment is the one that Debian's installer would leave."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415 - 13 MB
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey] = {
        "rsa": rsa.generate_private_key(65537, _RSA_BITS),
        "ecdsa": ec.generate_private_key(ec.SECP256R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
    }
    files: dict[str, str] = {}
    for kind, key in keys.items():
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        files[f"ssh_host_{kind}_key"] = private.decode()
        files[f"ssh_host_{kind}_key.pub"] = f"{public.decode()} root@{host}\n"
    return files


def _parsed(content: bytes) -> dict[str, str]:
    document = json.loads(content)
    if not isinstance(document, dict) or not all(isinstance(text, str) for text in document.values()):
        raise ValueError("not a map of texts")
    return document


if __name__ == "__main__":
    for name in sys.stdin:
        sys.stdout.write(json.dumps(make_host_keys(name.strip())) + "\n")
        sys.stdout.flush()
