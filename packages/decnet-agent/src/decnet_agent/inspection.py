"""`status` and `doctor`: look at this worker from itself, without the agent and without changing anything."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from decnet_agent import __version__
from decnet_agent.containment.channel import Guard, Unguarded
from decnet_agent.deploying.network_facts import network_facts
from decnet_agent.deploying.state import read_state
from decnet_agent.engine.contexts import ImageContexts, image_tag
from decnet_agent.engine.labels import LABEL_DECKY, LABEL_IP, LABEL_SERVICES
from decnet_agent.engine.watch import EngineWatch
from decnet_agent.joining import read_enrolment
from decnet_agent.settings import AgentSettings
from decnet_agent.shipping import ShippingState, ask_shipper
from decnet_core.errors import ConfigError, DecnetError, ExitCode, NotFound, TrustError, Unavailable
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import renewal_due

_LATE = timedelta(hours=2)
"""A renewal is tried at growing intervals of up to an hour."""


def print_status(settings: AgentSettings, *, as_json: bool) -> int:
    """Print who this worker is and what runs here; return the exit code."""
    document = _status(settings)
    out = sys.stdout.write
    if as_json:
        out(json.dumps(document, indent=2) + "\n")
        return ExitCode.OK
    out(f"host    {document['host'] or 'not joined'}\n")
    out(f"master  {document['master'] or '-'}\n")
    out(f"until   {document['identity_until'] or '-'}\n")
    out(f"engine  {document['engine'] or 'does not answer'}\n")
    out(f"guard   {document['containment']}\n")
    out(f"logship {ShippingState(**document['logship']).words()}\n")
    for decky in document["deckies"]:
        state = "running" if decky["running"] else "stopped"
        out(f"decky   {decky['name']:<24} {decky['ip'] or '-':<16} {state:<8} {decky['services']}\n")
    return ExitCode.OK


def examine(settings: AgentSettings) -> int:
    """Check everything that the agent needs, print a line for each; return the exit code of the first that fails."""
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("joined", lambda: _check_joined(settings)),
        ("identity", lambda: _check_identity(settings)),
        ("engine", lambda: _check_engine(settings)),
        ("images", lambda: _check_images(settings)),
        ("lan", lambda: _check_lan(settings)),
        ("containment", lambda: _check_containment(settings)),
        ("event log", lambda: _check_directory(settings)),
    )
    code = ExitCode.OK
    for name, check in checks:
        try:
            sys.stdout.write(f"ok    {name}: {check()}\n")
        except DecnetError as error:
            sys.stdout.write(f"FAIL  {name}: {error.message}\n      {error.advice}\n")
            code = code or error.exit_code
    return code


def _status(settings: AgentSettings) -> dict[str, Any]:
    enrolment = read_enrolment(settings.data_directory)
    try:
        until: str | None = _identity_until(settings)
    except TrustError:
        until = None
    watch = EngineWatch(settings.docker_host)
    try:
        engine: str | None = asyncio.run(watch.version())
        seen = asyncio.run(watch.containers(LABEL_DECKY))
    except Unavailable:
        engine, seen = None, []
    return {
        "version": __version__,
        "host": None if enrolment is None else enrolment.host,
        "master": None if enrolment is None else enrolment.master,
        "identity_until": until,
        "engine": engine,
        "containment": asyncio.run(_guard(settings).state()),
        "logship": ask_shipper().document(),
        "deckies": [
            {
                "name": item.labels.get(LABEL_DECKY),
                "ip": item.labels.get(LABEL_IP),
                "services": item.labels.get(LABEL_SERVICES),
                "running": item.running,
                "container": item.id,
            }
            for item in seen
        ],
    }


def _check_joined(settings: AgentSettings) -> str:
    enrolment = read_enrolment(settings.data_directory)
    if enrolment is None:
        raise TrustError(
            "This host has not joined a master",
            "Run `decnet-agent join` with the token that `decnet-master swarm enroll` prints.",
        )
    return f"{enrolment.host}, master {enrolment.master}"


def _check_identity(settings: AgentSettings) -> str:
    stored = KeyStore(settings.identities_directory).load(Role.AGENT, datetime.now(UTC))
    due = renewal_due(stored)
    if datetime.now(UTC) - due > _LATE:
        raise TrustError(
            f"The certificates should have been renewed at {due:%Y-%m-%d %H:%M} UTC, and end at "
            f"{stored.not_after:%Y-%m-%d %H:%M} UTC",
            "`decnet-agent renew` says why it cannot be done.",
        )
    return f"good until {stored.not_after.isoformat()}, renewed by itself after {due.isoformat()}"


def _identity_until(settings: AgentSettings) -> str:
    stored = KeyStore(settings.identities_directory).load(Role.AGENT, datetime.now(UTC))
    return stored.not_after.isoformat()


def _check_engine(settings: AgentSettings) -> str:
    return f"Docker {asyncio.run(EngineWatch(settings.docker_host).version())} at {settings.docker_host}"


def _check_images(settings: AgentSettings) -> str:
    contexts = ImageContexts(settings.images_directory)
    services = sorted(contexts.services())
    if not services:
        raise ConfigError("There is no build context for any service", "Correct images-directory.")
    for service in services:
        contexts.contract(service)
    present = asyncio.run(EngineWatch(settings.docker_host).image_tags())
    sources = {settings.base_image, settings.rootfs_image, *(image_tag((service,)) for service in services)}
    if sources.isdisjoint(present):
        raise NotFound(
            f"The engine holds neither {settings.base_image} nor {settings.rootfs_image}",
            f"Import one: mmdebstrap --variant=minbase bookworm - | docker import - {settings.rootfs_image}",
        )
    return f"can be built for {', '.join(services)}"


def _check_lan(settings: AgentSettings) -> str:
    facts = network_facts(settings, read_state(settings.state_directory))
    router = "no router is known" if facts.gateway is None else f"router {facts.gateway}"
    return f"{facts.subnet} on {facts.interface}, {router}"


def _guard(settings: AgentSettings) -> Guard | Unguarded:
    return Unguarded() if settings.containment == "off" else Guard(settings.containment_socket)


def _check_containment(settings: AgentSettings) -> str:
    guard = _guard(settings)
    if isinstance(guard, Unguarded):
        return "OFF, as the configuration says: whoever is in a decky can attack anybody"
    status = asyncio.run(guard.status())
    for interface in status.interfaces:
        if interface.fault is not None:
            raise Unavailable(
                f"The deckies on {interface.name} are not contained, so they are paused: {interface.fault}",
                "`journalctl -u decnet-containment` says more; it is tried again every two seconds.",
            )
    held = [
        f"{each.pairs} deckies on {each.name}{'' if each.owned else ' (by rules that others can remove)'}"
        for each in status.interfaces
    ]
    return f"{', '.join(held) or 'no deckies yet'}; {status.blocked} frames blocked since it started"


def _check_directory(settings: AgentSettings) -> str:
    folder = settings.log_directory
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        raise ConfigError(
            f"{folder} cannot be written by this user", "Run this as the agent's user, or correct log-directory."
        )
    return str(settings.event_log)
