"""Where the master's processes are put together.

Each part is a room with an `app` module, whose `build(settings)` wires it and whose `run()` lives until a signal
comes. They are imported by name and one at a time: a process holds its own part and nothing of the others (the API
never loads what makes certificates, the listener no web framework).
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

from decnet_core import daemon
from decnet_core.supervise import Child, keep_running
from decnet_master.settings import MasterSettings

PARTS = ("swarmctl", "listener", "ingester", "api")
"""What `serve` runs, in the order in which it is started."""


class App(Protocol):
    """A part, wired."""

    async def run(self) -> None:
        """Run until a signal comes.

        Raises:
            DecnetError: it cannot run as it is configured, or something it needs is away.
        """


def build(part: str, settings: MasterSettings) -> App:
    """Wire one of `PARTS`."""
    app: App = importlib.import_module(f"decnet_master.{part}.app").build(settings)
    return app


async def run_serve(parts: Sequence[str], environments: Mapping[str, Mapping[str, str]] | None = None) -> None:
    """Run the parts as supervised children, each of them `decnet-master <part>`, until a signal comes.

    It is ready when all of them are.

    Args:
        parts: of `PARTS`.
        environments: what is added to the environment of some of them.

    Raises:
        ChildFailed: a part cannot run as it is configured.
    """
    children = [Child(part, (sys.executable, "-m", "decnet_master", part)) for part in parts]
    ready = daemon.Ready(len(children))
    await daemon.run(
        {
            child.name: functools.partial(keep_running, child, (environments or {}).get(child.name), up=ready.one_more)
            for child in children
        },
        ready,
    )
