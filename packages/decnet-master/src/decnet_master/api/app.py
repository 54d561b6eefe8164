"""Put the API's process together. Its port is bound when it is made, before anything is opened."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from decnet_core import daemon
from decnet_core.daemon import Ready
from decnet_core.endpoints import Endpoint, listen
from decnet_master import secret_files
from decnet_master.api import silence
from decnet_master.api.access import Access
from decnet_master.api.fanout import Fanout
from decnet_master.api.routes import LIMITS, application, guarded
from decnet_master.http_server import serve
from decnet_master.settings import MasterSettings
from decnet_master.store import Store

log = structlog.get_logger()


class App:
    """The API as a daemon."""

    def __init__(self, settings: MasterSettings) -> None:
        self._settings = settings
        self.socket = listen(Endpoint.parse(settings.api_address), "api-address")
        self.ready = Ready(1)

    async def run(self) -> None:
        """Run until a signal comes.

        Raises:
            ConfigError, TrustError: the master was not initialised, or its secret is open to others.
            Unavailable: the database does not answer.
        """
        await daemon.run({"api": self.serve}, self.ready)

    async def serve(self) -> None:
        """Run until cancelled; raises as `run` does."""
        settings = self._settings
        secret = secret_files.read(settings.api_secret_file)
        async with await Store.open(settings.database) as store:
            fanout = Fanout(store)
            access = Access(store, secret, timedelta(minutes=settings.session_minutes))
            app = guarded(
                application(
                    store,
                    access,
                    fanout,
                    dead_letter_alarm=settings.dead_letter_alarm,
                    metrics_token=settings.metrics_token,
                )
            )
            silence_after = timedelta(seconds=settings.silence_secs)
            host, port = self.socket.getsockname()[:2]
            async with asyncio.TaskGroup() as group:
                group.create_task(fanout.run(), name="fanout")
                group.create_task(silence.watch(store, silence_after), name="silence")
                group.create_task(serve(app, self.socket, ready=self.ready, limits=LIMITS), name="http")
                log.info("api.started", address=str(Endpoint(host, port)))


def build(settings: MasterSettings) -> App:
    """Wire the API and bind its port.

    Raises:
        Conflict: the port is in use.
        ConfigError, Unavailable: the address cannot be listened on.
    """
    return App(settings)
