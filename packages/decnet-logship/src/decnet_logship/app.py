"""Put logship together: settings, where the receiver is, identity, one shipper for each log."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog
from pydantic import ValidationError

from decnet_core.daemon import run
from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import ENROLMENT_FILE, Enrolment
from decnet_core.errors import ConfigError
from decnet_core.identity import Identity, Role
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.pki.tls import bound_connection_memory, client_context
from decnet_core.settings import config_path
from decnet_core.shipping.control import ALPN
from decnet_core.shipping.sender import Limits
from decnet_logship.connection import Connection, Source
from decnet_logship.generations import Register
from decnet_logship.label import label_of
from decnet_logship.plain import PlainConnection, Receiver
from decnet_logship.rotation import Rotation
from decnet_logship.settings import LogshipSettings
from decnet_logship.shipper import Link, Shipper
from decnet_logship.state import State, StateWriter, acked_before
from decnet_logship.wakeup import watch

log = structlog.get_logger()


class App:
    """Logship as a daemon.

    Attributes:
        tasks: what it does, by name.
        shippers: the event log's first, then one for each further file.
    """

    def __init__(self, settings: LogshipSettings, endpoint: Endpoint, identity: Identity) -> None:
        self._settings = settings
        self._endpoint = endpoint
        register = Register(settings.register_file)
        state = State(master=str(endpoint), protocol=settings.protocol)
        self._writer = writer = StateWriter(settings.state_file, state, register)
        before = acked_before(settings.state_file)
        dial = self._dial if settings.protocol == "decnet-log" else self._dial_plainly
        self.shippers = [
            Shipper(rotation, dial, writer, before, settings.reconnect_max_secs)
            for rotation in rotations(settings, register, identity)
        ]
        self.tasks: dict[str, Callable[[], Awaitable[None]]] = {"state": writer.run}
        for number, shipper in enumerate(self.shippers):
            self.tasks[f"ship-{number}"] = shipper.run
        for number, folder in enumerate(dict.fromkeys(path.parent for path in self.paths)):
            self.tasks[f"watch-{number}"] = functools.partial(watch, folder, self._wake)

    @property
    def state(self) -> State:
        """How shipping stands now."""
        return self._writer.state

    @property
    def paths(self) -> list[Path]:
        """The logs that are shipped."""
        return [self._settings.event_log_path, *self._settings.files]

    async def run(self) -> None:
        """Run until a signal comes; a master that is away is waited for."""
        log.info(
            "logship.started",
            master=str(self._endpoint),
            protocol=self._settings.protocol,
            event_log=str(self._settings.event_log_path),
            files=[str(path) for path in self._settings.files],
        )
        bound_connection_memory()
        try:
            await run(self.tasks)
        finally:
            self.close()

    def close(self) -> None:
        """Write the last state, once all tasks have ended."""
        self._writer.close()
        for shipper in self.shippers:
            shipper.close()

    def _wake(self) -> None:
        for shipper in self.shippers:
            shipper.wake()

    async def _dial(self, source: Source) -> Link:
        settings, files = self._settings, _identity(self._settings).files
        context = client_context(files, files.ca, (ALPN,))
        limits = Limits(ack_secs=settings.ack_timeout_secs, window_bytes=settings.window_bytes)
        return await Connection.open(self._endpoint, context, settings.connect_timeout_secs, limits, source)

    async def _dial_plainly(self, source: Source) -> Link:
        settings, files = self._settings, _identity(self._settings).files
        receiver = Receiver(self._endpoint, settings.receiver_name, settings.receiver_ca or files.ca)
        limits = Limits(ack_secs=settings.ack_timeout_secs, window_bytes=settings.window_bytes)
        return await PlainConnection.open(receiver, files, settings.connect_timeout_secs, limits, source)


def build(settings: LogshipSettings) -> App:
    """Wire logship.

    Raises:
        TrustError: this worker has no identity that can be used.
        ConfigError: no master is configured, or the files to ship do not make sense.
    """
    if settings.event_log_path in settings.files:
        raise ConfigError("The setting files names the event log", "Leave it out: it is shipped anyway.")
    if settings.protocol == "rfc5425" and settings.master is None:
        raise ConfigError(
            "The protocol rfc5425 needs the setting master",
            f"Set master = host:port of the syslog receiver in {config_path()}.",
        )
    identity = _identity(settings).identity  # first: who never joined, or too long ago, has no use for another advice
    return App(settings, master_endpoint(settings), identity)


def rotations(settings: LogshipSettings, register: Register, identity: Identity | None) -> list[Rotation]:
    """Make the logs to ship; without an identity they can be looked at, not shipped."""
    host = "-" if identity is None else identity.host
    further = [Rotation(path, register, label_of(path, host), settings.max_line_bytes) for path in settings.files]
    return [Rotation(settings.event_log_path, register), *further]


def master_endpoint(settings: LogshipSettings) -> Endpoint:
    """Tell where the receiver is: as configured, else as learnt by joining.

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


def _identity(settings: LogshipSettings) -> StoredIdentity:
    return KeyStore(settings.identities_directory).load(Role.LOGSHIP, datetime.now(UTC))
