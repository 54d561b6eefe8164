"""What this master can hand to bare hosts: asked before a line is printed, so that none is that leads nowhere."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

import decnet_master
from decnet_core.errors import NotFound
from decnet_master.bootstrap.bundles import Bundles, coverage
from decnet_master.bootstrap.line import script_sha256
from decnet_master.swarmctl.messages import BootstrapOffer


def router(bundles: Bundles) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter()
    sha256 = script_sha256()  # of the script that this process serves, whatever an update puts on the disk meanwhile

    @routes.get("/bootstrap")
    async def bootstrap() -> BootstrapOffer:
        manifest = await asyncio.to_thread(bundles.load, decnet_master.__version__)
        targets = tuple(kind.target for kind in coverage(manifest) if kind.lacks is None)
        if not targets:
            raise NotFound("This master's bundle is for no worker", "Run `decnet-master bundle build --wheels DIR`.")
        return BootstrapOffer(version=manifest.version, script_sha256=sha256, targets=targets)

    return routes
