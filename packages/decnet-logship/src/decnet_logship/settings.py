"""The shipper's configuration: section `[logship]` beside the shared `[decnet]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from decnet_core.settings import RoleSettings

MAX_FILES = 8
"""Each has a connection of its own; the master takes 16 of one worker."""


class LogshipSettings(RoleSettings):
    """What an operator can set for a worker's logship; all of it has a default on a worker that joined."""

    section: ClassVar[str] = "logship"

    master: str | None = None
    """`host:port` of the master's listener; None is what the worker learnt when it joined."""
    event_log: Path | None = None
    """The log to ship; None is `events.log` in the log directory."""
    files: Annotated[tuple[Path, ...], NoDecode] = ()
    """Other programs' logs to ship as well, absolute paths with spaces between them, at most eight."""
    max_line_bytes: Annotated[int, Field(ge=1024, le=1_000_000)] = 8192
    """Longer lines of these files are cut there, and marked. Our own events may be as long as the protocol takes."""
    protocol: Literal["decnet-log", "rfc5425"] = "decnet-log"
    """`decnet-log` is acknowledged; `rfc5425` sends to any syslog daemon over TLS, without acknowledgement."""
    receiver_ca: Path | None = None
    """For `rfc5425`: PEM of the CA that the receiver's certificate is of; None is the site's own."""
    receiver_name: str | None = None
    """For `rfc5425`: the name or address in the receiver's certificate; None is the host of the setting master."""
    window_bytes: Annotated[int, Field(ge=64 << 10, le=64 << 20)] = 4 << 20
    """How much may be on its way unacknowledged; the master stops reading at 4 MiB of one worker."""
    connect_timeout_secs: Annotated[float, Field(gt=0, le=300)] = 20.0
    """For the connection and its TLS handshake together."""
    ack_timeout_secs: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """A connection on which no acknowledgement moves for so long is given up."""
    reconnect_max_secs: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """The longest pause between two attempts; long, so that a fleet whose master was away comes back spread over it."""

    @field_validator("files", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("files")
    @classmethod
    def _check_files(cls, files: tuple[Path, ...]) -> tuple[Path, ...]:
        if len(files) > MAX_FILES or len(set(files)) < len(files):
            raise ValueError(f"at most {MAX_FILES} files, none of them twice")
        if not all(path.is_absolute() for path in files):
            raise ValueError("write absolute paths, with spaces between them")
        return files

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

    @property
    def register_file(self) -> Path:
        """What is remembered of the files."""
        return self.data_directory / "logship" / "files.json"
