"""The master's configuration: section `[master]` beside the shared `[decnet]`.

Where the master's files lie is derived from the data directory here and nowhere else, so that its four processes
agree:

    <data-directory>/ca/                  the certificate authority
    <data-directory>/identities/          the master's own identity
    <data-directory>/bundles/             wheels for new workers
    <data-directory>/artifacts/           files and recordings that were fetched from workers (0600)
    <data-directory>/journal/             what the listener received and the ingester has not stored yet
    <data-directory>/controller.secret    what the operator's CLI shows the controller (0600)
    <data-directory>/api.secret           what signs the API's session tokens (0600)
    <data-directory>/decnet.sqlite3       the database, unless database-url names another

Addresses are `host:port`, IPv6 hosts in brackets; they are parsed where they are listened on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from decnet_core.errors import ConfigError
from decnet_core.settings import RoleSettings


def _a_day_or_never(hours: int) -> int:
    if 0 < hours < 24 or hours < 0:
        raise ValueError("a visitor may be back within a day: 0 for never, or 24 at least")
    return hours


class MasterSettings(RoleSettings):
    """What the master's processes and the operator's CLI read; see decnet.ini.example for each key's story."""

    section: ClassVar[str] = "master"

    api_address: str = "127.0.0.1:8000"
    """REST API and live stream."""
    controller_address: str = "127.0.0.1:8770"
    """Swarm controller; serves the operator's CLI on this machine, a loopback address."""
    operator_address: str | None = None
    """Where it serves operators elsewhere, over mutual TLS; None is nowhere."""
    swarmctl_url: str | None = None
    """Where the CLI reaches the controller: http on the loopback, https elsewhere; None is controller-address."""
    operator_directory: Path | None = None
    """Where an operator's key, certificate and CAs lie on the operator's machine; None is ~/.config/decnet/operator."""
    enrolment_address: str = "0.0.0.0:8771"
    """Where workers join, over TLS."""
    listener_address: str = "0.0.0.0:6514"
    """Where workers ship their logs to."""
    public_address: str | None = None
    """What workers dial and join tokens name: `host`, or `host:port` when enrolment is reached through another port."""
    database_url: str | None = None
    """An SQLAlchemy URL, `postgresql+asyncpg://…` or `sqlite+aiosqlite:///…`; None is SQLite in the data directory."""
    ca_passphrase: str | None = None
    """Encrypts the CA's key at rest; needed by `init` and by the controller, best given as a variable."""
    ca_passphrase_file: Path | None = None
    """A file whose first line is that passphrase, for what keeps secrets in files."""
    certificate_hours: Annotated[int, Field(ge=1, le=10_000)] = 7 * 24
    """How long a certificate lives; it is renewed at two thirds."""
    operator_hours: Annotated[int, Field(ge=1, le=10_000)] = 30 * 24
    """How long an operator's lives; its commands renew it from two thirds on, so it outlasts a holiday."""
    journal_quota_mib: Annotated[int, Field(ge=256, le=1 << 30)] = 8192
    """What the journal may hold; above it nothing is acknowledged until the ingester has caught up."""
    journal_min_free_mib: Annotated[int, Field(ge=0, le=1 << 30)] = 512
    """What the journal leaves free on its disk, for the database above all."""
    heartbeat_secs: Annotated[int, Field(ge=1, le=3600)] = 30
    """Between two heartbeats: how often the controller asks each worker how it is, and mends what differs."""
    reset_after_idle_hours: Annotated[int, Field(le=10_000), AfterValidator(_a_day_or_never)] = 0
    """A decky that had visitors, and none for so long, is made what it was when it was new. 0: never by itself."""
    mutate_every_hours: Annotated[int, Field(ge=0, le=10_000)] = 0
    """When no decky has mutated for so long, one does, if the fleet file leaves any open. 0: never by itself."""
    silence_secs: Annotated[int, Field(ge=1, le=24 * 3600)] = 120
    """After so long without a line or a sign of life a worker that has deckies is called silent."""
    dead_letter_alarm: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Lines that are no event, within ten minutes: from so many on, health is red."""
    metrics_token: str | None = None
    """What a Prometheus server shows as a bearer token to read /metrics; without it only a login can."""
    token_minutes: Annotated[int, Field(ge=1, le=24 * 60)] = 30
    """How long a join token may be used."""
    session_minutes: Annotated[int, Field(ge=1, le=24 * 60)] = 60
    """How long a login at the API lasts."""
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 2_000
    """So many rows begin a transaction of the ingester at once; when more wait, one grows up to eight times that."""
    batch_max_wait_ms: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Between the beginnings of two of the ingester's transactions while lines keep coming and fill no batch."""
    retention_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    """For so many days after its own an event is kept; 0 is for ever."""

    @property
    def ca_directory(self) -> Path:
        """The folder of the certificate authority."""
        return self.data_directory / "ca"

    @property
    def bundles_directory(self) -> Path:
        """The folder of the wheels that new workers are sent."""
        return self.data_directory / "bundles"

    @property
    def identities_directory(self) -> Path:
        """The folder of the master's own identity, a `KeyStore`."""
        return self.data_directory / "identities"

    @property
    def operator_identity_directory(self) -> Path:
        """The folder of an operator's identity, a `KeyStore`, on the operator's machine.

        Raises:
            ConfigError: none is set, and this user has no home.
        """
        if self.operator_directory is not None:
            return self.operator_directory
        try:
            return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "decnet" / "operator"
        except RuntimeError:
            raise ConfigError("This user has no home folder", "Set operator-directory.") from None

    @property
    def artifacts_directory(self) -> Path:
        """Where contents lie that were fetched from workers."""
        return self.data_directory / "artifacts"

    @property
    def journal_directory(self) -> Path:
        """The folder of the journal's segments."""
        return self.data_directory / "journal"

    @property
    def controller_secret_file(self) -> Path:
        """The file whose content the controller wants as a bearer token."""
        return self.data_directory / "controller.secret"

    @property
    def api_secret_file(self) -> Path:
        """The file whose content signs the API's session tokens."""
        return self.data_directory / "api.secret"

    @property
    def database(self) -> str:
        """The URL of the database, whichever it is."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_directory / 'decnet.sqlite3'}"
