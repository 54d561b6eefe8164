"""The agent's composition root: what `decnet-agent serve` is made of.

    http       the master's calls, mutual TLS
    collector  consoles of the deckies -> events
    evidence   events of the taps
    log        the one writer of the event log
    keep       what the master last asked for, after a start and when a decky has ended
    identity   renewed certificates, used as soon as they are on the disk
    renewing   `decnet-agent renew` in time, for all identities of this worker
    guard      pauses the deckies when nothing contains them
    children   the log shipper, the tap and the containment process, unless units run them

Everything that can be refused is refused before anything starts: no identity (77), a port in use (5), a log that cannot
be written (78). A missing Docker engine is not among them: the master shall see that, so the agent answers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import structlog

from decnet_agent import __version__, neighbours
from decnet_agent.api import routes as http
from decnet_agent.api.server import serve
from decnet_agent.containment.channel import Guard, Guarding, Unguarded
from decnet_agent.deploying.execution import Executor
from decnet_agent.deploying.guarding import keep_guarded
from decnet_agent.deploying.keeping import keep
from decnet_agent.deploying.network_facts import network_facts
from decnet_agent.deploying.state import StateFile
from decnet_agent.engine.client import Engine, Limits
from decnet_agent.engine.contexts import ImageContexts
from decnet_agent.engine.labels import LABEL_DECKY
from decnet_agent.engine.pausing import Pauser
from decnet_agent.engine.watch import EngineWatch, SeenContainer
from decnet_agent.evidence.appending import EventAppender
from decnet_agent.evidence.artifacts import Artifacts
from decnet_agent.evidence.collector import Collector
from decnet_agent.evidence.event_log import EventLog
from decnet_agent.evidence.sensors import serve_evidence
from decnet_agent.furnishing.host_keys import HostKeys
from decnet_agent.memory import give_back
from decnet_agent.renewing import keep_renewed, renew_in_a_process
from decnet_agent.settings import AgentSettings
from decnet_core import daemon
from decnet_core.daemon import Ready
from decnet_core.endpoints import Endpoint, listen
from decnet_core.enrolment import ENROLMENT_FILE
from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_core.fleet import AgentStatus, DeckyPhase, DeckyState, Health, Shard, ShardReport
from decnet_core.identity import Role
from decnet_core.peer import ASGIApp
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity
from decnet_core.supervise import Child, keep_running

log = structlog.get_logger()


@dataclass
class Agent:
    """What the routes call; see `http`."""

    host: str
    executor: Executor
    watch: EngineWatch
    appender: EventAppender
    guard: Guarding = field(default_factory=Unguarded)
    sensors: int = 0

    def health(self) -> Health:
        """Tell that the agent lives."""
        return Health(role=Role.AGENT.value, host=self.host, version=__version__)

    async def status(self) -> AgentStatus:
        """Tell what runs here, also without an engine."""
        try:
            engine: str | None = await self.watch.version()
            seen = {item.labels.get(LABEL_DECKY, ""): item for item in await self.watch.containers(LABEL_DECKY)}
        except (Unavailable, RemoteProtocolError):
            engine, seen = None, {}
        return AgentStatus(
            host=self.host,
            version=__version__,
            generation=self.executor.generation,
            deckies=tuple(_states(self.executor, seen)),
            engine=engine,
            taps="kernel" if self.sensors else "none",
            containment=_told(await self.guard.state()),
            events_written=self.appender.written,
            at=datetime.now(UTC),
        )

    async def apply(self, shard: Shard) -> ShardReport:
        """Make the worker run what the shard says."""
        return await self.executor.apply(shard)


@dataclass
class App:
    """A built agent: call `run` once."""

    settings: AgentSettings
    identity: LiveIdentity
    renews: bool
    server: socket.socket
    event_log: EventLog
    agent: Agent
    collector: Collector
    children: tuple[Child, ...]

    def run(self) -> None:
        """Run until a signal comes.

        Raises:
            DecnetError: what ended the agent.
        """
        try:
            asyncio.run(self._run())
        finally:
            self.agent.executor.close()
            self.event_log.close()
            self.server.close()

    async def _run(self) -> None:
        ready = Ready(2 + len(self.children))
        appender = self.agent.appender

        def count_sensors(number: int) -> None:
            self.agent.sensors = number

        def up() -> None:
            log.info("agent.started", host=self.agent.host, address=self.settings.agent_address, version=__version__)
            ready.one_more()
            give_back()

        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "log": appender.run,
            "collector": self.collector.run,
            "evidence": partial(
                serve_evidence,
                self.settings.evidence_socket,
                appender.cursor,
                appender.append,
                ready=ready.one_more,
                connected=count_sensors,
            ),
            "http": partial(serve, self._routes(), self.server, self.identity.server_context(), up),
            "identity": self.identity.watch,
            "keep": partial(keep, self.agent.executor, self.agent.watch),
            "guard": partial(keep_guarded, self.agent.guard, Pauser(self.settings.docker_host)),
        }
        if self.renews:
            tasks["renewing"] = partial(keep_renewed, self.identity, renew_in_a_process)
        for child in self.children:
            tasks[child.name] = partial(keep_running, child, up=ready.one_more)
        await daemon.run(tasks, ready)

    def _routes(self) -> ASGIApp:
        return http.build(self.agent, Artifacts(self.settings.quarantine_directory))


def build(settings: AgentSettings, *, forwarder: bool = True, tap: bool = True, containment: bool = True) -> App:
    """Make an agent; the port is bound when this comes back.

    Args:
        forwarder: bring up the log shipper beside the agent, where it is installed and no unit runs it.
        tap, containment: the same for these.

    Raises:
        TrustError: this host has not joined, or its identity has ended.
        Conflict: another process has the port or writes the event log.
        ConfigError: a directory cannot be written, or a setting does not fit.
    """
    identity = LiveIdentity.open(KeyStore(settings.identities_directory), Role.AGENT, datetime.now(UTC))
    server = listen(Endpoint.parse(settings.agent_address), "agent-address")
    watch = EngineWatch(settings.docker_host)
    state = StateFile(settings.state_directory)
    host = identity.stored.identity.host
    event_log = EventLog.open(
        settings.event_log,
        settings.state_directory,
        host=host,
        max_bytes=settings.event_log_file_bytes,
        now=lambda: datetime.now(UTC),
    )
    _make_run_directory(settings)
    appender = EventAppender(event_log)
    collector = Collector(watch, appender, settings.deckies_file)
    guard = _guard(settings)
    executor = Executor(
        host,
        _engine(settings),
        state=state,
        host_keys=HostKeys(settings.state_directory / "host-keys"),
        facts=lambda: network_facts(settings, state.state),
        consoles=collector,
        guard=guard,
    )
    enrolled = (settings.data_directory / ENROLMENT_FILE).exists()
    children = (
        neighbours.containment(wanted=containment and settings.containment == "required"),
        neighbours.shipper(wanted=forwarder, master_known=enrolled),
        neighbours.tap(wanted=tap),
    )
    return App(
        settings=settings,
        identity=identity,
        renews=enrolled,
        server=server,
        event_log=event_log,
        agent=Agent(host, executor, watch, appender, guard),
        collector=collector,
        children=tuple(child for child in children if child is not None),
    )


def _guard(settings: AgentSettings) -> Guarding:
    if settings.containment == "off":
        return Unguarded()
    return Guard(settings.containment_socket, settings.allowed_egress, settings.allowed_egress_per_second)


def _told(state: str) -> str:
    """Say to the master how deckies are contained; that nobody says is as good as not at all."""
    return "none" if state == "silent" else state


def _engine(settings: AgentSettings) -> Engine:
    return Engine(
        settings.docker_host,
        ImageContexts(settings.images_directory),
        network_name=settings.network_name,
        base_image=settings.base_image,
        rootfs_image=settings.rootfs_image,
        limits=Limits(
            memory_bytes=settings.decky_memory_bytes,
            pids=settings.decky_pids,
            cpus=settings.decky_cpus,
            log_file_bytes=settings.container_log_file_bytes,
            log_files=settings.container_log_files,
        ),
    )


def _make_run_directory(settings: AgentSettings) -> None:
    try:
        settings.run_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as cause:
        raise Unavailable(
            f"{settings.run_directory} cannot be made: {cause.strerror}",
            "Make it a folder of the user who runs the agent, or set run-directory.",
        ) from cause


def _states(executor: Executor, seen: dict[str, SeenContainer]) -> list[DeckyState]:
    assigned, contested = executor.assignments, executor.contested
    states: list[DeckyState] = []
    for spec in () if executor.shard is None else executor.shard.deckies:
        given, container = assigned.get(spec.name), seen.get(spec.name)
        paused = container is not None and container.paused
        running = container is not None and container.running and not paused
        states.append(
            DeckyState(
                name=spec.name,
                phase=DeckyPhase.RUNNING if running else DeckyPhase.STOPPED,
                services=spec.services,
                ip=None if given is None else given.ip,
                mac=None if given is None else given.mac,
                container=None if container is None else container.id,
                error=None
                if running
                else "nothing contains it: it is paused"
                if paused
                else "its container does not run",
                moved_from=None if given is None else given.moved_from,
                moved_because=None if given is None else given.moved_because,
                contested_by=contested.get(spec.name),
            )
        )
    return states
