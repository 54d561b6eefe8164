"""Make a bare host a worker: `decnet-agent join TOKEN`.

The order is that of `decnet_core.enrolment`: ask for the CA without trust, check its pin, make keys, ask on a new
connection that trusts this CA alone, judge, store. Until the pin is checked only the question for the CA is sent.

It can be repeated at any point. Keys are made once and kept while they wait for their certificates, and those that
have theirs already are asked for again with the same key, so that the master sees the same request and gives the same
answer. `enrolment.json` is written last: with it the worker has joined.

    <data-directory>/identities/      see `decnet_core.pki.keystore`
    <data-directory>/enrolment.json   0644: the name, the master, its ports

All belongs to the owner of the data directory, also when root joins: the daemons run as that user.
"""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from decnet_agent import __version__, master_client
from decnet_agent.grants import judged
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import ENROLMENT_FILE, UPDATER_PORT, Enrolment, JoinReply, JoinRequest, JoinToken
from decnet_core.errors import ConfigError, Conflict, DecnetError, RemoteProtocolError, TrustError
from decnet_core.identity import WORKER_ROLES, Identity, Role
from decnet_core.pki.durable import PUBLIC_MODE, replace_file
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.pki.pin import pinned_ca, pins_in
from decnet_core.pki.tls import client_context
from decnet_core.settings import passed_on

if TYPE_CHECKING:
    from decnet_core.pki.certificates import PrivateKey

SERVICE_USER = "decnet"


def join(settings: AgentSettings, token: JoinToken, *, address: str | None = None) -> Identity:
    """Join the master that a token names; return who this host is from now on.

    Args:
        address: where the master reaches this worker; None lets it take the address that the request comes from.

    Raises:
        Conflict: this host has joined as somebody else already.
        TrustError: the pin does not match, the master refuses the token, or its answer is not for the keys sent.
        Unavailable: the master does not answer; the same command again is harmless.
        ConfigError: the data directory cannot be written, or an address of this worker is none that can be told.
    """
    agent = Identity(Role.AGENT, token.host)
    store = KeyStore(settings.identities_directory)
    if has_joined(settings, token):
        return agent
    master = Endpoint.parse(token.address)
    ca_pem = pinned_ca(master_client.fetch_ca(master), token.pin)
    make_data_directory(settings.data_directory)
    with store.turn():
        reply = _trade(settings, token, store, ca_pem, address)
    enrolment = Enrolment(
        host=reply.host, master=master.host, listener_port=reply.listener_port, enrolment_port=master.port
    )
    remember(settings.data_directory, enrolment)
    hand_over(settings.data_directory)
    return agent


def _trade(settings: AgentSettings, token: JoinToken, store: KeyStore, ca_pem: bytes, address: str | None) -> JoinReply:
    """Trade the token for identities, and store those."""
    usable = {role: stored for role in WORKER_ROLES if (stored := _usable(store, role, token)) is not None}
    request = JoinRequest(
        token_id=token.id,
        secret=token.secret,
        version=__version__,
        agent_port=_port("agent-address", settings.agent_address),
        updater_port=_port("updater-address", passed_on("updater", "updater-address", f"0.0.0.0:{UPDATER_PORT}")),
        address=address,
        csrs={role: _csr(store, Identity(role, token.host), usable.get(role)) for role in WORKER_ROLES},
    )
    try:
        reply = _ask(settings.data_directory, Endpoint.parse(token.address), ca_pem, request)
        _store(store, token, reply, missing=[role for role in WORKER_ROLES if role not in usable])
    except TrustError as error:
        raise TrustError(error.message, _expiry_hint(token) + error.advice) from error
    return reply


def _port(setting: str, address: str) -> int:
    port = Endpoint.parse(address).port
    if port == 0:
        raise ConfigError(
            f"{setting} leaves the port open, and the master must know it", f"Name one in {setting} before joining."
        )
    return port


def read_enrolment(data_directory: Path) -> Enrolment | None:
    """Return what this worker remembers of its joining; None before it.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = data_directory / ENROLMENT_FILE
    try:
        return Enrolment.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as cause:
        if isinstance(cause, OSError):
            advice = "Run as root, or as the user who runs the agent."
            raise ConfigError(f"{path} cannot be read: {cause.strerror}", advice) from None
        raise ConfigError(f"{path} holds something else than an enrolment", "Remove it and join again.") from None


def has_joined(settings: AgentSettings, token: JoinToken) -> bool:
    """Tell whether the host is what the token would make it: then joining changes nothing.

    It is not when its identities have ended or are damaged, when the master refuses them (it was decommissioned), or
    when that master has another CA now. A master that does not answer does not count as refusing.

    Raises:
        Conflict: it is somebody else.
        ConfigError: what it remembers of its joining cannot be read.
    """
    store = KeyStore(settings.identities_directory)
    enrolment = read_enrolment(settings.data_directory)
    if enrolment is None:
        return False
    try:
        agent, *_ = (store.load(role, datetime.now(UTC)) for role in WORKER_ROLES)
    except TrustError:
        return False
    master = Endpoint.parse(token.address)
    pinned = token.pin in _pins_of(agent)
    if enrolment.host != token.host or not (pinned or enrolment.master == master.host):
        raise Conflict(
            f"This host has joined already, as {agent.identity.host}",
            f"Decommission it on the master and remove {settings.identities_directory} and "
            f"{settings.data_directory / ENROLMENT_FILE} before it joins as {token.host}.",
        )
    try:
        return pinned and _is_current(master, agent)
    except DecnetError:
        return True


def _usable(store: KeyStore, role: Role, token: JoinToken) -> StoredIdentity | None:
    """Return an identity that a broken-off attempt with this token has stored already."""
    try:
        stored = store.load(role, datetime.now(UTC))
    except TrustError:
        return None
    if stored.identity.host != token.host or token.pin not in _pins_of(stored):
        return None
    return stored if _is_current(Endpoint.parse(token.address), stored) else None


def _is_current(master: Endpoint, stored: StoredIdentity) -> bool:
    """Ask the master whether it takes an identity."""
    try:
        master_client.confirm(master, client_context(stored.files, stored.files.ca))
    except TrustError:
        return False
    return True


def _pins_of(stored: StoredIdentity) -> frozenset[str]:
    return pins_in(stored.files.ca.read_text(encoding="ascii"))


def _csr(store: KeyStore, identity: Identity, stored: StoredIdentity | None) -> str:
    from decnet_core.pki.certificates import make_csr  # noqa: PLC0415 - `cryptography` only here

    key = store.create_key(identity.role) if stored is None else _stored_key(stored)
    return make_csr(key, identity).decode("ascii")


def _stored_key(stored: StoredIdentity) -> PrivateKey:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - as above

    from decnet_core.pki.certificates import PrivateKey  # noqa: PLC0415 - as above

    key = load_pem_private_key(stored.files.key.read_bytes(), None)
    if not isinstance(key, PrivateKey):
        raise TrustError(f"{stored.files.key} is of another type", f"Remove {stored.files.key.parent} and join again.")
    return key


def _ask(data_directory: Path, master: Endpoint, ca_pem: bytes, request: JoinRequest) -> JoinReply:
    with tempfile.NamedTemporaryFile(dir=data_directory, prefix=".ca.", suffix=".pem") as ca:
        ca.write(ca_pem)
        ca.flush()
        return master_client.ask_to_join(master, client_context(None, Path(ca.name)), request)


def _store(store: KeyStore, token: JoinToken, reply: JoinReply, *, missing: Sequence[Role]) -> None:
    if reply.host != token.host:
        raise RemoteProtocolError("The master's answer is for another host", "Ask for a new token and join again.")
    now = datetime.now(UTC)
    trusted, granted = judged(token.host, reply.ca_pem, reply.certificates, WORKER_ROLES, now, pin=token.pin)
    for role in missing:
        store.store(role, granted[role], trusted, now)


def remember(data_directory: Path, enrolment: Enrolment) -> None:
    """Write down who this worker is and where its master is; with it the host has joined.

    Raises:
        ConfigError: the directory cannot be written.
    """
    try:
        replace_file(data_directory / ENROLMENT_FILE, enrolment.model_dump_json().encode(), PUBLIC_MODE)
    except OSError as cause:
        raise _unwritable(data_directory, cause) from cause


def make_data_directory(path: Path) -> None:
    """Make the data directory where there is none; root gives it to the daemons' user.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        if not path.exists():
            path.mkdir(mode=0o750, parents=True)
            if os.geteuid() == 0 and (owner := _service_owner()) is not None:
                os.chown(path, *owner)
    except OSError as cause:
        raise _unwritable(path, cause) from cause


def hand_over(data_directory: Path) -> None:
    """Give what root made to the owner of the data directory.

    Raises:
        ConfigError: that cannot be done.
    """
    if os.geteuid() != 0:
        return
    try:
        state = data_directory.stat()
        mine = [data_directory / ENROLMENT_FILE, data_directory / "identities"]
        mine += (data_directory / "identities").rglob("*")
        for path in mine:
            os.chown(path, state.st_uid, state.st_gid, follow_symlinks=False)
    except OSError as cause:
        raise _unwritable(data_directory, cause) from cause


def _service_owner() -> tuple[int, int] | None:
    try:
        user = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    return user.pw_uid, user.pw_gid


def _expiry_hint(token: JoinToken) -> str:
    return "" if datetime.now(UTC) < token.expires_at else f"The token ended at {token.expires_at:%Y-%m-%d %H:%M %Z}. "


def _unwritable(path: Path, cause: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be written: {cause.strerror}", "Run `decnet-agent join` as root, or set data-directory."
    )
