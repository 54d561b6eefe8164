"""Who may say what on the LAN: deckies with their MAC and address, and what the operator lets them reach.

    <data-directory>/containment/wanted.json   0600, replaced as a whole: what the agent asked for last

It is written before the kernel is told, so that after a kill or a boot the same is enforced before anything else runs.
An interface's table may only grow until the agent says what is left: an address is taken away when its decky is gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from decnet_core.errors import ConfigError
from decnet_core.fleet import MAX_DECKIES_PER_SHARD, Contract, HostName, MacAddress
from decnet_core.pki.durable import SECRET_MODE, replace_file

InterfaceName = Annotated[str, Field(pattern=r"^[^\s/\x00-\x1f\x7f-\U0010ffff]{1,15}$")]
Port = Annotated[int, Field(ge=1, le=65535)]

_PASSAGE = re.compile(r"(tcp|udp):([0-9.]+(?:/[0-9]{1,2})?):([0-9]{1,5})")


class Pair(Contract):
    """What one decky is on the LAN.

    Attributes:
        udp_ports: those of its services; answers come from there.
    """

    decky: HostName
    mac: MacAddress
    ip: IPv4Address
    udp_ports: Annotated[tuple[Port, ...], Field(max_length=32)] = ()


class Passage(Contract):
    """A destination that the operator lets all deckies reach."""

    protocol: Literal["tcp", "udp"]
    network: IPv4Network
    port: Port

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `tcp:10.0.0.5:53` or `udp:10.0.0.0/24:123`.

        Raises:
            ValueError: it is none.
        """
        found = _PASSAGE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not like tcp:10.0.0.5:53")
        protocol, network, port = found.groups()
        return cls.model_validate({"protocol": protocol, "network": network, "port": int(port)})

    def __str__(self) -> str:
        network = self.network.network_address if self.network.prefixlen == 32 else self.network
        return f"{self.protocol}:{network}:{self.port}"


class Policy(Contract):
    """What holds on one interface."""

    pairs: Annotated[tuple[Pair, ...], Field(max_length=2 * MAX_DECKIES_PER_SHARD)] = ()
    passages: Annotated[tuple[Passage, ...], Field(max_length=64)] = ()
    passage_per_second: Annotated[int, Field(ge=1, le=10_000)] = 5
    """So many frames of each decky may take the passages."""

    def joined(self, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        """Return its pairs and others, each once."""
        every = {(pair.mac, pair.ip): pair for pair in (*self.pairs, *pairs)}
        return tuple(every[key] for key in sorted(every))


class Wanted(Contract):
    """All that shall be enforced, by interface."""

    interfaces: Mapping[InterfaceName, Policy] = Field(default_factory=dict)


def read_wanted(folder: Path) -> Wanted:
    """Return what was asked for last; nothing when nobody asked.

    Raises:
        ConfigError: it cannot be read or is damaged: then nobody knows what to enforce.
    """
    path = folder / "wanted.json"
    try:
        return Wanted.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Wanted()
    except (ValidationError, OSError) as cause:
        why = cause.strerror if isinstance(cause, OSError) else "it does not hold what to enforce"
        raise ConfigError(
            f"{path} cannot be read: {why}",
            "Give it to the user who runs decnet-containment; if it is damaged, remove it: the agent asks again.",
        ) from None


def write_wanted(folder: Path, wanted: Wanted) -> None:
    """Keep what is asked for.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(folder / "wanted.json", wanted.model_dump_json().encode(), SECRET_MODE)
    except OSError as cause:
        raise ConfigError(
            f"{folder} cannot be written: {cause.strerror}",
            "Give data-directory to the user who runs decnet-containment.",
        ) from cause
