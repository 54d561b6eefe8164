"""Make this bare host a worker of a DECNET master: what the line of `decnet-master swarm enroll --bootstrap` runs.

The master serves it with `worker_fetch` before it, as one script (`line.script`), and the line runs that only if it
hashes to what stands in the line. It runs as root on a host
that has Python 3.11 or later and systemd and nothing of ours, so it has the standard library alone and its own errors,
and it is written so that an older Python can still read it and be told so.

    token on standard input ──▶ the CA, held against its pin ──▶ over TLS that trusts it alone: wheels, each hashed
    ──▶ /opt/decnet/releases/<version>, an environment of its own, installed without any index
    ──▶ /opt/decnet/current, a link to it ──▶ decnet-agent setup, join ──▶ units enabled and started ──▶ seen

Every step looks at what is there and does what is missing, so that it can be killed at any point and run again: an
environment without its `installed.json` is made anew, `bootstrap.json` remembers for which token all wheels were
installed, and joining with the same token gives the same certificates. The secret goes to the pinned master and to the
standard input of `decnet-agent join`, into no argument, file or line.

Exit codes are those of all DECNET programs (1 failed, 4 not found, 5 conflict, 69 unavailable, 75 later, 77 trust,
78 configuration).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from decnet_master.bootstrap.worker_fetch import (
    CONFIG,
    CONFLICT,
    FAILED,
    UNAVAILABLE,
    Master,
    Stop,
    Token,
    glibc,
    plain,
)

ROOT = Path("/opt/decnet")
CURRENT = ROOT / "current"
MEMORY = ROOT / "bootstrap.json"
MARKER = "installed.json"
ENROLMENT = Path("/var/lib/decnet/enrolment.json")
LOCK = Path("/run/decnet-bootstrap.lock")
DOCKER_SOCKET = Path("/run/docker.sock")
PROGRAM_LINKS = Path("/usr/local/bin")
UNITS = Path("/etc/systemd/system")

PARTS = ("agent", "logship", "updater")
UNIT_PARTS = ("containment", "agent", "logship", "tap", "updater")
"""Tap and containment are parts of the agent's package. What contains deckies comes before what starts them."""
OLDEST_PYTHON = (3, 11)
COMMAND_SECS = 900.0
UNIT_SECS = 180.0
SEEN_SECS = 60
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PIP_CONFIG_FILE": os.devnull,
}


def main(arguments: Sequence[str]) -> int:
    """Do it all and return the exit code."""
    chosen = _options(arguments)
    try:
        Bootstrap(chosen).run()
    except Stop as stop:
        sys.stdout.flush()
        sys.stderr.write(f"error: {stop.message}\n  what to do: {stop.advice}\n")
        return stop.code
    except OSError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n  what to do: Mend that, then run the same line again.\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\nerror: interrupted\n  what to do: Run the same line again: it goes on where it was.\n")
        return 130
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bootstrap", description="Make this host a DECNET worker.")
    parser.add_argument("--without-logship", action="store_true", help="do not install the log shipper")
    parser.add_argument("--without-tap", action="store_true", help="do not run the tap")
    parser.add_argument("--without-updater", action="store_true", help="do not install the updater")
    parser.add_argument("--install-docker", action="store_true", help="install Debian's docker.io if need be")
    parser.add_argument("--address", help="where the master reaches this host, if not where it comes from")
    return parser.parse_args(arguments)


def say(line: str) -> None:
    """Tell how far it is."""
    sys.stdout.write(f"decnet: {line}\n")
    sys.stdout.flush()


class Bootstrap:
    """The steps, in their order."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self._chosen = chosen
        self._without = [part for part in ("logship", "tap", "updater") if getattr(chosen, f"without_{part}")]
        self._parts = [part for part in PARTS if part not in self._without]
        self._changed = False

    def run(self) -> None:
        """Take every step; raises Stop where it cannot go on."""
        check_host()
        os.umask(0o022)  # the daemons, which are not root, run what is installed here
        token = Token.read()
        with LOCK.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Stop(CONFLICT, "Another bootstrap runs on this host", "Wait until it has ended.") from None
            self._refuse_another(token)
            memory = _read_json(MEMORY)
            if memory is not None and self._is_installed(memory, token):
                say(f"release {memory['version']} is installed")
            else:
                memory = self._install(token)
            has_engine = self._engine()
            self._setup()
            self._join(token)
            self._start(memory)
            self._seen()
        what = "done" if self._changed else "nothing had to be changed"
        say(f"{what}: this host is {token.host}, a worker of {token.master}, and the master sees its agent")
        if not has_engine:
            say("there is no Docker engine here: the agent runs, but can deploy nothing until there is one")
            say("  what to do: apt-get install docker.io, or run the line again with --install-docker at its end")
        say("what is still to be done here, if anything, tells `decnet-agent doctor`")

    def _is_installed(self, memory: dict[str, Any], token: Token) -> bool:
        """Tell whether all that this token is for was installed with it; then it may have been used already."""
        return memory["token_id"] == token.id and set(self._parts) <= set(memory["parts"]) and CURRENT.exists()

    def _refuse_another(self, token: Token) -> None:
        joined = _read_json(ENROLMENT)
        if joined is not None and joined.get("host") != token.host:
            raise Stop(
                CONFLICT,
                f"This host has joined already, as {plain(str(joined.get('host')))}",
                f"Decommission it on its master, remove {ENROLMENT} and {ENROLMENT.parent}/identities, then try again.",
            )

    def _install(self, token: Token) -> dict[str, Any]:
        say(f"asking the master at {token.master}")
        master = Master(token)
        index = master.index(self._parts)
        digest = hashlib.sha256("".join(sorted(wheel["sha256"] for wheel in index["wheels"])).encode()).hexdigest()
        release = _release_folder(index["version"], digest)
        if _read_json(release / MARKER) is None:
            downloads = ROOT / "downloads" / digest
            downloads.mkdir(parents=True, exist_ok=True)
            self._download(master, index, downloads)
            install_wheels(index, downloads, release, digest)
            shutil.rmtree(ROOT / "downloads")
        memory = {"token_id": token.id, "version": index["version"], "parts": self._parts, "started": False}
        _link(CURRENT, Path("releases") / release.name)
        _write_json(MEMORY, memory)
        for part in self._parts:
            own = PROGRAM_LINKS / f"decnet-{part}"
            if own.is_symlink() or not own.exists():
                PROGRAM_LINKS.mkdir(parents=True, exist_ok=True)
                _link(own, CURRENT / "bin" / own.name)
        self._changed = True
        return memory

    def _download(self, master: Master, index: dict[str, Any], folder: Path) -> None:
        wheels = index["wheels"]
        total = sum(wheel["bytes"] for wheel in wheels)
        room = shutil.disk_usage(folder).free
        if room < 8 * total:  # an environment is about five times its wheels
            raise Stop(UNAVAILABLE, f"{ROOT} has {room >> 20} MiB free, and needs {8 * total >> 20}", "Make room.")
        say(f"fetching release {index['version']}: {len(wheels)} wheels, {total >> 20} MiB")
        for wheel in wheels:
            master.fetch(wheel, folder)
        say("every wheel has the SHA-256 that the master told")

    def _engine(self) -> bool:
        if DOCKER_SOCKET.exists() or shutil.which("dockerd"):
            return True
        if not self._chosen.install_docker:
            return False
        if shutil.which("apt-get") is None:
            raise Stop(CONFIG, "There is no apt-get here to install Docker with", "Install a Docker engine yourself.")
        say("installing Debian's docker.io")
        environment = dict(ENVIRONMENT, DEBIAN_FRONTEND="noninteractive")
        for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "docker.io"]):
            done = _run(["apt-get", *arguments], environment=environment)
            if done.returncode != 0:
                last = plain((done.stderr.strip().splitlines() or ["no word"])[-1])
                raise Stop(
                    UNAVAILABLE, f"docker.io cannot be installed: {last}", "Look at `apt-get install docker.io`."
                )
        self._changed = True
        return True

    def _setup(self) -> None:
        argv = ["setup", "--programs", str(CURRENT / "bin")]
        for part in self._without:
            argv += ["--without", part]
        for line in self._agent(argv).splitlines():
            if not line.endswith(": was there"):
                self._changed = True
                say(line)

    def _join(self, token: Token) -> None:
        address = ["--address", self._chosen.address] if self._chosen.address else []
        said = self._agent(["join", "-", *address], text=token.text)
        if "joined already" not in said:
            self._changed = True
        say(f"this host has joined as {token.host}")

    def _start(self, memory: dict[str, Any]) -> None:
        """Enable and start the units; all are restarted once after a release was put into use."""
        for part in self._without:
            unit = f"decnet-{part}.service"
            if (UNITS / unit).exists():
                _run(["systemctl", "disable", "--quiet", "--now", unit], timeout_secs=UNIT_SECS)
                (UNITS / unit).unlink()
                say(f"{unit} was there, and is left out from now on")
        parts = [part for part in UNIT_PARTS if part not in self._without]
        verb = "start" if memory["started"] else "restart"
        for part in parts:
            unit = f"decnet-{part}.service"
            was_active = _run(["systemctl", "is-active", "--quiet", unit]).returncode == 0
            enabled = _run(["systemctl", "enable", "--quiet", unit])
            done = _run(["systemctl", verb, unit], timeout_secs=UNIT_SECS) if enabled.returncode == 0 else enabled
            self._changed |= not was_active
            if done.returncode == 0:
                say(f"{unit} runs")
            elif part == "containment":
                say(f"{unit} does not start, so no decky will: `journalctl -u {unit}`")
            elif part == "tap":
                say(f"{unit} does not start, so commands and files in deckies are not seen: `journalctl -u {unit}`")
            else:
                why = plain((done.stderr.strip().splitlines() or ["no word"])[0])
                raise Stop(
                    FAILED, f"{unit} does not start: {why}", f"`journalctl -u {unit}` says why; then run it again."
                )
        if not memory["started"]:
            _write_json(MEMORY, dict(memory, started=True))

    def _seen(self) -> None:
        say("waiting until the master sees the agent")
        self._agent(["seen", "--wait", str(SEEN_SECS)])

    @staticmethod
    def _agent(argv: Sequence[str], *, text: str = "") -> str:
        """Run a verb of the agent's; its error and its exit code are ours."""
        done = _run([str(CURRENT / "bin" / "decnet-agent"), *argv], text=text)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            error = next((line[7:] for line in lines if line.startswith("error: ")), f"decnet-agent {argv[0]} failed")
            advice = next((line.split(": ", 1)[1] for line in lines if "what to do: " in line), "Run it by itself.")
            raise Stop(done.returncode, error, advice)
        return done.stdout


def check_host() -> None:
    """See that this host can be a worker, before anything is asked or changed."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:2]))
        raise Stop(
            CONFIG, f"This host's Python is {found}; a worker needs 3.11", "Use Debian 12, Ubuntu 24.04 or later."
        )
    if os.geteuid() != 0:
        raise Stop(CONFIG, "This takes root", "Run it as root, or put sudo before python3.")
    if not Path("/run/systemd/system").is_dir():
        raise Stop(CONFIG, "systemd does not run here", "A worker needs systemd.")
    if importlib.util.find_spec("venv") is None:
        raise Stop(
            CONFIG, "This host's Python lacks venv", "Run `apt-get install python3` (python3-minimal is too little)."
        )
    glibc()


def install_wheels(index: dict[str, Any], downloads: Path, release: Path, digest: str) -> None:
    """Make an environment of its own, and install every wheel into it by its hash and without an index."""
    say(f"installing into {release}")
    if release.exists():
        shutil.rmtree(release)  # an attempt that did not end: nothing runs from it
    release.parent.mkdir(parents=True, exist_ok=True)
    _must([sys.executable, "-I", "-m", "venv", "--without-pip", str(release)], "An environment cannot be made")
    (installer,) = (wheel for wheel in index["wheels"] if wheel["project"] == "pip")
    wanted = downloads / "requirements.txt"
    wanted.write_text(
        "".join(
            f"{wheel['project']}=={wheel['version']} --hash=sha256:{wheel['sha256']}\n"
            for wheel in index["wheels"]
            if wheel is not installer
        )
    )
    pip = [str(release / "bin" / "python"), "-I", str(downloads / installer["file"] / "pip"), "--isolated", "install"]
    pip += ["--quiet", "--no-index", "--no-cache-dir", "--disable-pip-version-check", "--root-user-action", "ignore"]
    pip += ["--only-binary", ":all:", "--require-hashes", "--find-links", str(downloads), "--requirement", str(wanted)]
    _must(pip, "The wheels cannot be installed")
    told = _must([str(release / "bin" / "decnet-agent"), "--version"], "The agent that was installed does not run")
    if told.split() != ["decnet-agent", index["version"]]:
        raise Stop(FAILED, f"Another release was installed than {index['version']}", "Build the bundle anew.")
    os.sync()  # the marker and the link say that all of it is there, also after a power cut
    _write_json(release / MARKER, {"version": index["version"], "digest": digest})


def _release_folder(version: str, digest: str) -> Path:
    """Return where these wheels are, or are to be installed; another build of the same release keeps its own folder."""
    folder = ROOT / "releases" / version
    installed = _read_json(folder / MARKER)
    if installed is None or installed.get("digest") == digest:
        return folder
    return ROOT / "releases" / f"{version}.{digest[:8]}"


def _run(
    argv: Sequence[str],
    *,
    text: str = "",
    environment: dict[str, str] | None = None,
    timeout_secs: float = COMMAND_SECS,
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_secs,
            check=False,
            env=environment or ENVIRONMENT,
        )
    except subprocess.TimeoutExpired:
        raise Stop(UNAVAILABLE, f"{argv[0]} does not end", "Run the same line again.") from None


def _must(argv: Sequence[str], failure: str) -> str:
    done = _run(argv)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise Stop(FAILED, f"{failure}: {plain((errors or ['no word'])[-1])}", "Tell the operator of the master.")
    return done.stdout


def _link(link: Path, target: Path) -> None:
    """Point a link elsewhere in one step."""
    beside = link.with_name(f".{link.name}.new")
    if beside.is_symlink():
        beside.unlink()
    beside.symlink_to(target)
    beside.replace(link)
    _sync(link.parent)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        held = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return held if isinstance(held, dict) else None


def _write_json(path: Path, held: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w") as file:
        json.dump(held, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(str(folder), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _begin() -> NoReturn:
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    _begin()
