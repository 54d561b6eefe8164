"""What goes wrong on real machines: bad configuration, ports in use, no engine, ended certificates, full disks.

A master and a worker whose agent finds no Docker engine, so nothing is deployed; events come in where the tap hands
them in. Each failure must say what happened and what to do, end with the documented exit code where it ends a program,
and lose nothing: what was offered while a disk was full is in the database exactly once when there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from decnet_agent.evidence.sender import EvidenceSender
from decnet_core.errors import ExitCode
from decnet_core.events import Event, EventType, Trust
from decnet_core.identity import MASTER, Identity, Role
from decnet_core.pki.authority import CertificateAuthority
from decnet_core.pki.certificates import make_csr
from decnet_core.pki.keystore import KeyStore
from decnet_master.store import Store
from tests.lab.site import WORKER, Site

pytestmark = [pytest.mark.root, pytest.mark.slow]

DISK_BYTES = 8 << 20
EVENTS = 2000
"""About 800 KiB of log: more than what the last pages and the database's own reserve still take on a full disk."""
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class NoLan:
    """Where deckies would live."""

    parent: str
    subnet: IPv4Network


NO_LAN = NoLan("lo", IPv4Network("10.255.255.0/24"))


@dataclass(frozen=True)
class Disk:
    """A small disk that can be filled."""

    path: Path

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        ballast = self.path / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 12))
        try:
            yield
        finally:
            ballast.unlink()


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Disk]]:
    folder = tmp_path_factory.mktemp("bad-days")
    made = {
        "journal": Disk(folder / "master" / "data" / "journal"),
        "database": Disk(folder / "database"),
        "event log": Disk(folder / "worker" / "log"),
    }
    with contextlib.ExitStack() as stack:
        for disk in made.values():
            disk.path.mkdir(parents=True)
            options = f"size={DISK_BYTES},mode=0700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "decnet-test", disk.path], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", disk.path], check=True)
        yield made


@pytest.fixture(scope="module")
def site(disks: dict[str, Disk]) -> Iterator[Site]:
    folder = disks["database"].path.parent
    url = f"sqlite:///{disks['database'].path}/decnet.sqlite3"
    _authority(folder)
    keys = {"database-url": url, "journal-min-free-mib": "1"}
    with Site(folder, "unix:///nowhere/docker.sock", NO_LAN, master_keys=keys) as site:
        yield site


def test_a_full_disk_under_the_journal_stops_acknowledging(site: Site, disks: dict[str, Disk]) -> None:
    with disks["journal"].full():
        tag = _offer_and_wait(site)
        told = _line(site.master, "journal.append_failed")
        assert "has 0 MiB left, and 1 must stay free" in told["reason"]
        assert told["advice"].startswith("Free space under the data-directory")
        status = json.loads(site.attempt("worker", ["decnet-logship", "status", "--json"]).stdout)
        assert status["backlog_bytes"] > 0
        overview = site.attempt("master", ["decnet-master", "status"])
        assert overview.returncode == ExitCode.UNAVAILABLE
        assert "its disk has 0 MiB left" in overview.stdout
        assert "Free space under" in _advice(overview.stderr)
        assert _stored(site, tag) == []
    _assert_all_arrive_once(site, tag)
    _line(site.master, "journal.append_recovered")


def test_a_listener_that_starts_on_a_full_disk_waits(site: Site, disks: dict[str, Disk]) -> None:
    with disks["journal"].full():
        tag = _offer_and_wait(site)
        site.master.stop()
        site.master.start()
        site.master.wait_for_http(f"{site.api_url}/livez", timeout_secs=60)
        assert _stored(site, tag) == []
    _assert_all_arrive_once(site, tag)


def test_a_full_disk_under_the_event_log_makes_the_sensors_wait(site: Site, disks: dict[str, Disk]) -> None:
    def blocked() -> None:
        told = _line(site.agent, "event_log.write_blocked")
        assert "no space" in told["reason"]
        assert told["advice"].startswith("Free some space")

    with contextlib.ExitStack() as stack:
        stack.enter_context(disks["event log"].full())

        def free() -> None:
            blocked()
            stack.close()

        tag = _offer_and_wait(site, meanwhile=free)
    _assert_all_arrive_once(site, tag)
    _line(site.agent, "event_log.write_resumed")


def test_a_full_disk_under_the_database_leaves_the_rows_in_the_journal(site: Site, disks: dict[str, Disk]) -> None:
    with disks["database"].full():
        tag = _offer_and_wait(site)
        told = _line(site.master, "database.awaited")
        assert "full" in told["reason"]
        assert told["advice"].startswith("Free space there")
        refused = site.attempt("master", ["decnet-master", "swarm", "enroll", "w9"])
        assert refused.returncode == ExitCode.RETRY_LATER, refused.stderr
        assert "Free space there" in refused.stderr
    _assert_all_arrive_once(site, tag)
    _line(site.master, "database.returned")


@pytest.mark.parametrize(
    ("side", "argv", "port"),
    [
        ("master", ["decnet-master", "api"], "api"),
        ("master", ["decnet-master", "swarmctl"], "controller"),
        ("master", ["decnet-master", "listener"], "listener"),
        ("worker", ["decnet-agent", "serve"], "agent"),
        ("worker", ["decnet-updater", "serve"], "updater"),
    ],
)
def test_a_port_in_use_is_named(side: str, argv: list[str], port: str, site: Site) -> None:
    done = site.attempt(side, argv)
    assert done.returncode == ExitCode.CONFLICT, done.stderr
    assert f"Another process listens on 127.0.0.1:{site.ports[port]}" in done.stderr
    assert f"{port}-address" in _advice(done.stderr)


def test_a_second_ingester_is_refused(site: Site) -> None:
    done = site.attempt("master", ["decnet-master", "ingester"])
    assert done.returncode == ExitCode.CONFLICT, done.stderr
    assert "Another ingester" in done.stderr


def test_an_agent_without_an_engine_answers_and_a_deploy_says_whose_fault_it_is(site: Site) -> None:
    checked = json.loads(site.master_cli("swarm", "check", "--json"))["results"]
    assert [(row["host"], row["ok"], row["engine"]) for row in checked] == [(WORKER, True, None)]
    assert "engine  does not answer" in site.run("worker", ["decnet-agent", "status"])
    failed = site.attempt("master", ["decnet-master", "deploy", "--count", "1"])
    assert failed.returncode == ExitCode.FAILED, failed.stdout + failed.stderr
    assert f"{WORKER}: Cannot list what the engine holds: no Docker engine answers at unix:///nowhere" in failed.stdout
    assert "systemctl start docker" in failed.stdout
    assert f"not {WORKER}" in failed.stderr
    assert _advice(failed.stderr)


@pytest.mark.parametrize("role", [Role.AGENT, Role.LOGSHIP, Role.UPDATER])
def test_an_ended_certificate_is_not_used(role: Role, site: Site, tmp_path: Path) -> None:
    _issue_in_the_past(site, tmp_path / "worker" / "data" / "identities", Identity(role, WORKER))
    done = _elsewhere(tmp_path, [f"decnet-{role}", "serve"])
    assert done.returncode == ExitCode.TRUST, done.stderr
    assert f"The certificate of {role}@{WORKER} expired at" in done.stderr
    advice = _advice(done.stderr)
    assert f"swarm decommission {WORKER}" in advice
    assert "decnet-agent join" in advice


def test_the_masters_ended_certificate_is_issued_anew_by_itself(site: Site) -> None:
    site.master.stop()
    _issue_in_the_past(site, site.folder / "master" / "data" / "identities", MASTER)
    site.master.start()
    _assert_all_arrive_once(site, _offer_and_wait(site))


def test_a_decommissioned_worker_is_refused_and_may_join_anew(site: Site) -> None:
    site.master_cli("swarm", "decommission", WORKER, "--yes")
    assert site.attempt("master", ["decnet-master", "swarm", "check"]).returncode == ExitCode.FAILED
    # a live connection is cut at the next look into the books
    site.agent.wait_until(lambda: "not active" in _last_error(site), "refusal in logship's status", timeout_secs=60)
    tag = _offer_and_wait(site)
    assert _stored(site, tag) == []
    token = json.loads(site.master_cli("swarm", "enroll", WORKER, "--json"))["token"]
    told = site.run("worker", ["decnet-agent", "join", "-"], text=token)
    assert f"This host is agent@{WORKER}" in told
    _assert_all_arrive_once(site, tag)


CONFIGURATIONS: dict[str, tuple[bytes | None, str]] = {
    "a directory": (None, "Cannot read"),
    "not UTF-8": (b"[decnet]\nlog-level = \xe9\n", "not UTF-8"),
    "garbage": (b"\x00\x01 no section\n", "not an INI file"),
    "an unknown key": (b"[decnet]\nlog-levle = info\n", "Did you mean 'log-level'?"),
    "an unknown section": (b"[mastr]\n", "Did you mean 'master'?"),
    "a value that does not fit": (b"[decnet]\nlog-level = loud\n", "log-level"),
}


@pytest.mark.parametrize("fault", CONFIGURATIONS)
@pytest.mark.parametrize(
    "command", ["decnet-master listener", "decnet-agent serve", "decnet-logship serve", "decnet-updater serve"]
)
def test_a_bad_configuration_is_explained(command: str, fault: str, tmp_path: Path) -> None:
    content, words = CONFIGURATIONS[fault]
    path = tmp_path / "worker" / "decnet.ini"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    done = Site(tmp_path, "unix:///nowhere", NO_LAN).attempt("worker", command.split())
    assert done.returncode == ExitCode.CONFIG, done.stderr
    assert str(path) in done.stderr
    assert words in done.stderr
    assert _advice(done.stderr)
    assert "Traceback" not in done.stderr


def _offer_and_wait(site: Site, meanwhile: Callable[[], None] = lambda: None) -> str:
    """Hand events in as a sensor does, and come back with their mark when the event log holds them."""
    tag = secrets.token_hex(4)

    async def offer() -> None:
        sender = EvidenceSender(site.folder / "worker" / "run" / "events.sock", f"test.{tag}")
        for number in range(EVENTS):
            sender.offer(
                Event(
                    at=datetime.now(UTC),
                    decky="d1",
                    service="ssh",
                    event_type=EventType.COMMAND_RUN,
                    trust=Trust.SENSOR,
                    source="",
                    cursor="",
                    src_ip="10.255.255.9",
                    fields={"command": f"echo {tag} {number}"},
                )
            )
        running = asyncio.create_task(sender.run())
        try:
            await asyncio.to_thread(meanwhile)
            async with asyncio.timeout(60):
                await sender.drained()
        finally:
            running.cancel()

    asyncio.run(offer())
    return tag


def _assert_all_arrive_once(site: Site, tag: str) -> None:
    site.master.wait_until(lambda: len(_stored(site, tag)) >= EVENTS, f"{EVENTS} rows of {tag}", timeout_secs=90)
    commands = _stored(site, tag)
    assert [command for command, count in Counter(commands).items() if count > 1] == []
    assert set(commands) == {f"echo {tag} {number}" for number in range(EVENTS)}


def _stored(site: Site, tag: str) -> list[str]:
    """The commands of a mark that are in the database, each as often as it is there."""

    async def read() -> list[str]:
        found: list[str] = []
        async with await Store.open(f"sqlite:///{site.folder}/database/decnet.sqlite3", connections=1) as store:
            seq = 0
            while rows := await store.events.page(after_seq=seq, limit=1000, event_type="command.run"):
                found += [row["fields"]["command"] for row in rows]
                seq = rows[-1]["seq"]
        return [command for command in found if tag in command]

    return asyncio.run(read())


def _line(daemon: Any, event: str) -> dict[str, Any]:
    """Wait for a line of a daemon's log and return it."""
    found = daemon.wait_for_line(rf'^.*"event": "{event}".*$', timeout_secs=60)
    return json.loads(found[0])


def _last_error(site: Site) -> str:
    return str(json.loads(site.attempt("worker", ["decnet-logship", "status", "--json"]).stdout)["last_error"])


def _authority(folder: Path) -> CertificateAuthority:
    """The site's CA, which is a week old."""
    path = folder / "master" / "data" / "ca"
    return CertificateAuthority.open_or_create(path, "DECNET CA", None, datetime.now(UTC) - 7 * _DAY)


def _issue_in_the_past(site: Site, identities: Path, identity: Identity) -> None:
    """Store an identity of the site's own CA that ended yesterday."""
    then = datetime.now(UTC) - 2 * _DAY
    authority = _authority(site.folder)
    store = KeyStore(identities)
    csr = make_csr(store.create_key(identity.role), identity)
    leaf = authority.issue(csr, identity, now=then, lifetime=_DAY)
    store.store(identity.role, leaf, authority.certificate_pem, then)


def _elsewhere(folder: Path, argv: list[str]) -> subprocess.CompletedProcess[str]:
    directories = "".join(f"{name}-directory = {folder / 'worker' / name}\n" for name in ("data", "log", "run"))
    (folder / "worker" / "decnet.ini").write_text(f"[decnet]\n{directories}")
    return Site(folder, "unix:///nowhere", NO_LAN).attempt("worker", argv)


def _advice(text: str) -> str:
    """What standard error says is to be done."""
    return text.partition("what to do: ")[2]
