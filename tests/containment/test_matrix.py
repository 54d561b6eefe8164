"""Deckies attack the LAN and one another, with every capability they never have; nothing arrives, all of it is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Collection
from datetime import datetime
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from decnet_agent.containment.blocked import WINDOW_SECS
from decnet_agent.containment.frames import read_frame
from decnet_agent.containment.verifying import judge
from decnet_agent.engine.escaping import parse_attempts
from tests.containment.conftest import Ground
from tests.containment.ground import Capture, Machine, greets, wait_until

pytestmark = [pytest.mark.root]

UNKNOWN_MAC = "02:00:5e:99:99:99"
FENCE = """
import socket, sys
own, target = (bytes.fromhex(text.replace(":", "")) for text in sys.argv[1:3])
frame = target + own + b"\\x08\\x06" + bytes.fromhex("0001080006040002") + own + socket.inet_aton(sys.argv[3])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as channel:
    channel.bind(("eth0", 0))
    channel.send(frame + target + socket.inet_aton(sys.argv[4]) + sys.argv[5].encode())
"""
BY_THE_DRIVER = {"broadcast", "ipv6"}
"""Frames to everybody go from one macvlan to the next within the driver, which asks no rule; see the threat model."""
LIKE_THE_LANS = {"false-mac"}
"""Towards a decky on the same worker, a MAC that is nobody's may be any machine's of the LAN."""


def fence(machine: Machine, target: Machine, word: str) -> None:
    """Send a frame that may pass: what was sent before it has passed as well, or never will."""
    identity = (machine.mac, target.mac, str(machine.address), str(target.address), word)
    subprocess.run(machine.argv(sys.executable, "-S", "-c", FENCE, *identity), check=True)


def delivered(capture: Capture, macs: Collection[str], allowed: Machine) -> list[str]:
    """Return what arrived besides a decky's own ARP."""
    frames = [read_frame(data[:128]) for data in capture.from_mac(*macs)]
    return [
        f"{frame.protocol} {frame.source}/{frame.source_ip} -> {frame.target}/{frame.target_ip} {frame.target_port}"
        for frame in frames
        if frame is not None
        and (frame.protocol, frame.source, frame.source_ip) != ("arp", allowed.mac, allowed.address)
        and int(frame.target[:2], 16) & 1 == 0
    ]


def attack(ground: Ground, word: str) -> list[dict[str, Any]]:
    """Let one decky attack the LAN's victim; nothing may arrive there, and the LAN reaches both deckies."""
    a, b = ground.machines
    macs = (a.mac, b.mac, UNKNOWN_MAC)
    with Capture(ground.lan.attacker.netns) as capture:
        tried = a.attack(ground.victim, b)
        fence(a, ground.victim, word)
        capture.wait_for(lambda frame: word.encode() in frame)
        arrived = [frame for frame in delivered(capture, macs, a) if "ff:ff:ff" not in frame]
        everybody = [frame for frame in capture.from_mac(*macs) if frame[0] & 1 and frame[12:14] != b"\x08\x06"]
    assert (arrived, everybody) == ([], [])
    assert [attempt["name"] for attempt in tried if attempt["met"] == "answered"] == []
    assert greets(ground.lan, a.address)
    assert greets(ground.lan, b.address)
    return tried


def test_a_decky_is_told_nothing_of_what_holds_it_back(ground):
    met = {attempt["name"]: attempt["met"] for attempt in attack(ground, "first")}
    quiet = {"tcp": "timeout", "udp": "silence", "dns": "silence", "broadcast": "silence", "ping": "silence"}
    assert {name: met[name] for name in quiet} == quiet
    assert {met[name] for name in met.keys() - quiet} == {"sent"}


def test_every_attack_is_told_once_with_whose_it_was(ground):
    expected: set[tuple[str, ...]] = set()
    for attempt in attack(ground, "again"):
        protocol, target, port, reason = attempt["record"]
        decky = "b" if attempt["name"].startswith("sibling") else "a"
        expected.add((decky, protocol, target, "" if port < 0 else str(port), reason))

    def told() -> dict[tuple[str, ...], list[datetime]]:
        """Return when each attempt was told of, but for the sums at a window's end."""
        found: dict[tuple[str, ...], list[datetime]] = {}
        for event in ground.collector.blocked():
            if "sibling" in event.fields or "since" in event.fields:
                continue
            port = str(event.dst_port or event.fields.get("icmp_type", "")) if event.dst_ip != "ff02::1" else ""
            key = (event.decky, event.fields["protocol"], event.dst_ip or "", port, event.fields["reason"])
            found.setdefault(key, []).append(event.at)
        return found

    wait_until(lambda: expected <= told().keys(), f"record of {expected - told().keys()}")
    assert told().keys() == expected
    for (
        moments
    ) in told().values():  # again only after a minute, which a busy machine may take from one test to the next
        assert all((later - one).total_seconds() >= WINDOW_SECS for one, later in pairwise(moments))
    assert ground.collector.taps == 0


def test_one_decky_does_not_reach_another_on_the_same_worker(ground):
    a, b = ground.machines
    third = ground.victim
    with Capture(Path("/run/netns") / b.netns) as capture:
        tried = a.attack(b, third)
        fence(a, b, "sibling")
        capture.wait_for(lambda frame: b"sibling" in frame)
        arrived = delivered(capture, (a.mac,), a)
    assert arrived == []
    assert [attempt["name"] for attempt in tried if attempt["met"] == "answered"] == []
    ports = {
        attempt["record"][2]
        for attempt in tried
        if attempt["record"][0] in ("tcp", "udp") and attempt["record"][2] > 0
        if attempt["name"] not in BY_THE_DRIVER | LIKE_THE_LANS | {"sibling-mac", "sibling-syn"}
    }

    def told() -> set[int | None]:
        events = ground.collector.blocked()
        return {event.dst_port for event in events if event.decky == "a" and event.fields.get("sibling") == "b"}

    wait_until(lambda: ports <= told(), f"record of {ports - told()}")


def test_flushing_all_rules_lets_nothing_out(ground):
    subprocess.run(["nsenter", f"--net=/run/netns/{ground.worker}", "--", "nft", "flush", "ruleset"], check=True)
    attack(ground, "flushed")


def test_a_kill_lets_nothing_out_and_the_next_process_goes_on(ground):
    ground.containment.kill()
    attack(ground, "killed")
    ground.containment.start()
    wait_until(lambda: asyncio.run(ground.guard.state()) == "kernel", "word that deckies are contained")
    status = asyncio.run(ground.guard.status())
    assert status.enforcing
    assert [(each.name, each.pairs) for each in status.interfaces] == [(ground.lan.parent, 2)]
    attack(ground, "back")


def test_who_is_no_decky_any_more_may_say_nothing(ground):
    a, b = ground.machines
    asyncio.run(ground.guard.keep(ground.lan.parent, [a.pair]))
    assert greets(ground.lan, a.address)
    assert not greets(ground.lan, b.address, within_secs=0.5)
    asyncio.run(ground.guard.hold(ground.lan.parent, [b.pair]))
    assert greets(ground.lan, b.address)


def test_what_verify_attacks_with_is_held_and_on_record(ground):
    """The script itself; on a worker it runs in a container beside the decky."""
    a, target = ground.a, ground.victim
    script = files("decnet_agent.engine").joinpath("egress_probe.pl").read_text()
    with Capture(ground.lan.attacker.netns) as capture:
        done = subprocess.run(
            a.argv("perl", "-e", script, str(target.address), "41000"), capture_output=True, timeout=60, check=True
        )
        fence(a, target, "verified")
        capture.wait_for(lambda frame: b"verified" in frame)
        arrived = delivered(capture, (a.mac, UNKNOWN_MAC), a)
    assert arrived == []
    met = parse_attempts(done.stdout)
    assert met == {
        **dict.fromkeys(("tcp", "udp", "dns", "icmp"), "silence"),
        **dict.fromkeys(("raw-tcp", "raw-udp", "false-ip", "false-mac", "arp", "ipv6"), "sent"),
    }

    def told() -> set[int]:
        return {each.target_port for each in asyncio.run(ground.guard.status("a")).tried}

    wait_until(lambda: set(range(41000, 41006)) <= told(), "record of all six ports")
    tried = asyncio.run(ground.guard.status("a")).tried
    judged = {name: judge(how, tried, name, (target.address, 41000)) for name, how in met.items()}
    assert judged == dict.fromkeys(met, "held")
    assert judge("sent", [], "arp", (target.address, 41000)) == "got out"
    assert judge("silence", [], "tcp", (target.address, 41000)) == "unproven"
    assert judge("answered", tried, "tcp", (target.address, 41000)) == "got out"
