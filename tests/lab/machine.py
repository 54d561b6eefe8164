"""A bare Debian with systemd as PID 1 and Python, nothing of ours on it: where an installation is tried for real.

It is a container of the lab's engine with a network namespace of its own that holds the loopback, and at most one
segment of the lab: every port is free in it and nothing leaves it. Files come in through folders that are mounted
read-only.

    rootfs (mmdebstrap) ──▶ lab-machine:bookworm-…   systemd, python3, what is asked for; built once, kept by the engine

`--privileged` is not used: the capabilities are named.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from docker.errors import APIError, BuildError, ImageNotFound
from docker.models.containers import Container
from docker.models.networks import Network
from docker.types import EndpointConfig, IPAMConfig, IPAMPool

from tests.lab.engine import LabEngine
from tests.lab.image import SUITE, rootfs_archive
from tests.lab.lan import Lan
from tests.lab.piece import Piece
from tests.lab.slots import MissingPart

_ROOTFS = "lab-machine-rootfs"
BARE = ("dbus", "procps", "python3", "systemd", "systemd-sysv")
"""What a Debian has that was installed with nothing chosen."""

PREPARED = (*BARE, "ca-certificates", "python3-venv")
"""What docs/operations.md asks for beside it, before an installation by hand."""

_CAPABILITIES = ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH")
"""Mounts and namespaces, and what the tap needs (SYS_ADMIN holds CAP_BPF, for which Docker 20.10 has no word)."""
_BOOT_SECS = 60.0
_POLL_SECS = 0.1


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str


class Machine(Piece):
    """A running machine: `with Machine(engine, {wheels: "/wheels"}) as machine: machine.run("systemctl", …)`.

    Args:
        engine: runs it.
        folders: of this machine, to where they appear in that one, read-only.
        packages: Debian packages that it has.
        segment: a LAN that it is on, with which address; None is no network.
    """

    def __init__(
        self,
        engine: LabEngine,
        folders: Mapping[Path, str],
        *,
        packages: Sequence[str] = PREPARED,
        segment: tuple[Lan, IPv4Address] | None = None,
    ) -> None:
        self._client = engine.client()
        self._folders = folders
        self._dockerfile = _dockerfile(packages)
        self._segment = segment
        self._network: Network | None = None
        self._container: Container | None = None

    def stop(self) -> None:
        """Remove it; twice is harmless."""
        container, self._container = self._container, None
        if container is not None:
            container.remove(force=True, v=True)
        network, self._network = self._network, None
        if network is not None:
            network.remove()
        self._client.close()

    def attempt(self, *argv: str | Path, user: str = "root", env: Mapping[str, str] | None = None) -> Done:
        """Run a command to its end, whatever that is; both outputs come back as one."""
        assert self._container is not None
        code, out = self._container.exec_run([str(word) for word in argv], user=user, environment=dict(env or {}))
        assert code is not None
        assert isinstance(out, bytes)  # neither a stream nor detached: the stub cannot tell
        return Done(code, out.decode(errors="replace"))

    def run(self, *argv: str | Path, user: str = "root", env: Mapping[str, str] | None = None) -> str:
        """Run a command that must succeed, and return what it printed."""
        done = self.attempt(*argv, user=user, env=env)
        assert done.code == 0, f"`{' '.join(map(str, argv))}` ended with {done.code}: {done.out[-3000:]}"
        return done.out

    def shell(self, script: str, *, user: str = "root", env: Mapping[str, str] | None = None) -> str:
        """Run a line of shell that must succeed."""
        return self.run("bash", "-eo", "pipefail", "-c", script, user=user, env=env)

    def wait_for(self, *argv: str, out: str, timeout_secs: float = 30.0) -> None:
        """Wait until a command prints this, give or take white space."""
        deadline = time.monotonic() + timeout_secs
        while (seen := self.attempt(*argv).out.strip()) != out:
            assert time.monotonic() < deadline, f"`{' '.join(argv)}` prints {seen!r}, not {out!r}\n{self.journal()}"
            time.sleep(_POLL_SECS)

    def journal(self, unit: str = "", lines: int = 60) -> str:
        """Return the end of what units logged."""
        chosen: Sequence[str] = ("--unit", unit) if unit else ()
        return self.attempt("journalctl", "--no-pager", "--output=cat", f"--lines={lines}", *chosen).out

    def start(self) -> None:
        """Boot it.

        Raises:
            MissingPart: it cannot be built, or systemd does not come up in a container here.
        """
        tag = self._image()
        networking = self._connect()
        volumes = {str(path): {"bind": place, "mode": "ro"} for path, place in self._folders.items()}
        self._container = self._client.containers.create(
            tag,
            hostname="bare",
            **networking,
            cap_add=list(_CAPABILITIES),
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            tmpfs={"/run": "", "/run/lock": "", "/tmp": "exec"},
            volumes={**volumes, "/sys/fs/cgroup": {"bind": "/sys/fs/cgroup", "mode": "rw"}},
            cgroupns="host",
        )
        self._container.start()
        deadline = time.monotonic() + _BOOT_SECS
        while (state := self.attempt("systemctl", "is-system-running").out.strip()) not in {"running", "degraded"}:
            if time.monotonic() > deadline:
                raise MissingPart(f"systemd does not boot in a container here: it is {state}", "See docs of the lab")
            time.sleep(_POLL_SECS)

    def _connect(self) -> dict[str, Any]:
        """Make the network of the machine's segment; return the container's options for it."""
        if self._segment is None:
            return {"network_mode": "none"}
        lan, address = self._segment
        self._network = self._client.networks.create(
            f"lab-machine-{lan.parent}",
            driver="macvlan",
            options={"parent": lan.parent},
            ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=str(lan.subnet))]),
        )
        name = self._network.name
        return {"network": name, "networking_config": {name: EndpointConfig("1.41", ipv4_address=str(address))}}

    def _image(self) -> str:
        key = hashlib.sha256(self._dockerfile).hexdigest()
        tag = f"lab-machine:{SUITE}-{key[:12]}"
        try:
            self._client.images.get(tag)
        except ImageNotFound:
            pass
        else:
            return tag
        try:
            rootfs = rootfs_archive(lambda _line: None)
            self._client.api.import_image_from_file(str(rootfs), repository=_ROOTFS, tag=SUITE)
            self._client.images.build(
                fileobj=_context(self._dockerfile), custom_context=True, tag=tag, network_mode="host", rm=True
            )
        except (BuildError, APIError) as error:
            raise MissingPart(f"{tag} could not be built: {error}", "Check that the Debian mirror answers") from error
        return tag


def _dockerfile(packages: Sequence[str]) -> bytes:
    return f"""\
FROM {_ROOTFS}:{SUITE}
RUN apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
      {" ".join(sorted(packages))} \\
 && rm -rf /var/lib/apt/lists/*
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]
""".encode()


def _context(dockerfile: bytes) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        tar.addfile(entry, io.BytesIO(dockerfile))
    packed.seek(0)
    return packed
