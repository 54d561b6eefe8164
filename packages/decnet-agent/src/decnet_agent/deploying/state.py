"""What the agent must not forget: `<data-directory>/agent/state.json`, 0600, replaced as a whole.

The last shard (its generation is the newest that this worker knows; it holds decoys' passwords), the addresses given to
deckies, and the secret seed of their MACs. It is written before anything is done, so that a crash in the middle
is continued by the next start.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from decnet_agent.deploying.planning import Assignment
from decnet_core.errors import ConfigError, RetryLater
from decnet_core.fleet import Contract, MacAddress, Shard
from decnet_core.pki.durable import SECRET_MODE, replace_file

_SEED_BYTES = 32


class StoredAssignment(Contract):
    """An address and a MAC of a decky's name."""

    ip: IPv4Address
    mac: MacAddress


class AgentState(Contract):
    """All that the agent keeps."""

    seed: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    shard: Shard | None = None
    assignments: Mapping[str, StoredAssignment] = Field(default_factory=dict)

    @property
    def generation(self) -> int:
        """The newest generation that this worker was told; 0 before the first."""
        return 0 if self.shard is None else self.shard.generation

    def previous(self) -> dict[str, Assignment]:
        """Return the assignments as the planner takes them."""
        return {name: Assignment(stored.ip, stored.mac) for name, stored in self.assignments.items()}


class StateFile:
    """The state on disk. Read once; `save` replaces it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.json"
        self.state = self._read()

    def save(self, shard: Shard, assignments: Mapping[str, Assignment]) -> None:
        """Keep a shard and its addresses.

        Raises:
            RetryLater: the disk is full.
            ConfigError: the directory cannot be written.
        """
        kept = {name: StoredAssignment(ip=given.ip, mac=given.mac) for name, given in assignments.items()}
        self._write(AgentState(seed=self.state.seed, shard=shard, assignments=kept))

    def _read(self) -> AgentState:
        try:
            return AgentState.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            state = AgentState(seed=secrets.token_hex(_SEED_BYTES))
            self._write(state)
            return state
        except (ValidationError, OSError) as cause:
            why = cause.strerror if isinstance(cause, OSError) else "it does not hold the agent's state"
            raise ConfigError(
                f"{self._path} cannot be read: {why}",
                "Give it to the user who runs the agent; if it is damaged, move it away and deploy again.",
            ) from None

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
