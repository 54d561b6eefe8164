"""The updater's configuration: section `[updater]` beside the shared `[decnet]`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from decnet_core.settings import RoleSettings


class UpdaterSettings(RoleSettings):
    """What an operator can set for a worker's updater."""

    section: ClassVar[str] = "updater"

    updater_address: str = "0.0.0.0:8766"
    """Where the master reaches the updater; give a management address where the worker has one."""

    @property
    def identities_directory(self) -> Path:
        """Where the worker's identities lie, a `KeyStore`."""
        return self.data_directory / "identities"
