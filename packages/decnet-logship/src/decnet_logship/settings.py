"""The shipper's configuration: section `[logship]` beside the shared `[decnet]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from decnet_core.settings import RoleSettings


class LogshipSettings(RoleSettings):
    """What an operator can set for a worker's logship; all of it has a default on a worker that joined."""

    section: ClassVar[str] = "logship"

    master: str | None = None
    """`host:port` of the master's listener; None is what the worker learnt when it joined."""
    event_log: Path | None = None
    """The log to ship; None is `events.log` in the log directory."""
    window_bytes: Annotated[int, Field(ge=64 << 10, le=64 << 20)] = 4 << 20
    """How much may be on its way unacknowledged; the master stops reading at 4 MiB of one worker."""
    connect_timeout_secs: Annotated[float, Field(gt=0, le=300)] = 20.0
    """For the connection and its TLS handshake together."""
    ack_timeout_secs: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """A connection on which no acknowledgement moves for so long is given up."""
    reconnect_max_secs: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """The longest pause between two attempts; long, so that a fleet whose master was away comes back spread over it."""

    @property
    def event_log_path(self) -> Path:
        """The log to ship."""
        return self.event_log or self.log_directory / "events.log"

    @property
    def identities_directory(self) -> Path:
        """The folder of this worker's identities, a `KeyStore`."""
        return self.data_directory / "identities"

    @property
    def state_file(self) -> Path:
        """The hint for `status`."""
        return self.data_directory / "logship" / "state.json"
