"""Put logship together: settings, where the master is, identity, tasks."""

from __future__ import annotations

import functools
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError

from decnet_core.daemon import run
from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import ENROLMENT_FILE, Enrolment
from decnet_core.errors import ConfigError
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.settings import config_path
from decnet_logship.settings import LogshipSettings
from decnet_logship.shipper import Shipper
from decnet_logship.wakeup import watch

log = structlog.get_logger()


class App:
    """Logship as a daemon."""

    def __init__(self, settings: LogshipSettings, endpoint: Endpoint) -> None:
        self._settings = settings
        self._endpoint = endpoint

    async def run(self) -> None:
        """Run until a signal comes; a master that is away is waited for."""
        shipper = Shipper(self._settings, self._endpoint)
        path = self._settings.event_log_path
        log.info("logship.started", master=str(self._endpoint), event_log=str(path))
        await run(
            {
                "ship": shipper.run,
                "state": shipper.write_state,
                "watch": functools.partial(watch, path.parent, shipper.wake),
            }
        )


def build(settings: LogshipSettings) -> App:
    """Wire logship.

    Raises:
        TrustError: this worker has no identity that can be used.
        ConfigError: no master is configured.
    """
    KeyStore(settings.identities_directory).load(Role.LOGSHIP, datetime.now(UTC))
    return App(settings, master_endpoint(settings))


def master_endpoint(settings: LogshipSettings) -> Endpoint:
    """Tell where the master's listener is: as configured, else as learnt by joining.

    Raises:
        ConfigError: neither says it.
    """
    if settings.master is not None:
        return Endpoint.parse(settings.master)
    path = settings.data_directory / ENROLMENT_FILE
    try:
        enrolment = Enrolment.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            "No master is configured", f"Run `decnet-agent join`, or set master = host:port in {config_path()}."
        ) from None
    except (OSError, ValidationError) as cause:
        raise ConfigError(f"{path} cannot be read", "Run `decnet-agent join` again.") from cause
    return Endpoint(enrolment.master, enrolment.listener_port)
