"""How a process of the master begins: settings, log, its supervisor, then the part that it is.

Apart from `daemons`, so that a daemon does not hold the command line's libraries for as long as it lives.
"""

from __future__ import annotations

import asyncio

from decnet_core import logs
from decnet_core.daemon import die_with_parent
from decnet_master.app import build
from decnet_master.settings import MasterSettings


def begin(role: str) -> MasterSettings:
    """Tie this process to its supervisor, read the settings and set up the log.

    Raises:
        ConfigError: the configuration does not fit, or the log cannot be written.
    """
    die_with_parent()
    settings = MasterSettings.load()
    file = settings.log_directory / f"decnet.{role}.log" if settings.log_output == "file" else None
    logs.configure(role, level=settings.log_level, file=file)
    return settings


def run_part(part: str) -> None:
    """Run one of `decnet_master.app.PARTS` until a signal comes; raises what the part does."""
    settings = begin(part)

    async def live() -> None:
        await build(part, settings).run()

    asyncio.run(live())
