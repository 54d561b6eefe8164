"""What a fleet of many workers costs the master: planning, sending, checking, hearing of them.

    python bench/swarm.py [--workers N] [--deckies N] [--db sqlite|postgres] [--folder F] [--json]

The controller is the real daemon with a real database, called as the operator's CLI calls it. The workers are real on
the wire (`simulated_workers`): own ports, own identities that the master's CA issued through `swarm enroll --out-dir`'s
route, mutual TLS, the agent's and the updater's own servers; only the deckies are names in a dictionary.

Two processors are shared by the controller and all the workers, and a handshake costs both sides the same. So the
limit of a check is measured beside it, in the same run: as many bare handshakes, with the same certificates at the same
ports and nothing said after them. Where others use the machine too, processor time says more than the clock: the
controller's own is told, and for the bare handshakes the caller's. Heartbeats are counted where they arrive, while the
controller is told to ask each worker every second, which is more often than it can where they are a thousand.

The last line printed is one JSON object. Exit codes: 0 measured, 69 a part is missing or somebody did not answer.
Whatever ends this program, the kernel ends its daemons, and a watcher on a pipe removes the folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a program of the checkout: it uses the lab's pieces

from bench.host import cpu_secs, peak_mib, removed_at_the_end  # noqa: E402
from bench.simulated_workers import identity_files  # noqa: E402
from decnet_core import logs  # noqa: E402
from decnet_core.errors import DecnetError, ExitCode, Unavailable  # noqa: E402
from decnet_core.identity import WORKER_ROLES, Identity, Role  # noqa: E402
from decnet_core.pki import certificates  # noqa: E402
from decnet_core.pki.keystore import KeyStore  # noqa: E402
from decnet_core.pki.tls import IdentityFiles, client_context  # noqa: E402
from decnet_master import installation, secret_files  # noqa: E402
from decnet_master.planning import Candidate, FleetRequest, plan_deploy  # noqa: E402
from decnet_master.settings import MasterSettings  # noqa: E402
from tests.lab.postgres import PostgresCluster  # noqa: E402
from tests.lab.processes import Daemon, free_port  # noqa: E402

PATIENCE_SECS = 300.0  # any one answer; none should take a tenth of it
RUNS = 3  # of a check, and of what it is held against: the median counts
HANDSHAKES_AT_ONCE = 128  # as many as the controller has under way
ENROLLED_AT_ONCE = 8
MASTER_ADDRESS = "127.0.0.2"  # thousands of ports of 127.0.0.1 are the workers' and their callers'
HEARTBEATS_SECS = 10.0  # counted for so long


class Workers:
    """The process with the workers."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.simulated_workers", str(folder), str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.ports: dict[str, list[int]] = self._read()

    def ask(self, word: str) -> dict[str, Any]:
        """Tell the process to do something and return its answer.

        Raises:
            Unavailable: it ended.
        """
        assert self._process.stdin is not None  # noqa: S101 -- a pipe, see above
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 -- as above
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable("The process with the workers ended", "Read what it said.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--deckies", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work; default: /tmp")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logs.configure("bench", level="warning")
    folder = Path(tempfile.mkdtemp(prefix="decnet-bench-", dir=arguments.folder))
    say: Callable[[str], None] = (lambda _: None) if arguments.json else lambda line: print(f"==> {line}", flush=True)
    with removed_at_the_end(folder), ExitStack() as running:
        try:
            url = None
            if arguments.db == "postgres":
                url = running.enter_context(PostgresCluster(durable=True)).create_database()
            settings = _installed(folder, url)
            with _workers(folder / "workers", arguments.workers) as workers:
                with _controller(settings, folder) as daemon:
                    result = asyncio.run(measured(settings, daemon, workers, deckies=arguments.deckies, say=say))
                with _controller(settings, folder, heartbeat_secs="1") as daemon:
                    result |= heard(daemon, workers, say)
        except (DecnetError, httpx.HTTPError) as error:
            print(f"error: {getattr(error, 'message', None) or repr(error)}", file=sys.stderr)
            return ExitCode.UNAVAILABLE
    print(json.dumps({"workers": arguments.workers, "deckies": arguments.deckies, "db": arguments.db} | result))
    return 0


def _installed(folder: Path, database_url: str | None) -> MasterSettings:
    """Install a master."""
    addresses = {name: f"{MASTER_ADDRESS}:{free_port()}" for name in ("controller_address", "enrolment_address")}
    settings = MasterSettings.load(
        data_directory=folder / "master",
        public_address=addresses["enrolment_address"],
        database_url=database_url,
        **addresses,
    )
    asyncio.run(installation.install(settings))
    return settings


@contextmanager
def _controller(settings: MasterSettings, folder: Path, **more: str) -> Iterator[Daemon]:
    """Run the controller, as it is or with something set otherwise."""
    names = ("data_directory", "controller_address", "enrolment_address", "public_address", "database_url")
    values = {name: str(getattr(settings, name)) for name in names if getattr(settings, name) is not None} | more
    environment = {f"DECNET_{name.upper()}": value for name, value in values.items()}
    environment |= {"DECNET_CONFIG": os.devnull, "DECNET_LOG_OUTPUT": "stderr"}
    argv = [sys.executable, "-m", "decnet_master", "swarmctl"]
    with Daemon(argv, log_path=folder / "swarmctl.out", env=environment) as daemon:
        port = int(settings.controller_address.rpartition(":")[2])
        daemon.wait_for_port(port, host=MASTER_ADDRESS, timeout_secs=60)
        yield daemon


@contextmanager
def _workers(folder: Path, count: int) -> Iterator[Workers]:
    workers = Workers(folder, count)
    try:
        yield workers
    finally:
        workers.close()


async def measured(
    settings: MasterSettings, daemon: Daemon, workers: Workers, *, deckies: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Enrol, plan, deploy, check; return what each took.

    Raises:
        Unavailable: somebody did not answer, or not as it should be.
    """
    secret = secret_files.read(settings.controller_secret_file)
    async with httpx.AsyncClient(
        base_url=f"http://{settings.controller_address}",
        headers={"authorization": f"Bearer {secret}"},
        trust_env=False,
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        timeout=PATIENCE_SECS,
    ) as controller:
        enrol_secs = await _timed(lambda: enrol(controller, workers))
        up = await asyncio.to_thread(workers.ask, "serve")
        say(f"{up['workers']} workers enrolled in {enrol_secs:.1f} s; their process has {up['rss_mib']} MiB")
        used_secs = time.process_time()
        plan_secs = planned(list(workers.ports), deckies)
        plan_cpu_secs = time.process_time() - used_secs
        say(f"{deckies} deckies planned in {plan_secs:.2f} s")
        began, used_secs = time.monotonic(), cpu_secs(daemon.pid)
        reply = await _post(controller, "/fleet/deploy", {"count": deckies})
        ended = time.monotonic()
        deploy_cpu_secs = cpu_secs(daemon.pid) - used_secs
        if not all(row["ok"] for row in reply["results"]):
            raise Unavailable(f"The deploy failed: {[row for row in reply['results'] if not row['ok']][:3]}")
        came = await asyncio.to_thread(workers.ask, "shards")
        if came["running"] != deckies:
            raise Unavailable(f"{came['running']} of {deckies} deckies run")
        say(f"deployed in {ended - began:.1f} s, the first worker told after {came['first_at'] - began:.1f} s")
        used_secs = cpu_secs(daemon.pid)
        check_secs = statistics.median(
            [await _timed(lambda: check(controller, len(workers.ports))) for _ in range(RUNS)]
        )
        check_cpu_secs = (cpu_secs(daemon.pid) - used_secs) / RUNS
        used_secs = time.process_time()
        bare_secs = statistics.median([await _timed(lambda: shake_hands(settings, workers.ports)) for _ in range(RUNS)])
        bare_cpu_secs = (time.process_time() - used_secs) / RUNS
        say(f"checked in {check_secs:.1f} s; as many bare handshakes take {bare_secs:.1f} s")
    return {
        "enrol_secs": round(enrol_secs, 2),
        "plan_secs": round(plan_secs, 3),
        "plan_cpu_secs": round(plan_cpu_secs, 3),
        "deploy_secs": round(ended - began, 2),
        "dispatch_secs": round(ended - came["first_at"], 2),
        "deploy_cpu_secs": round(deploy_cpu_secs, 2),
        "check_secs": round(check_secs, 2),
        "check_cpu_secs": round(check_cpu_secs, 2),
        "bare_handshakes_secs": round(bare_secs, 2),
        "bare_handshakes_cpu_secs": round(bare_cpu_secs, 2),
        "check_ratio": round(check_secs / bare_secs, 2),
        "rss_mib": peak_mib(daemon.pid),
        "workers_rss_mib": came["rss_mib"],
        "cores": os.cpu_count(),
    }


async def enrol(controller: httpx.AsyncClient, workers: Workers) -> None:
    """Enrol every worker with keys made here, as `swarm enroll --out-dir` does, and lay its identities down."""
    turn = asyncio.Semaphore(ENROLLED_AT_ONCE)

    async def one(name: str) -> None:
        keys = {role: certificates.generate_key() for role in WORKER_ROLES}
        csrs = {role: certificates.make_csr(key, Identity(role, name)).decode() for role, key in keys.items()}
        body = {"name": name, "address": "127.0.0.1", "csrs": csrs}
        body |= dict(zip(("agent_port", "updater_port"), workers.ports[name], strict=True))
        async with turn:
            bundle = await _post(controller, "/hosts/bundle", body)
        for role in (Role.AGENT, Role.UPDATER):
            files = identity_files(workers.folder, name, role)
            files.key.parent.mkdir(parents=True)
            files.key.touch(mode=0o600)
            files.key.write_bytes(certificates.key_pem(keys[role]))
            files.certificate.write_text(bundle["certificates"][role])
            files.ca.write_text(bundle["ca_pem"])

    await asyncio.gather(*map(one, workers.ports))


def heard(daemon: Daemon, workers: Workers, say: Callable[[str], None]) -> dict[str, Any]:
    """Count the heartbeats of a controller that asks as often as it can, once it has got going.

    Raises:
        Unavailable: it asks nobody.
    """
    before = workers.ask("asked")["times"]
    daemon.wait_until(
        lambda: workers.ask("asked")["times"] >= before + len(workers.ports), "heartbeats", timeout_secs=PATIENCE_SECS
    )
    first, used_secs = workers.ask("asked"), cpu_secs(daemon.pid)
    time.sleep(HEARTBEATS_SECS)
    last, used_secs = workers.ask("asked"), cpu_secs(daemon.pid) - used_secs
    beats_per_s = (last["times"] - first["times"]) / (last["at"] - first["at"])
    say(f"{beats_per_s:.0f} heartbeats a second")
    return {
        "heartbeats_per_s": round(beats_per_s, 1),
        "heartbeat_cpu_ms": round(1000 * used_secs / max(last["times"] - first["times"], 1), 2),
        "heartbeats_rss_mib": peak_mib(daemon.pid),
    }


def planned(hosts: list[str], deckies: int) -> float:
    """Plan the fleet as the controller does, and say how long that took; nothing is sent."""
    candidates = list(map(Candidate, hosts))
    began = time.monotonic()
    placed = plan_deploy(FleetRequest(deckies), candidates, (), secrets.randbits(64))
    secs = time.monotonic() - began
    if len(placed) != deckies:
        raise Unavailable(f"{len(placed)} of {deckies} deckies were placed")
    return secs


async def check(controller: httpx.AsyncClient, count: int) -> None:
    """Ask all workers how they are, and insist that all are well."""
    results = (await _post(controller, "/hosts/check", None))["results"]
    if len(results) != count or not all(row["ok"] and row["updater_ok"] for row in results):
        raise Unavailable(f"The check failed: {[row for row in results if not row['ok']][:3]}")


async def shake_hands(settings: MasterSettings, ports: Mapping[str, list[int]]) -> None:
    """Shake hands with every worker's agent and updater with the master's identity, and hang up."""
    files = KeyStore(settings.identities_directory).in_use(Role.MASTER)
    assert files is not None  # noqa: S101 -- the controller runs on it
    context = client_context(IdentityFiles(files / "key.pem", files / "cert.pem", files / "ca.pem"), files / "ca.pem")
    turn = asyncio.Semaphore(HANDSHAKES_AT_ONCE)

    async def one(name: str, port: int) -> None:
        async with turn, asyncio.timeout(PATIENCE_SECS):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
            writer.transport.abort()

    await asyncio.gather(*(one(name, port) for name, both in ports.items() for port in both))


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.monotonic()
    await work()
    return time.monotonic() - began


async def _post(controller: httpx.AsyncClient, path: str, body: object) -> dict[str, Any]:
    answer = await controller.post(path, json=body)
    if answer.is_error:
        raise Unavailable(f"The controller answered {answer.status_code} to {path}: {answer.text[:300]}")
    document: dict[str, Any] = answer.json()
    return document


if __name__ == "__main__":
    sys.exit(main())
