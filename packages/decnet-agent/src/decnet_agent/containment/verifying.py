"""`decnet-agent containment verify`: attack from each decky, and hold what was met against what was kept back.

An attempt is held when nothing came back and the containment process has seen it blocked: a frame that got out is in
nobody's record. One of which there was no frame to block (the target does not answer for its address) proves nothing.
Whom to attack is the operator's to say; else it is the LAN's router and another decky of this worker.
Towards that one, a frame with a MAC that is nobody's is not tried: nothing can tell it from the LAN's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from decnet_agent.containment.channel import Guard, Tried
from decnet_agent.deploying.network_facts import network_facts
from decnet_agent.deploying.state import read_state
from decnet_agent.engine.contexts import image_tag
from decnet_agent.engine.escaping import try_to_escape
from decnet_agent.engine.labels import LABEL_DECKY, LABEL_IP, LABEL_SERVICES
from decnet_agent.engine.watch import EngineWatch, SeenContainer
from decnet_agent.settings import AgentSettings
from decnet_core.errors import ConfigError, ExitCode, NotFound

FIRST_PORT = 40_000
PORTS = 8
"""Each decky and target has ports of its own, so that the record tells their attempts apart."""

SEEN_SECS = 5.0
"""What was blocked is read within 0.1 s, on a busy worker within a second."""

_RECORDS: dict[str, tuple[str, int | None, int | None]] = {
    "tcp": ("tcp", 0, None),
    "udp": ("udp", 1, None),
    "raw-tcp": ("tcp", 2, None),
    "raw-udp": ("udp", 3, None),
    "false-ip": ("tcp", 4, None),
    "false-mac": ("tcp", 5, None),
    "dns": ("udp", None, 53),
    "icmp": ("icmp", None, 8),
    "arp": ("arp", None, None),
    "ipv6": ("icmpv6", None, None),
}
"""By attempt: protocol, and its place among the ports or the port itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one attempt: `result` is `held`, `got out` or `unproven`."""

    decky: str
    target: str
    attack: str
    met: str
    result: str


def verify(settings: AgentSettings, target: IPv4Address | None, *, as_json: bool) -> int:
    """Attack from every decky that runs, print what came of it, return the exit code.

    It is 0 when everything was held, 1 when something got out, 3 when something is unproven.

    Raises:
        NotFound: no decky runs.
        ConfigError: containment is off, or there is nobody to attack.
        Unavailable: the engine or the containment process does not answer.
    """
    if settings.containment == "off":
        raise ConfigError("Deckies are not contained here", "Remove `containment = off` from the configuration.")
    verdicts = asyncio.run(_verify(settings, target))
    results = {verdict.result for verdict in verdicts}
    out = sys.stdout.write
    if as_json:
        fields = Verdict.__slots__
        rows = [{field: getattr(verdict, field) for field in fields} for verdict in verdicts]
        out(json.dumps({"ok": results == {"held"}, "attempts": rows}, indent=2) + "\n")
    else:
        for verdict in verdicts:
            out(f"{verdict.result:<8} {verdict.decky:<24} -> {verdict.target:<16} {verdict.attack:<10} {verdict.met}\n")
        out(f"{len(verdicts)} attempts: {', '.join(sorted(results))}\n")
    if "got out" in results:
        return ExitCode.FAILED
    return ExitCode.PARTIAL if "unproven" in results else ExitCode.OK


async def _verify(settings: AgentSettings, target: IPv4Address | None) -> list[Verdict]:
    guard = Guard(settings.containment_socket)
    await guard.status()
    seen = await EngineWatch(settings.docker_host).containers(LABEL_DECKY)
    deckies = [item for item in seen if item.running and LABEL_IP in item.labels]
    if not deckies:
        raise NotFound("No decky runs here", "Deploy some first.")
    sets = {tuple(item.labels.get(LABEL_SERVICES, "").split(",")) for item in deckies}
    images = [settings.base_image, settings.rootfs_image, *(image_tag(services) for services in sorted(sets))]
    verdicts: list[Verdict] = []
    port = FIRST_PORT
    for decky in deckies:
        targets = list(_targets(settings, decky, deckies, target))
        if not targets:
            raise ConfigError("There is nobody to attack: no router is known, and no other decky", "Give --target.")
        for address, is_sibling in targets:
            before = (await guard.status(decky.labels[LABEL_DECKY])).tried
            met = await asyncio.to_thread(try_to_escape, settings.docker_host, images, decky.id, address, port)
            if is_sibling:
                met.pop("false-mac", None)
            verdicts += await _judge_all(guard, decky.labels[LABEL_DECKY], (address, port), met, before)
            port += PORTS
    return verdicts


def _targets(
    settings: AgentSettings, decky: SeenContainer, deckies: Sequence[SeenContainer], named: IPv4Address | None
) -> Iterator[tuple[IPv4Address, bool]]:
    addresses = {IPv4Address(item.labels[LABEL_IP]) for item in deckies}
    if named is not None:
        yield named, named in addresses
        return
    router = network_facts(settings, read_state(settings.state_directory)).gateway
    if router is not None:
        yield router, False
    sibling = next((IPv4Address(item.labels[LABEL_IP]) for item in deckies if item is not decky), None)
    if sibling is not None:
        yield sibling, True


def judge(
    met: str, tried: Sequence[Tried], attack: str, target: tuple[IPv4Address, int], before: Sequence[Tried] = ()
) -> str:
    """Judge an attempt: `held`, `got out` or `unproven`.

    Args:
        met: what it met.
        tried, before: what the decky is on record with, afterwards and before.
        attack: which attempt.
        target: whom, and the first port.
    """
    about = _record_of(attack, *target)
    frames = _frames(tried, about)
    is_seen = frames > 0 and frames != _frames(before, about)  # fewer, where a minute has ended in between
    if met == "answered" or (met == "sent" and not is_seen):
        return "got out"
    return "held" if is_seen else "unproven"


async def _judge_all(
    guard: Guard, decky: str, target: tuple[IPv4Address, int], met: dict[str, str], before: Sequence[Tried]
) -> list[Verdict]:
    """Wait until all is on record that was kept back, for a while."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SEEN_SECS
    while True:
        tried = (await guard.status(decky)).tried
        verdicts = [
            Verdict(decky, str(target[0]), name, how, judge(how, tried, name, target, before))
            for name, how in met.items()
        ]
        if all(verdict.result == "held" for verdict in verdicts) or loop.time() >= deadline:
            return verdicts
        await asyncio.sleep(0.1)


def _record_of(attack: str, target: IPv4Address, port: int) -> tuple[str, str, int | None]:
    """Return protocol, target and port under which an attempt is on record."""
    protocol, offset, fixed = _RECORDS[attack]
    address = "ff02::1" if attack == "ipv6" else str(target)
    return protocol, address, fixed if offset is None else port + offset


def _frames(tried: Sequence[Tried], about: tuple[str, str, int | None]) -> int:
    protocol, target, port = about
    return sum(
        each.frames
        for each in tried
        if (each.protocol, each.target_ip) == (protocol, target) and port in (None, each.target_port)
    )
