"""Tells, tried for real from the LAN and from a root shell, on two deckies of one fleet and on a plain container.

A tell that a decky shows is a failure, unless it is one that docs/threat-model.md names: what the engine or the kernel
forces on every container, and what contains the deckies.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from decnet_agent.contracts import makeup, read_contract
from tests.lab.image import CONTEXTS
from tests.stealth.conftest import Machines
from tests.stealth.machines import ACCOUNTS, DEPLOY, SERVICES
from tests.stealth.tells import INSIDE, OUTSIDE, TELLS, Verdict

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]

THREAT_MODEL = Path(__file__).parents[2] / "docs/threat-model.md"
Verdicts = dict[str, tuple[Verdict, Verdict, Verdict]]


@pytest.mark.parametrize("tells", [OUTSIDE, INSIDE], ids=["outside", "inside"])
def test_nothing_tells_that_could_be_avoided(verdicts: Verdicts, tells: tuple[object, ...]) -> None:
    told = {
        f"{tell.name} of {which}: {found.why}"
        for tell in TELLS
        if tell in tells and not tell.kept
        for which, found in zip(("one", "other"), verdicts[tell.name][:2], strict=True)
        if found.word != "pass"
    }
    assert told == set()


def test_the_probes_see_what_a_plain_container_shows(verdicts: Verdicts) -> None:
    told = {name for name, (_, _, control) in verdicts.items() if control.word == "fail"}
    assert told >= {
        "/.dockerenv",
        "PID 1",
        "cron runs",
        "empty histories",
        "few packages",
        "host name",
        "hosts file",
        "missing tools",
        "MAC of no maker or of the address",
        "no people",
        "nobody logged in before",
        "syslog and servers run",
    }


def test_what_stays_is_what_the_threat_model_names(verdicts: Verdicts) -> None:
    named = set(re.findall(r"^\| `([a-z0-9-]+)` \|", THREAT_MODEL.read_text(), re.MULTILINE))
    assert named == {tell.kept for tell in TELLS if tell.kept}
    assert len(TELLS) == len({tell.name for tell in TELLS}) >= 45
    assert all(tell.kept for tell in TELLS if tell.weight == "soft")
    assert all(not tell.kept for tell in OUTSIDE if tell.weight == "fail"), "no fail from outside is put up with"
    # what is excused is there, on one decky or the other: an excuse without need hides the next tell of its kind
    shown = {tell.kept for tell in TELLS if any(found.word != "pass" for found in verdicts[tell.name][:2])}
    assert {tell.kept for tell in TELLS if tell.kept} - shown <= UNSEEN_HERE


UNSEEN_HERE = {"profile"}
"""What depends on the worker: some kernels have no AppArmor."""


def test_sudo_works_for_who_may(machines: Machines) -> None:
    for machine in machines[:2]:
        assert DEPLOY.user in machine.seen["sudo"].rpartition(":")[2].split(",")
        done = machine.ssh(DEPLOY.user, DEPLOY.password, "sudo -S -p '' id -u", f"{DEPLOY.password}\n".encode())
        assert done.stdout.strip() == b"0", done


def test_deckies_are_what_their_contracts_say(machines: Machines) -> None:
    contracts = [read_contract(CONTEXTS / service) for service in SERVICES]
    wanted = makeup(contracts)
    for machine in machines[:2]:
        seen = machine.seen
        installed, programs = set(seen["installed"].split()), set(seen["programs"].splitlines())
        for contract in contracts:
            assert set(contract.packages) <= installed, contract.service
            assert contract.health.process in programs, contract.service
            assert machine.attacker.reaches(machine.address, contract.health.port), contract.service
        assert json.loads(seen["wire"])["ports"] == sorted(wanted.ports)
        # one number for all that it may ever have: no program inside gets more
        bounding = re.findall(r"CapBnd:\s*([0-9a-f]+)", seen["capabilities"])
        assert [int(mask, 16) for mask in bounding] == [sum(1 << CAPABILITIES[name] for name in wanted.capabilities)]
        # whoever can log in is in the spec
        assert set(seen["let-in"].split()) == {account.user for account in ACCOUNTS}


CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "NET_BIND_SERVICE": 10,
    "SYS_CHROOT": 18,
    "AUDIT_WRITE": 29,
}
"""Their bits. Source: capabilities(7), linux/capability.h."""
