"""The agent's configuration: section `[agent]` of the INI file, `DECNET_` variables, command line.

Everything has a default. The LAN that the deckies join is made out on the worker (`deploying.detecting`) where
`interface` and `subnet` do not name it; where that cannot be done it is said when it is needed, by `deploy` and
`doctor`, so that the agent answers the master all the same.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from decnet_agent.containment.pairs import Passage
from decnet_agent.deploying.lan import AddressRange
from decnet_core.settings import RoleSettings

_MIB = 1 << 20


class AgentSettings(RoleSettings):
    """What an operator can set for a worker's agent."""

    section: ClassVar[str] = "agent"

    agent_address: str = "0.0.0.0:8765"
    """Where the master reaches the agent; give a management address where the worker has one."""
    docker_host: str = "unix:///var/run/docker.sock"
    interface: Annotated[str, Field(pattern=r"^[^\s/]{1,15}$")] | None = None
    """The network interface whose LAN the deckies join (15 characters: IFNAMSIZ); None is the default route's."""
    subnet: IPv4Network | None = None
    """That LAN's subnet; None is the one on the interface."""
    gateway: IPv4Address | None = None
    """That LAN's router; None is the default route's, or else the first address: Docker gives every network one."""
    ip_range: IPv4Network | None = None
    """The part of the subnet that deckies without a fixed address take theirs from; None is the whole subnet."""
    excluded_addresses: Annotated[tuple[AddressRange, ...], NoDecode] = ()
    """Never a decky's: addresses, subnets and ranges with spaces between them, such as DHCP's pool."""
    network_name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$")] = "decoy-lan"
    """The Docker network that the agent keeps for the deckies."""
    rootfs_image: str = "decky-rootfs:bookworm"
    """A minimal Debian to build `base_image` from, when that is missing."""
    base_image: str = "decky-base:bookworm"
    images_directory: Path | None = None
    """Build contexts, one folder for each service and `base`; None is those that the package brings."""
    decky_memory_bytes: Annotated[int, Field(ge=32 * _MIB)] = 512 * _MIB
    decky_pids: Annotated[int, Field(ge=32)] = 512
    decky_cpus: Annotated[float, Field(ge=0.1, le=64)] = 1.0
    """So many processors' time one decky may take: an intruder who mines leaves the others some."""
    containment: Literal["required", "off"] = "required"
    """Whether a decky starts only while the kernel keeps it from attacking; `off` lets deckies do as they like."""
    allowed_egress: Annotated[tuple[Passage, ...], NoDecode] = ()
    """Where deckies may go by themselves: `tcp:10.0.0.5:53 udp:10.0.0.0/24:123`; nowhere by default."""
    allowed_egress_per_second: Annotated[int, Field(ge=1, le=10_000)] = 5
    """So many frames a second each decky may send there; four times that at once."""
    container_log_file_bytes: Annotated[int, Field(ge=_MIB)] = 64 * _MIB
    """The engine's own record of a decky's console; the collector reads from it what it missed while it was down.

    With `container_log_files` it is the bound of what can be caught up: 256 MiB is over an hour of the loudest
    attack that a decky of ours lets through (200 lines a second of 300 bytes, doubled by the engine's JSON).
    """
    container_log_files: Annotated[int, Field(ge=1, le=64)] = 4
    event_log_file_bytes: Annotated[int, Field(ge=1 << 16)] = 64 * _MIB
    """A file of the event log is rotated at this size."""
    recording_bytes: Annotated[int, Field(ge=1 << 16, le=32 * _MIB)] = 16 * _MIB
    """So much of what one terminal shows is recorded; what is typed is bounded apart from it."""

    @field_validator("excluded_addresses", mode="before")
    @classmethod
    def _split_addresses(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        return tuple(AddressRange.parse(word) for word in given.replace(",", " ").split())

    @field_validator("allowed_egress", mode="before")
    @classmethod
    def _split_passages(cls, given: object) -> object:
        return (
            tuple(Passage.parse(word) for word in given.replace(",", " ").split()) if isinstance(given, str) else given
        )

    @model_validator(mode="after")
    def _range_lies_in_the_subnet(self) -> Self:
        if self.subnet is None:
            return self  # they are held against the LAN that is made out
        if self.ip_range is not None and not self.ip_range.subnet_of(self.subnet):
            raise ValueError("ip-range must lie within subnet")
        if self.gateway is not None and self.gateway not in self.subnet:
            raise ValueError("gateway must lie within subnet")
        return self

    @property
    def identities_directory(self) -> Path:
        """Where the worker's identities lie."""
        return self.data_directory / "identities"

    @property
    def state_directory(self) -> Path:
        """Where the agent keeps what it must not forget."""
        return self.data_directory / "agent"

    @property
    def quarantine_directory(self) -> Path:
        """Where the tap keeps captured files and recordings."""
        return self.data_directory / "quarantine"

    @property
    def event_log(self) -> Path:
        """The worker's event log."""
        return self.log_directory / "events.log"

    @property
    def evidence_socket(self) -> Path:
        """Where the taps hand in their events."""
        return self.run_directory / "events.sock"

    @property
    def containment_socket(self) -> Path:
        """Where the containment process is told which deckies there are."""
        return self.run_directory / "containment.sock"

    @property
    def deckies_file(self) -> Path:
        """What runs here, for the taps."""
        return self.run_directory / "deckies.json"
