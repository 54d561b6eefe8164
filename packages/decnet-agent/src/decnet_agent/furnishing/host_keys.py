"""Make the SSH host keys of a decky, each decky its own: two machines with one key are no machines.

    <state-directory>/host-keys/<decky>.json   0600: file name -> content, of one set

They are made once for a name and survive the container: a machine that comes back with another key is news to every
client that knows it. The three types and their sizes are those that Debian's openssh-server makes at install.

`cryptography` writes OpenSSH's own format, so the worker needs no ssh-keygen. It runs in a short-lived process of its
own (`python -m decnet_agent.furnishing.host_keys NAME`): 13 MB that the agent would keep for good, and an RSA key is
half a second of a core. The keys come back through a pipe.
"""

from __future__ import annotations

import json
import subprocess
import sys
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

    def of(self, decky: str) -> dict[str, str]:
        """Return a decky's key files by name (`ssh_host_ed25519_key`, …`.pub`), made now if it has none yet.

        Raises:
            Unavailable: they cannot be made, read or kept.
        """
        path = self._directory / f"{decky}.json"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                create_file(path, _made_elsewhere(decky), SECRET_MODE)
            return _parsed(path.read_bytes())
        except OSError as cause:
            raise Unavailable(
                f"The host keys in {self._directory} cannot be kept: {cause.strerror}",
                "Give the data directory to the user who runs the agent, and free some space.",
            ) from cause
        except ValueError as cause:
            raise Unavailable(f"{path} is damaged", "Remove it: the decky gets new host keys.") from cause


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


def _made_elsewhere(decky: str) -> bytes:
    argv = [sys.executable, "-m", "decnet_agent.furnishing.host_keys", decky]
    try:
        made = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=KEY_SECS, check=True)
    except subprocess.TimeoutExpired as cause:
        raise Unavailable("Making host keys took too long", "Deploy again when the worker is less busy.") from cause
    except subprocess.CalledProcessError as cause:
        last = cause.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Unavailable(f"Host keys cannot be made: {' '.join(last)[:200]}", "Install the agent again.") from None
    return made.stdout


def _parsed(content: bytes) -> dict[str, str]:
    document = json.loads(content)
    if not isinstance(document, dict) or not all(isinstance(text, str) for text in document.values()):
        raise ValueError("not a map of texts")
    return document


if __name__ == "__main__":
    json.dump(make_host_keys(sys.argv[1]), sys.stdout)
