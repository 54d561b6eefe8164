"""Run the listener as a process of its own, as `decnet-master listener` does."""

import asyncio

from decnet_core import logs
from decnet_master.listener.app import build
from decnet_master.settings import MasterSettings

if __name__ == "__main__":
    logs.configure("listener", level="info")
    asyncio.run(build(MasterSettings.load()).run())
