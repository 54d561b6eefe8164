"""An operator on a machine of its own: no file of the master's there, every verb over mutual TLS, refusals in words."""

from __future__ import annotations

import asyncio
import hashlib
import json
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer.main

from decnet_core.enrolment import JoinToken
from decnet_core.identity import MASTER, Identity, Role
from decnet_core.pki.certificates import certificate_pem, fingerprint, generate_key, make_csr, public_key_fingerprint
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import server_context
from decnet_master.cli import program
from decnet_master.enrolment.issuer import Issuer
from decnet_master.settings import MasterSettings
from decnet_master.store import IssuedCertificate, Store
from decnet_master.swarmctl import app as swarmctl
from tests.cli.conftest import Cli, Done
from tests.lab.processes import free_port
from tests.pki.world import Ca, Echo, lay_down
from tests.swarm.agents import joined
from tests.swarm.bundled import fill
from tests.swarm.master import Template, port_of, running
from tests.swarm.operators import ADDRESS

WAIT_SECS = 60.0
ALICE = Identity(Role.OPERATOR, "alice")

pytestmark = pytest.mark.slow  # a controller over mutual TLS, and some forty commands


class House:
    """A master that serves operators elsewhere, and the machine of one."""

    def __init__(self, settings: MasterSettings, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.app = swarmctl.build(settings)
        self.settings = settings
        self.folder = folder
        self.master = Cli(folder, {"controller": port_of(self.app.controller_socket)}, capsys)
        self.master.configure()
        assert self.app.operator_socket is not None
        self.url = f"https://127.0.0.2:{port_of(self.app.operator_socket)}"
        (folder / "laptop").mkdir()
        self.laptop = Cli(folder / "laptop", {}, capsys)
        self.keys = folder / "laptop" / "keys"
        self.laptop.configure(operator_directory=self.keys, swarmctl_url=self.url)

    async def hers(self, *arguments: str) -> Done:
        """Run a verb on the operator's machine, beside the loop that serves it."""
        return await asyncio.to_thread(self.laptop, *arguments)

    async def his(self, *arguments: str) -> Done:
        """Run one on the master."""
        return await asyncio.to_thread(self.master, *arguments)

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    async def let_in(self) -> None:
        """Let alice in, as people do."""
        request = await self.hers("operator", "request", "alice")
        assert request.code == 0, request
        signed = await self.his("operator", "sign", "alice", self.file("request.pem", request.out))
        assert signed.code == 0, signed
        assert "alice may steer this master until" in signed.err
        installed = await self.hers("operator", "install", self.file("grant.pem", signed.out))
        assert installed.code == 0, installed
        assert "You are the operator alice until" in installed.out


@pytest.fixture
async def house(template: Template, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[House]:
    settings = template.copy(tmp_path).model_copy(update={"operator_address": ADDRESS})
    house = House(settings, tmp_path, capsys)
    with structlog.testing.capture_logs():  # the daemon's, which would stand among a verb's words
        async with running(house.app):
            yield house


def verbs_with_a_url(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Name all verbs that ask the controller."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from verbs_with_a_url(below, (*path, name))
    elif any("--url" in parameter.opts for parameter in command.params):
        yield path


def private_keys(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.rglob("key.pem")}


async def test_every_verb_that_asks_the_controller_does_so_from_elsewhere(house: House) -> None:
    await house.let_in()
    assert not private_keys(house.keys) & private_keys(house.settings.data_directory)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in house.keys.rglob("key.pem"))
    assert not (house.folder / "laptop" / "data").exists(), "no file of the master's, above all not its secret"
    assert (await house.his("bundle", "build", "--wheels", str(fill(house.folder / "wheels")))).code == 0
    fleet = house.file("fleet.toml", '[[decky]]\nname = "vault-01"\nsometimes = ["telnet"]\n')
    asked = set()

    async def run(*arguments: str, code: int = 0) -> Done:
        done = await house.hers(*arguments)
        assert done.code == code, (arguments, done)
        asked.add(arguments)
        return done

    async with AsyncExitStack() as stack:
        token = json.loads((await run("swarm", "enroll", "w1", "--json")).out)["token"]
        agent = await stack.enter_async_context(joined(JoinToken.parse(token), house.folder / "workers"))
        assert "decnet-agent join" in (await run("swarm", "enroll", "w2", "--label", "site=hq")).out
        await run("swarm", "enroll", "w3", "--out-dir", str(house.folder / "laptop" / "w3"))
        assert "printf %s 'decnet-join." in (await run("swarm", "enroll", "w4", "--bootstrap")).out
        listed = json.loads((await run("swarm", "list", "--json")).out)["hosts"]
        assert [host["status"] for host in listed] == ["active", "enrolled", "active", "enrolled"]
        tokens = json.loads((await run("swarm", "tokens", "list", "--json")).out)["tokens"]
        await run("swarm", "tokens", "revoke", next(one["id"] for one in tokens if one["host"] == "w2"))
        await run("swarm", "label", "w1", "site=lab")
        await run("swarm", "set", "w1", "--capacity", "40")
        await run("swarm", "decommission", "w3", "--yes")
        await run("swarm", "check")
        assert "1 to add" in (await run("deploy", "--count", "1", "--dry-run")).out
        await run("deploy", "--count", "1", "--name-prefix", "web")
        await run("apply", fleet)
        assert agent.running.keys() == {"web-01", "vault-01"}
        await run("mutate", "vault-01", "--force", "--yes")
        await run("reset", "vault-01", "--yes")
        shown = json.loads((await run("deckies", "--state", "running", "--json")).out)["deckies"]
        offered = {decky["name"]: decky["services"] for decky in shown}
        assert offered == {"web-01": ["ssh"], "vault-01": ["ssh", "telnet"]}
        whole = json.loads((await run("swarm", "show", "w1", "--json")).out)
        assert (whole["host"]["labels"], whole["host"]["capacity"]) == ({"site": "lab"}, 40)
        assert {decky["name"] for decky in whole["deckies"]} == {"web-01", "vault-01"}
        assert datetime.fromisoformat(whole["certificate_ends_at"]) > datetime.now(UTC)
        words = (await run("swarm", "show", "w1")).out
        assert all(word in words for word in ("active", "site=lab", "40 deckies at most", "web-01", "running")), words
        await run("swarm", "show", "w9", code=4)
        status = json.loads((await run("status", "--json")).out)
        assert {part: row["ok"] for part, row in status.items()} == {"controller": True, "swarm": True, "deckies": True}
        assert status["deckies"]["detail"] == "2 of 2 deckies running"
        await run("teardown", "vault-01", "--yes")
        assert agent.running.keys() == {"web-01"}
    digest, evidence = hashlib.sha256(b"evidence").hexdigest(), house.settings.data_directory / "artifacts"
    (evidence / digest[:2]).mkdir()
    (evidence / digest[:2] / digest).write_bytes(b"evidence")
    await run("artifacts", "list")
    fetched = house.folder / "laptop" / "evidence"
    await run("artifacts", "fetch", digest, "--out", str(fetched))
    assert fetched.read_bytes() == b"evidence"
    await run("pki", "status")
    await run("pki", "rotate", "--yes")
    assert "workers still depend on the old CA: w1" in (await run("pki", "retire", "--yes", code=5)).err
    await run("operator", "renew")
    await run("pki", "retire", "--force", "--yes")
    (alice,) = json.loads((await run("operator", "list", "--json")).out)["operators"]
    assert (alice["name"], alice["certificates"], alice["revoked_at"]) == ("alice", 2, None)
    refused = await house.hers("operator", "sign", "mallory", house.file("r.pem", "x"))
    assert (refused.code, "let in on the master alone" in refused.err) == (77, True)
    await run("swarm", "decommission", "w1", "--yes")
    assert "its worker was decommissioned" in (await run("deckies", "--state", "unknown")).out
    await run("operator", "revoke", "alice", "--yes")
    every = set(verbs_with_a_url(typer.main.get_command(program._application())))
    assert len(every) > 20
    assert {verb for verb in every if not any(one[: len(verb)] == verb for one in asked)} == set()

    for verb in (("swarm", "list"), ("status",), ("deploy", "--count", "1"), ("operator", "renew")):
        cut = await house.hers(*verb)
        assert cut.code == 77, cut
        assert "operator@alice is not let in here" in cut.err


async def test_refusals_have_their_words_and_codes(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = await house.hers("swarm", "list")
    assert (none.code, "no operator identity" in none.err) == (77, True)
    assert "decnet-master operator request" in none.err
    await house.let_in()
    for verb in (("swarm", "list"), ("deploy", "--count", "1"), ("status",)):
        away = await house.hers(*verb, "--url", f"https://127.0.0.3:{free_port()}")
        assert away.code == 69, away
    monkeypatch.setenv("DECNET_SWARMCTL_URL", "http://192.0.2.1:8770")
    assert (await house.hers("swarm", "list")).code == 78
    monkeypatch.setenv("DECNET_SWARMCTL_URL", house.url + "/")
    assert (await house.hers("swarm", "list")).code == 0
    monkeypatch.delenv("DECNET_SWARMCTL_URL")

    # Somebody else answers, with another CA or with another name.
    ca = Ca.make(name="DECNET CA")
    issuing = Issuer.open(house.settings, datetime.now(UTC)).authorities.issuing
    ours = Ca(issuing._key, issuing.certificate)
    for number, files in enumerate(
        (ca.files(tmp_path / "impostor", MASTER), ours.files(tmp_path / "w", Identity(Role.AGENT, "w1")))
    ):
        async with Echo(server_context(files)) as impostor:
            told = await house.hers("swarm", "list", "--url", f"https://127.0.0.1:{impostor.port}")
        assert told.code == 77, (number, told)
        assert "is not the master of this operator's CA" in told.err

    # A key that others may read, and a certificate that has ended.
    key = (house.keys / "operator").resolve() / "key.pem"
    key.chmod(0o644)
    open_to_all = await house.hers("swarm", "list")
    assert (open_to_all.code, "may be used by others" in open_to_all.err) == (77, True)
    key.chmod(0o600)
    old, key = house.keys / "operator.0123456789abcdef", generate_key()
    named = {"cn": str(ALICE), "uris": [f"decnet:{ALICE}"], "dns": []}
    lay_down(old, key, ours.forge(key, at=datetime.now(UTC) - timedelta(days=9), **named), ours.pem)
    (house.keys / "operator").unlink()
    (house.keys / "operator").symlink_to(old.name)
    ended = await house.hers("swarm", "list")
    assert (ended.code, "expired at" in ended.err) == (77, True)
    assert "decnet-master operator request" in ended.err
    await house.let_in()
    assert (await house.hers("swarm", "list")).code == 0


async def test_the_masters_own_status_looks_at_the_door(house: House) -> None:
    for address, ok in ((house.url.removeprefix("https://"), True), (f"127.0.0.3:{free_port()}", False)):
        house.master.configure(operator_address=address)
        async with asyncio.timeout(WAIT_SECS):  # a probe gives a busy machine three seconds
            while (parts := json.loads((await house.his("status", "--json")).out))["operators"]["ok"] != ok:
                pass
        assert ("nothing answers" in parts["operators"]["detail"]) == (not ok), parts


async def test_a_certificate_that_is_due_is_renewed_by_the_next_command(house: House) -> None:
    now = datetime.now(UTC)
    issuing = Issuer.open(house.settings, now).authorities.issuing
    store = KeyStore(house.keys)
    key = store.create_key(Role.OPERATOR)
    named = {"cn": str(ALICE), "uris": [f"decnet:{ALICE}"], "dns": []}
    leaf = Ca(issuing._key, issuing.certificate).forge(key, at=now - timedelta(hours=18), **named)  # ends in six of 48
    pem = certificate_pem(leaf)
    due = store.store(Role.OPERATOR, pem, issuing.certificate_pem, now)
    issued = IssuedCertificate(
        fingerprint(leaf), str(ALICE), due.not_after, "1", public_key_fingerprint(key.public_key()), "ca", pem.decode()
    )
    async with await Store.open(house.settings.database) as books:
        await books.operators.let_in("alice", issued.key_digest, now, lambda: issued)
        assert (await house.hers("swarm", "list")).code == 0
        renewed = store.load(Role.OPERATOR, now)
        assert renewed.fingerprint != due.fingerprint
        assert renewed.not_after - now > timedelta(days=29), "operator-hours"
        for _ in range(2):
            assert (await house.hers("swarm", "list")).code == 0
        assert store.load(Role.OPERATOR, now) == renewed, "once is enough"
        (alice,) = await books.operators.list(now)
        assert alice.certificates == 2


async def test_what_is_not_installed(house: House, tmp_path: Path) -> None:
    await house.let_in()
    before = KeyStore(house.keys).load(Role.OPERATOR, datetime.now(UTC))
    request = await house.hers("operator", "request", "alice")
    again = await house.hers("operator", "request", "alice")
    assert (request.code, again.code) == (0, 0)
    issuing = Issuer.open(house.settings, datetime.now(UTC)).authorities.issuing
    ca = Ca(issuing._key, issuing.certificate)
    files = ca.files(tmp_path / "elsewhere", ALICE)
    worker = ca.files(tmp_path / "w1", Identity(Role.AGENT, "w1"))
    answers = {
        "nothing": ("", 1),
        "no certificate": ("nonsense", 1),
        "no CA": (files.certificate.read_text(), 1),
        "of another key": (files.certificate.read_text() + ca.pem.decode(), 77),
        "of another CA": (files.certificate.read_text() + Ca.make().pem.decode(), 77),
        "of a worker": (worker.certificate.read_text() + ca.pem.decode(), 77),
    }
    for what, (answer, code) in answers.items():
        refused = await house.hers("operator", "install", house.file("answer.pem", answer))
        assert refused.code == code, (what, refused)
    assert KeyStore(house.keys).load(Role.OPERATOR, datetime.now(UTC)) == before
    assert (await house.hers("swarm", "list")).code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["operator", "request", "Alice"], 2),
        (["operator", "request", "a" * 56], 2),
        (["operator", "sign", "alice", "/nowhere"], 78),
        (["operator", "revoke", "a b", "--yes"], 2),
    ],
)
def test_wrong_usage(cli: Cli, arguments: list[str], code: int) -> None:
    done = cli(*arguments)
    assert done.code == code, done


def test_a_request_holds_no_key(cli: Cli) -> None:
    cli.configure(operator_directory=cli.folder / "keys")
    done = cli("operator", "request", "alice")
    assert done.code == 0
    assert done.out.startswith("-----BEGIN CERTIFICATE REQUEST-----\n")
    assert "PRIVATE" not in done.out + done.err
    assert make_csr(KeyStore(cli.folder / "keys").create_key(Role.OPERATOR), ALICE).startswith(b"-----BEGIN")
