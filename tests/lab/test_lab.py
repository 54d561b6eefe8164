"""The lab itself: what it builds is real, it touches nothing else, and it leaves nothing behind, killed or not."""

from __future__ import annotations

import ctypes
import functools
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker.models.containers import Container
from docker.types import EndpointConfig, IPAMConfig, IPAMPool

from decnet_core.errors import Unavailable
from tests.lab import slots
from tests.lab.engine import LabEngine
from tests.lab.image import ensure_images
from tests.lab.lan import Lan
from tests.lab.lan import sweep as sweep_lans
from tests.lab.postgres import PostgresCluster
from tests.lab.processes import Daemon, free_port

CAPABILITIES = [
    "CHOWN",
    "SETUID",
    "SETGID",
    "SYS_CHROOT",
    "DAC_OVERRIDE",
    "FOWNER",
    "KILL",
    "NET_BIND_SERVICE",
    "AUDIT_WRITE",
]
MAC = "00:16:3e:5a:10:0b"
NAME = "files02"
LISTENING = "Server listening on 0.0.0.0"
TMPFS = {"/run": "mode=755,size=64m", "/run/lock": "mode=1777,size=5m"}
# What is told of one slot is looked at in slots that nobody takes who takes the first free one.
ENGINES = range(12, 16)
LANS = range(200, 255)
CLUSTERS = range(24, 32)
LINE = re.compile(r"<\d{1,3}>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00 (\S+) (\S+) (\d+|-) - - {1,2}(.*)")


@pytest.fixture(scope="module")
def decky(
    lab_engine: LabEngine, decky_image: str, lan: Lan, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """One SSH decky on the LAN: bob has a password and sudo, root has none."""
    client = lab_engine.client()
    pool = IPAMPool(subnet=str(lan.subnet), gateway=str(lan.host(1)))
    network = client.networks.create(
        "segment", driver="macvlan", ipam=IPAMConfig(pool_configs=[pool]), options={"parent": lan.parent}
    )
    endpoint = EndpointConfig("1.41", ipv4_address=str(lan.host(11)))
    made = client.api.create_container(
        decky_image,
        hostname=NAME,
        tty=True,
        mac_address=MAC,
        host_config=client.api.create_host_config(
            cap_drop=["ALL"],
            cap_add=CAPABILITIES,
            network_mode="segment",
            pids_limit=256,
            mem_limit="256m",
            tmpfs=TMPFS,
        ),
        networking_config=client.api.create_networking_config({"segment": endpoint}),  # type: ignore[arg-type]  # the stub forgets the mapping,
    )
    container = client.containers.get(made["Id"])
    container.put_archive("/", _identity(container, tmp_path_factory.mktemp("keys")))
    container.start()
    try:
        _wait_for(lambda: LISTENING in _console(container), "sshd")
        yield container
    finally:
        container.remove(force=True)
        network.remove()
        client.close()


@pytest.mark.docker
@pytest.mark.root
@pytest.mark.usefixtures("decky")
class TestDecky:
    def test_a_wrong_password_is_refused_and_logged_with_its_source(self, decky: Container, lan: Lan) -> None:
        assert lan.attacker.ssh(lan.host(11), "bob", "wrong", "id").returncode == 255
        text = _message(decky, "sshd", r"Failed password for bob from (\S+) port \d+ ssh2")
        assert text.group(1) == str(lan.attacker.address)

    def test_a_user_who_does_not_exist_is_logged_as_such(self, decky: Container, lan: Lan) -> None:
        assert lan.attacker.ssh(lan.host(11), "oracle", "oracle", "id").returncode == 255
        _message(decky, "sshd", r"Failed password for invalid user oracle from \S+ port \d+ ssh2")

    def test_a_session_is_logged_under_one_real_pid(self, decky: Container, lan: Lan) -> None:
        done = lan.attacker.ssh(lan.host(11), "bob", "s3cret", "echo $PPID; hostname; echo s3cret | sudo -S id -u")
        assert done.returncode == 0, done.stderr
        _, hostname, sudo_uid = done.stdout.decode().split()
        assert (hostname, sudo_uid) == (NAME, "0")
        accepted = _record(decky, "sshd", r"Accepted password for bob from \S+ port \d+ ssh2")
        assert accepted.group(1) == NAME
        pid = accepted.group(3)
        for ending in (r"session opened for user bob\(uid=1000\) by \(uid=0\)", r"session closed for user bob"):
            assert _record(decky, "sshd", rf"pam_unix\(sshd:session\): {ending}").group(3) == pid
        _message(decky, "sudo", r" *bob : PWD=/home/bob ; USER=root ; COMMAND=/usr/bin/id -u")

    def test_ping_works_as_on_any_server(self, lan: Lan) -> None:
        done = lan.attacker.ssh(lan.host(11), "bob", "s3cret", f"ping -c1 -W2 {lan.attacker.address}")
        assert done.returncode == 0, done.stdout + done.stderr

    def test_an_attacker_cannot_split_a_line(self, decky: Container, lan: Lan) -> None:
        forged = "<38>1 2026-01-01T00:00:00.000000+00:00 x sshd 1 - - Accepted password for forged"
        hostile = f"one\r\n{forged}\nthree\x1b[2J\x07"
        script = "import socket,sys; socket.socket(1,2).sendto(b'<13>evil[7]: '+sys.stdin.buffer.read(), '/dev/log')"
        command = f'python3 -c "{script}"'
        assert lan.attacker.ssh(lan.host(11), "bob", "s3cret", command, input=hostile.encode()).returncode == 0
        record = _record(decky, "evil", "one#015#012<38>1 .*#012three#033.*#007")
        assert record.group(3) != "7", "the pid is the kernel's, not the sender's claim"
        assert not [line for line in _lines(decky) if line.startswith(forged)]

    def test_nothing_inside_tells_what_made_it(self, lan: Lan) -> None:
        words = "decnet|decky|decoy|honeypot"
        command = f"env; ps -ef; mount; grep -rilE '{words}' /etc /usr/local /opt /root /home /var/log /srv 2>/dev/null"
        done = lan.attacker.ssh(lan.host(11), "bob", "s3cret", command)
        # the engine's storage folder shows in the overlay's own mount line: a path of the worker, not of the image
        seen = [line for line in done.stdout.decode().splitlines() if not line.startswith("overlay on / ")]
        assert not [line for line in seen if re.search(words, line, re.IGNORECASE) and "grep -rilE" not in line]
        assert any(re.search(r"\broot\s+1\s+0 .* init \[2\]", line) for line in seen)

    def test_the_image_holds_no_host_key(self, lab_engine: LabEngine, decky_image: str) -> None:
        client = lab_engine.client()
        try:
            found = client.containers.run(
                decky_image, ["sh", "-c", "ls /etc/ssh"], remove=True, network_mode="none", stdout=True
            )
        finally:
            client.close()
        assert b"sshd_config" in found
        assert b"ssh_host" not in found

    def test_an_engine_that_loads_the_images_has_the_names_of_one_that_built_them(self, lab_engine: LabEngine) -> None:
        tags = ["decky-rootfs:bookworm", "decky-base:bookworm", "decky-ssh:bookworm", "decky-ssh-telnet:bookworm"]
        client = lab_engine.client()

        def loaded() -> dict[str, str | None]:
            for tag in tags[:2]:
                client.images.remove(tag, noprune=True)
            ensure_images(lab_engine)
            return {tag: client.images.get(tag).id for tag in tags}

        try:
            kept = loaded()  # an engine of an earlier run may hold others that it once built from the same
            assert loaded() == kept
        finally:
            client.close()

    def test_a_scanner_sees_the_packaged_openssh(self, lan: Lan) -> None:
        done = lan.attacker.run(["nmap", "-n", "-sV", "-p22", "--version-light", "-oG", "-", str(lan.host(11))])
        assert b"22/open/tcp//ssh//OpenSSH 9.2p1 Debian" in done.stdout, done.stdout
        neighbours = lan.attacker.run(["ip", "neighbour", "show", str(lan.host(11))]).stdout
        assert MAC.encode() in neighbours

    def test_it_stops_at_once(self, decky: Container) -> None:
        started = time.monotonic()
        decky.stop()
        assert time.monotonic() - started < 5
        decky.start()

    def test_every_service_comes_back_after_a_restart(self, decky: Container, lan: Lan) -> None:
        for _ in range(3):
            starts = _console(decky).count(LISTENING)
            decky.restart()
            more = functools.partial(_starts_exceed, decky, starts)
            _wait_for(more, "sshd after a restart")
        assert lan.attacker.ssh(lan.host(11), "bob", "s3cret", "pidof rsyslogd cron sshd").returncode == 0


@pytest.mark.docker
@pytest.mark.root
class TestPlaces:
    def test_two_segments_never_collide_and_both_go(self) -> None:
        with Lan(places=LANS) as one, Lan(worker_host=2, places=LANS) as two:
            assert not one.subnet.overlaps(two.subnet)
            with socket.create_server((str(two.host(2)), 0)) as server:
                dial = f"import socket; socket.create_connection({server.getsockname()!r}, 5)"
                assert two.attacker.run([sys.executable, "-c", dial]).returncode == 0
                assert one.attacker.run([sys.executable, "-c", dial]).returncode != 0
            names = {one.parent, two.parent}
        assert not names & _places()

    def test_a_killed_owner_s_segment_is_removed_by_the_next(self) -> None:
        owner = _python(
            f"from tests.lab.lan import Lan; lan = Lan(places={LANS}); lan.start(); print(lan.parent, flush=True)"
        )
        assert owner.stdout is not None
        name = owner.stdout.readline().decode().strip()
        assert name in _places()
        sweep_lans()
        assert name in _places(), "its owner lives"
        _kill(owner)
        sweep_lans()
        assert name not in _places()

    @pytest.mark.slow
    @pytest.mark.parametrize("daemon_too", [False, True], ids=["run", "run and daemon"])
    def test_a_killed_engine_is_cleared_by_the_next(self, daemon_too: bool) -> None:
        owner = _python(
            "from tests.lab.engine import LabEngine; from tests.lab.image import ensure_images;"
            f"from tests.lab.lan import Lan; lan = Lan(); lan.start(); engine = LabEngine(places={ENGINES});"
            "engine.start();"
            "tag = ensure_images(engine); client = engine.client();"
            "client.networks.create('left', driver='macvlan', options={'parent': lan.parent});"
            "inside = client.containers.run(tag, detach=True, tty=True, network='left');"
            "pid = client.api.inspect_container(inside.id)['State']['Pid'];"
            "print(engine.place, engine.pid, pid, flush=True)"
        )
        assert owner.stdout is not None
        place, engine_pid, decky_pid = map(int, owner.stdout.readline().split())
        if daemon_too:
            os.kill(engine_pid, signal.SIGKILL)
        _kill(owner)
        sweep_lans()
        for _ in range(2):
            # it comes up in that very slot only when that is free again
            with LabEngine(places=range(place, place + 1)) as engine, Lan() as segment:
                assert not _runs(engine_pid)
                assert not _runs(decky_pid)
                client = engine.client()
                assert not client.containers.list(all=True)
                client.networks.create("left", driver="macvlan", options={"parent": segment.parent})
                client.close()
                second = engine.pid
            assert second is not None
            assert not _runs(second)

    def test_an_engine_leaves_the_machine_s_network_alone(self, lab_engine: LabEngine) -> None:
        assert lab_engine.docker_host.startswith("unix://")
        arguments = Path(f"/proc/{lab_engine.pid}/cmdline").read_bytes().split(b"\0")
        assert {b"--bridge=none", b"--iptables=false", b"--ip-forward=false"} <= set(arguments)
        # On a machine of its own, for on this one others make interfaces meanwhile.
        with Lan() as machine:
            before = _interfaces(machine)
            assert before == {"lo", "eth0"}
            with LabEngine(netns=machine.attacker.netns):
                assert _interfaces(machine) == before


class TestDaemon:
    def test_levels_are_waited_for(self, tmp_path: Path) -> None:
        port = free_port()
        argv = [
            sys.executable,
            "-u",
            "-m",
            "http.server",
            str(port),
            "--bind",
            "127.0.0.1",
            "--directory",
            str(tmp_path),
        ]
        (tmp_path / "page").write_text("hello")
        with Daemon(argv, log_path=tmp_path / "out" / "log") as daemon:
            daemon.wait_for_port(port)
            assert daemon.wait_for_http(f"http://127.0.0.1:{port}/page") == b"hello"
            assert daemon.wait_for_line(r"GET /(\w+)").group(1) == "page"
            first = daemon.pid
            daemon.kill()
            assert daemon.returncode == -signal.SIGKILL
            daemon.start()
            daemon.wait_for_port(port)
            assert daemon.pid != first
        assert not Path(f"/proc/{first}").exists()

    def test_a_daemon_that_dies_ends_the_wait_with_its_last_words(self, tmp_path: Path) -> None:
        argv = [sys.executable, "-c", "import sys; sys.exit('no such luck')"]
        with (
            Daemon(argv, log_path=tmp_path / "log") as daemon,
            pytest.raises(Unavailable, match="no such luck"),
        ):
            daemon.wait_for_line("ready", timeout_secs=60)

    def test_its_children_do_not_outlive_it(self, tmp_path: Path) -> None:
        script = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
        with Daemon([sys.executable, "-c", script], log_path=tmp_path / "log") as daemon:
            child = int(daemon.wait_for_line(r"^(\d+)$").group(1))
            daemon.kill()
            assert _runs(child)
        _wait_for(lambda: not _runs(child), "the end of its child")


@pytest.mark.postgres
class TestPostgres:
    def test_it_answers_and_goes(self) -> None:
        with PostgresCluster(places=CLUSTERS) as cluster:
            folder, pid = cluster.socket_folder, cluster.pid
            assert cluster.create_database() != cluster.create_database()
            assert f"host={folder}" in cluster.url()
        assert not folder.exists()
        assert not Path(f"/proc/{pid}").exists()

    def test_a_killed_run_s_server_ends_and_its_folder_is_cleared(self) -> None:
        owner = _python(
            f"from tests.lab.postgres import PostgresCluster; c = PostgresCluster(places={CLUSTERS}); c.start();"
            "print(c.pid, c.socket_folder, flush=True)"
        )
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().decode().split()
        _kill(owner)
        _wait_for(lambda: not _runs(int(pid)), "the server's end")
        place = int(folder.rpartition("-")[2])
        with PostgresCluster(places=range(place, place + 1)) as cluster:  # it comes up: its slot is free again
            assert str(cluster.socket_folder) == folder
        assert not Path(folder).exists()


def test_a_slot_belongs_to_one_owner_until_its_end(tmp_path: Path) -> None:
    mine = slots.claim(tmp_path, 3)
    assert mine is not None
    assert slots.claim(tmp_path, 3) is None
    assert [slot.number for slot in slots.free(tmp_path, range(2, 5))] == [2, 4]
    mine.release()
    again = slots.claim(tmp_path, 3)
    assert again is not None
    again.release()


def _identity(container: Container, folder: Path) -> bytes:
    """Return the archive that makes a container this decky: host keys, and bob with his password."""
    libcrypt = ctypes.CDLL("libcrypt.so.1")
    libcrypt.crypt_gensalt.restype = libcrypt.crypt.restype = ctypes.c_char_p
    hashed = libcrypt.crypt(b"s3cret", libcrypt.crypt_gensalt(b"$y$", 0, None, 0)).decode()
    files: dict[str, tuple[int, int, int, bytes]] = {}
    for kind in ("rsa", "ecdsa", "ed25519"):
        key = folder / f"ssh_host_{kind}_key"
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", kind, "-C", f"root@{NAME}", "-f", key], check=True)
        files[f"etc/ssh/{key.name}"] = (0o600, 0, 0, key.read_bytes())
        files[f"etc/ssh/{key.name}.pub"] = (0o644, 0, 0, key.with_suffix(".pub").read_bytes())
    files["etc/passwd"] = (0o644, 0, 0, _read(container, "/etc/passwd") + b"bob:x:1000:1000:,,,:/home/bob:/bin/bash\n")
    group = _read(container, "/etc/group").replace(b"sudo:x:27:", b"sudo:x:27:bob") + b"bob:x:1000:\n"
    files["etc/group"] = (0o644, 0, 0, group)
    shadow = _read(container, "/etc/shadow") + f"bob:{hashed}:20454:0:99999:7:::\n".encode()
    files["etc/shadow"] = (0o640, 0, 42, shadow)
    files["home/bob/.bashrc"] = (0o644, 1000, 1000, _read(container, "/etc/skel/.bashrc"))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        home = tarfile.TarInfo("home/bob")
        home.type, home.mode, home.uid, home.gid, home.mtime = tarfile.DIRTYPE, 0o755, 1000, 1000, time.time()
        archive.addfile(home)
        for name, (mode, uid, gid, content) in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.uid, entry.gid, entry.size, entry.mtime = mode, uid, gid, len(content), time.time()
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _read(container: Container, path: str) -> bytes:
    chunks, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        member = archive.extractfile(archive.getmembers()[0])
        assert member is not None
        return member.read()


def _console(container: Container) -> str:
    text: bytes = container.logs()
    return text.decode()


def _starts_exceed(container: Container, count: int) -> bool:
    return _console(container).count(LISTENING) > count


def _lines(container: Container) -> list[str]:
    return _console(container).split("\r\n")


def _record(container: Container, program: str, pattern: str) -> re.Match[str]:
    """Wait for a syslog line of a program whose whole text matches, and return its parts: host, program, pid, text."""
    found: list[re.Match[str]] = []

    def seen() -> bool:
        parts = [match for line in _lines(container) if (match := LINE.fullmatch(line))]
        found.extend(match for match in parts if match[2] == program and re.fullmatch(pattern, match[4]))
        return bool(found)

    _wait_for(seen, f"{program}: {pattern}")
    return found[-1]


def _message(container: Container, program: str, pattern: str) -> re.Match[str]:
    matched = re.fullmatch(pattern, _record(container, program, pattern).group(4))
    assert matched is not None
    return matched


def _wait_for(reached: Callable[[], object], level: str, timeout_secs: float = 20.0) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + timeout_secs
    while not reached():
        assert time.monotonic() < deadline, f"no {level} in {timeout_secs:g} s"
        pause.wait(0.05)


def _interfaces(machine: Lan) -> set[str]:
    """Return the names of the interfaces where the attacker of a segment is."""
    shown = machine.attacker.run(["ip", "-json", "link", "show"]).stdout
    return {str(link["ifname"]) for link in json.loads(shown)}


def _places() -> set[str]:
    return {path.name for folder in ("/run/netns", "/sys/class/net") for path in Path(folder).iterdir()}


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _python(code: str) -> subprocess.Popen[bytes]:
    """Start a process that holds a piece of the lab until it is killed."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", f"{code}; import signal; signal.pause()"], stdout=subprocess.PIPE, cwd=root
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
