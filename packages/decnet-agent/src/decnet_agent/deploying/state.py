"""What the agent must not forget: `<data-directory>/agent/state.json`, 0600, replaced as a whole.

The last shard (its generation is the newest that this worker knows; it holds decoys' passwords), the addresses given to
deckies, the LAN that they are of, and the secret seed of their MACs and of where addresses begin. It is written before
anything is done, so that a crash in the middle is continued by the next start.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from decnet_agent.deploying.lan import NetworkFacts
from decnet_agent.deploying.relocalising import Assignment
from decnet_core.errors import ConfigError, RetryLater
from decnet_core.fleet import Contract, MacAddress, Shard
from decnet_core.pki.durable import SECRET_MODE, replace_file

_NAME = "state.json"
_SEED_BYTES = 32


class StoredAssignment(Contract):
    """An address and a MAC of a decky's name, which one the master named, and why it is not the one that was wanted."""

    ip: IPv4Address
    mac: MacAddress
    named: IPv4Address | None = None
    moved_from: IPv4Address | None = None
    moved_because: str | None = None


class StoredLan(Contract):
    """The LAN as it was last made out."""

    interface: str
    subnet: IPv4Network
    gateway: IPv4Address | None = None


class AgentState(Contract):
    """All that the agent keeps."""

    seed: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    shard: Shard | None = None
    assignments: Mapping[str, StoredAssignment] = Field(default_factory=dict)
    lan: StoredLan | None = None

    @property
    def generation(self) -> int:
        """The newest generation that this worker was told; 0 before the first."""
        return 0 if self.shard is None else self.shard.generation

    def previous(self) -> dict[str, Assignment]:
        """Return the assignments as the planner takes them."""
        return {
            name: Assignment(stored.ip, stored.mac, stored.named, stored.moved_from, stored.moved_because)
            for name, stored in self.assignments.items()
        }


def read_state(directory: Path) -> AgentState | None:
    """Return what an agent keeps in a directory; None when it has not run there.

    Raises:
        ConfigError: it cannot be read, or is damaged.
    """
    path = directory / _NAME
    try:
        return AgentState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as cause:
        why = cause.strerror if isinstance(cause, OSError) else "it does not hold the agent's state"
        raise ConfigError(
            f"{path} cannot be read: {why}",
            "Give it to the user who runs the agent; if it is damaged, move it away and deploy again.",
        ) from None


class StateFile:
    """The state on disk. Read once; `save` replaces it, and spares the disk what it has already."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self.state = read_state(directory) or self._begin()

    def save(self, shard: Shard, assignments: Mapping[str, Assignment], facts: NetworkFacts) -> None:
        """Keep a shard, its addresses, and the LAN that they belong to.

        Raises:
            RetryLater: the disk is full.
            ConfigError: the directory cannot be written.
        """
        kept = {
            name: StoredAssignment(
                ip=given.ip,
                mac=given.mac,
                named=given.named,
                moved_from=given.moved_from,
                moved_because=given.moved_because,
            )
            for name, given in assignments.items()
        }
        lan = StoredLan(interface=facts.interface, subnet=facts.subnet, gateway=facts.gateway)
        state = AgentState(seed=self.state.seed, shard=shard, assignments=kept, lan=lan)
        if state != self.state:
            self._write(state)

    def _begin(self) -> AgentState:
        state = AgentState(seed=secrets.token_hex(_SEED_BYTES))
        self._write(state)
        return state

    def _write(self, state: AgentState) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path, state.model_dump_json().encode(), SECRET_MODE)
        except OSError as cause:
            if cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RetryLater(f"There is no space for {self._path}", "Free some space and try again.") from cause
            raise ConfigError(
                f"{self._path} cannot be written: {cause.strerror}",
                "Give data-directory to the user who runs the agent.",
            ) from cause
        self.state = state
