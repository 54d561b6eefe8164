"""The contract of a decky's service: `images/<service>/contract.toml`, what everybody else may rely on.

    packages      what is installed for it, beyond the base
    health        the process and the port that prove it serves
    accounts      who may log in: only the accounts of the decky's spec, furnishing knows no other way
    taps          its servers' files, by which sessions are told apart; a test holds them against the tap's own table
    capabilities  what its container keeps, given to the engine; never more than `PERMITTED`
    pretends      what it passes for, a sentence for people
    reset         how it gets back to its first state

Pure but for `read_contract`. Each refusal names the file and the key. A set of services is one machine, so their
contracts must fit together (`makeup`): no port twice, and the capabilities of all.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from decnet_core.errors import ConfigError, Conflict
from decnet_core.fleet import ServiceName

FILE_NAME = "contract.toml"

PERMITTED = (
    "CHOWN",
    "SETUID",
    "SETGID",
    "SYS_CHROOT",
    "DAC_OVERRIDE",
    "FOWNER",
    "KILL",
    "NET_BIND_SERVICE",
    "AUDIT_WRITE",
)
"""Measured: all that Debian's sshd with PAM, login, su and sudo need. NET_RAW and NET_ADMIN are never among them: who
has them attacks others."""

MAX_CONTRACT_BYTES = 64 << 10

_NAMED_FAULTS = 5


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("write each once, in order")
    return values


def _permitted(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value not in PERMITTED:
            raise ValueError(f"{value} is not permitted in a decky; permitted are {', '.join(sorted(PERMITTED))}")
    return values


_Path = Annotated[str, Field(pattern=r"^(?:/[A-Za-z0-9._+-]+)+$", max_length=255)]
_Package = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$", max_length=128)]
_Program = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=48)]
_Ordered = AfterValidator(_each_once)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Health(_Part):
    """What proves that the service serves."""

    process: _Path
    """The executable of a process that runs while it does."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """The TCP port that it listens on."""


class Accounts(_Part):
    """Who may log in, and how."""

    passwords: Literal["spec", "none"]
    """`spec`: exactly the accounts that the decky's spec names, with their passwords; `none`: there is no login."""
    root: bool
    """Whether root may log in by password, if the spec has an account for root."""


class Taps(_Part):
    """What the taps know it by."""

    servers: Annotated[tuple[_Path, ...], Field(max_length=16), _Ordered]
    """Executables that serve a connection: a session begins with one, and ends being the server's at any other."""
    programs: Annotated[tuple[_Program, ...], Field(max_length=16), _Ordered]
    """Names by which they speak to syslog; what they say is told as of this service."""
    passwords: Literal["pam", "none"]
    """Where passwords pass that are tried."""


class Contract(_Part):
    """One service's contract."""

    contract: Literal[1]
    """The version of this file's format."""
    service: ServiceName
    pretends: Annotated[str, Field(min_length=1, max_length=200)]
    packages: Annotated[tuple[_Package, ...], Field(min_length=1, max_length=64), _Ordered]
    capabilities: Annotated[tuple[str, ...], _Ordered, AfterValidator(_permitted)]
    reset: Literal["recreate"]
    """`recreate`: its container is made anew from the image and the spec, which are all that it came from."""
    health: Health
    accounts: Accounts
    taps: Taps

    @model_validator(mode="after")
    def _logins_are_seen(self) -> Self:
        if (self.accounts.passwords == "none") != (self.taps.passwords == "none"):
            raise ValueError("accounts.passwords and taps.passwords are `none` together: a login is always watched")
        return self


@dataclass(frozen=True, slots=True)
class Makeup:
    """What a machine with several services needs and offers."""

    services: tuple[str, ...]
    capabilities: tuple[str, ...]
    health: tuple[Health, ...]

    @property
    def ports(self) -> frozenset[int]:
        """The TCP ports that serve."""
        return frozenset(health.port for health in self.health)


def makeup(contracts: Sequence[Contract]) -> Makeup:
    """Put services together in one machine.

    Raises:
        Conflict: two of them want one port.
    """
    holders: dict[int, str] = {}
    for contract in contracts:
        other = holders.setdefault(contract.health.port, contract.service)
        if other != contract.service:
            raise Conflict(
                f"{other} and {contract.service} both want port {contract.health.port}",
                "Give a decky one of them.",
            )
    wanted = {name for contract in contracts for name in contract.capabilities}
    return Makeup(
        tuple(contract.service for contract in contracts),
        tuple(name for name in PERMITTED if name in wanted),
        tuple(contract.health for contract in contracts),
    )


def read_contract(folder: Path) -> Contract:
    """Read the contract in a service's folder, which is named like the service.

    Raises:
        ConfigError: it is missing, cannot be read, or breaks a rule; the message names the file and each key.
    """
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONTRACT_BYTES + 1)
    except OSError as cause:
        raise ConfigError(f"{path} cannot be read: {cause.strerror}", _ADVICE) from cause
    contract = parse_contract(content, str(path))
    if contract.service != folder.name:
        raise ConfigError(
            f"{path}: service: is {contract.service}, but its folder is called {folder.name}",
            "Give both the same name.",
        )
    return contract


def parse_contract(content: bytes, name: str) -> Contract:
    """Read a contract's bytes.

    Args:
        content: TOML.
        name: of the file, for messages.

    Raises:
        ConfigError: it breaks a rule; the message names each key.
    """
    if len(content) > MAX_CONTRACT_BYTES:
        raise ConfigError(f"{name} is larger than {MAX_CONTRACT_BYTES} bytes", _ADVICE)
    try:
        return Contract.model_validate(tomllib.loads(content.decode("utf-8")))
    except UnicodeDecodeError as cause:
        raise ConfigError(f"{name} is not UTF-8: {cause.reason} at byte {cause.start}", _ADVICE) from cause
    except tomllib.TOMLDecodeError as cause:
        raise ConfigError(f"{name} is not TOML: {cause}", _ADVICE) from cause
    except ValidationError as cause:
        faults = [f"{_key(fault['loc'])}: {_said(fault['msg'])}" for fault in cause.errors()]
        more = f"; and {len(faults) - _NAMED_FAULTS} more" if len(faults) > _NAMED_FAULTS else ""
        raise ConfigError(f"{name}: {'; '.join(faults[:_NAMED_FAULTS])}{more}", _ADVICE) from cause


_ADVICE = "images/README.md describes the keys of a contract."


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "as a whole"


def _said(message: str) -> str:
    return message.removeprefix("Value error, ")
