"""Ask the LAN who has an address, from a container that lives for a second.

Only a packet socket can probe an address as RFC 5227 wants it (nothing is claimed, so nobody's cache is changed) and
on an interface where this host has no address of its own, which is how a LAN of decoys is best connected. The agent may
not open one, and holds the engine's socket, so it shall parse nothing that an attacker sent. `arp_probe.pl` does both,
in a container with the host's network, CAP_NET_RAW, a read-only disk and nothing else; what comes back is lines of
addresses that were asked for, each with a MAC, and a bounded number of them.

Deckies of this worker never answer: a macvlan's parent does not reach its children.

One probe takes 1.2 s and the engine's start of a container. RFC 5227 waits for up to seven; here every address is
asked twice, for its choice and before its decky starts, and once more after that. A machine that sleeps through all
of it is found by the next look (`deploying.keeping`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from decnet_agent.deploying.lan import Claim
from decnet_agent.engine.labels import LABEL_PROBE
from decnet_core.errors import ConfigError, RemoteProtocolError, Unavailable

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

AT_ONCE = 256
"""Addresses in one container: 768 frames within a second."""

_WAIT_SECS = 60
"""It ends by itself after 1.2 s; a busy engine takes its time to start it and to tell of its end."""

_MEMORY_BYTES = 64 << 20
_PIDS = 16
_MAX_OUTPUT_BYTES = 64 << 10
"""Four lines of 40 characters for each address are 40 KiB."""

_NO_INTERFACE = 3

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


def probe(client: DockerClient, images: Sequence[str], interface: str, addresses: Sequence[IPv4Address]) -> list[Claim]:
    """Ask for addresses; what nobody claims within the time is nobody's.

    Args:
        client: of the engine; its errors are the caller's to explain.
        images: any of these will do, the first that is there is taken.
        interface: the LAN's.
        addresses: a batch of `AT_ONCE` has a container of its own.

    Raises:
        ConfigError: the interface is not there or not up.
        Unavailable: the container did not do its work.
        RemoteProtocolError: what came back are no claims.
    """
    image = _image(client, images)
    claims: list[Claim] = []
    for start in range(0, len(addresses), AT_ONCE):
        batch = addresses[start : start + AT_ONCE]
        claims += parse_claims(_run(client, image, interface, batch), frozenset(batch))
    return claims


def parse_claims(output: bytes, asked: frozenset[IPv4Address]) -> list[Claim]:
    """Read what the script printed.

    Raises:
        RemoteProtocolError: it is something else.
    """
    claims: list[Claim] = []
    try:
        for line in output.decode("ascii").splitlines():
            address, mac, kind = line.split(" ")
            claims.append(Claim(IPv4Address(address), mac, {"has": True, "asks": False}[kind]))
    except (ValueError, KeyError) as cause:
        raise _misfit() from cause
    if not all(claim.address in asked and _MAC.fullmatch(claim.mac) for claim in claims):
        raise _misfit()
    return claims


def _misfit() -> RemoteProtocolError:
    return RemoteProtocolError("What asks the LAN for addresses answered something else")


def _image(client: DockerClient, images: Sequence[str]) -> str:
    present = {tag for image in client.images.list() for tag in image.tags}
    found = next((image for image in images if image in present), None)
    if found is None:
        raise Unavailable(
            f"The LAN cannot be asked for addresses: the engine holds none of {', '.join(images)}",
            "`decnet-agent doctor` says how to import one.",
        )
    return found


def _run(client: DockerClient, image: str, interface: str, addresses: Sequence[IPv4Address]) -> bytes:
    for leftover in client.containers.list(all=True, filters={"label": LABEL_PROBE}, ignore_removed=True):
        leftover.remove(force=True)
    script = files("decnet_agent.engine").joinpath("arp_probe.pl").read_text()
    container = client.containers.create(
        image,
        ["-e", script, interface, *map(str, addresses)],
        entrypoint=["/usr/bin/perl"],
        labels={LABEL_PROBE: ""},
        network_mode="host",
        userns_mode="host",  # an engine that maps users refuses the host's network otherwise
        cap_drop=["ALL"],
        cap_add=["NET_RAW"],
        security_opt=["no-new-privileges"],
        read_only=True,
        mem_limit=_MEMORY_BYTES,
        pids_limit=_PIDS,
    )
    try:
        container.start()
        code = int(container.wait(timeout=_WAIT_SECS)["StatusCode"])
        if code == 0:
            return _said(container, stdout=True)
        said = _said(container, stdout=False).decode(errors="replace").strip()[-200:]
    finally:
        container.remove(force=True)
    if code == _NO_INTERFACE:
        raise ConfigError(f"{interface} cannot be used: {said}", "Bring it up (`ip link set … up`), or set interface.")
    raise Unavailable(
        f"The LAN cannot be asked for addresses: perl in {image} ended with {code}: {said}",
        "Build the images on a Debian that has perl-base.",
    )


def _said(container: Container, *, stdout: bool) -> bytes:
    said = container.logs(stdout=stdout, stderr=not stdout)
    if len(said) > _MAX_OUTPUT_BYTES:
        raise RemoteProtocolError("What asks the LAN for addresses says too much")
    return bytes(said)
