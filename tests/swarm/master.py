"""A master for tests: installed for real in a temporary folder, its processes' applications run in the test's loop."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from decnet_core.daemon import Ready
from decnet_master import installation, secret_files
from decnet_master.settings import MasterSettings

READY_SECS = 60.0
LISTENER_PORT = 6514


@dataclass(frozen=True)
class Template:
    """A fresh installation to copy: the key of its CA and its database are made once a session."""

    folder: Path
    password: str
    pin: str

    @classmethod
    def make(cls, folder: Path) -> Template:
        done = asyncio.run(installation.install(settings_in(folder)))
        assert done.admin_password is not None
        return cls(folder, done.admin_password, done.pin)

    def copy(self, folder: Path) -> MasterSettings:
        shutil.copytree(self.folder / "data", folder / "data", symlinks=True)
        return settings_in(folder)


def settings_in(folder: Path, **more: object) -> MasterSettings:
    values: dict[str, object] = {
        "data_directory": folder / "data",
        "log_directory": folder / "log",
        "run_directory": folder / "run",
        "api_address": "127.0.0.1:0",
        "controller_address": "127.0.0.1:0",
        "enrolment_address": "127.0.0.1:0",
        "listener_address": f"127.0.0.1:{LISTENER_PORT}",
        "heartbeat_secs": 3600,  # a test that wants the controller to act by itself says so
    }
    return MasterSettings.load(**(values | more))


@asynccontextmanager
async def running(app: object) -> AsyncIterator[None]:
    """Serve an application of the master until the block ends."""
    async with under_way(app.serve(), app.ready):  # type: ignore[attr-defined]
        yield


@asynccontextmanager
async def under_way(serving: Coroutine[None, None, None], ready: Ready) -> AsyncIterator[None]:
    """Run what serves, from when it says that it is ready until the block ends."""
    task = asyncio.create_task(serving)
    waiter = asyncio.create_task(ready.wait())
    try:
        async with asyncio.timeout(READY_SECS):
            await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield
    finally:
        waiter.cancel()
        task.cancel()
        await asyncio.gather(task, waiter, return_exceptions=True)


def port_of(bound: socket.socket) -> int:
    return int(bound.getsockname()[1])


def controller_client(settings: MasterSettings, port: int) -> httpx.AsyncClient:
    secret = secret_files.read(settings.controller_secret_file)
    return plain_client(port, authorization=f"Bearer {secret}")


def plain_client(port: int, **headers: str) -> httpx.AsyncClient:
    """A client of plain HTTP; left to itself, each would read all of the system's CAs for TLS that it never speaks."""
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers=headers,
        trust_env=False,
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
