"""Join from a folder instead of the network: `decnet-agent join --bundle DIR`.

    DIR/enrolment.json                   who this worker is and where its master is
    DIR/<role>/key.pem, cert.pem, ca.pem for agent, logship and updater

`decnet-master swarm enroll NAME --out-dir DIR` writes it, for a worker that cannot reach the enrolment endpoint when it
is set up. Its keys were made on the master and travelled: whoever saw the folder is this worker. The first renewal puts
keys in their place that were made here. The folder is not removed; that is the operator's to do, and said.
"""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from decnet_agent import joining
from decnet_agent.grants import judged
from decnet_agent.settings import AgentSettings
from decnet_core.enrolment import ENROLMENT_FILE, Enrolment
from decnet_core.errors import ConfigError, Conflict, TrustError
from decnet_core.identity import WORKER_ROLES, Identity, Role
from decnet_core.pki.keystore import CA_FILE, CERTIFICATE_FILE, KEY_FILE, KeyStore
from decnet_core.pki.pin import MAX_CA_PEM_BYTES


def join_from(settings: AgentSettings, folder: Path) -> Identity:
    """Store a bundle's identities; return who this host is from now on. The same again changes nothing.

    Raises:
        Conflict: this host has joined already, as somebody else.
        TrustError: a key is open to others, or what is there does not hold together.
        RemoteProtocolError, ConfigError: it is no bundle, or the data directory cannot be written.
    """
    enrolment = _enrolment(folder)
    agent = Identity(Role.AGENT, enrolment.host)
    present = joining.read_enrolment(settings.data_directory)
    store = KeyStore(settings.identities_directory)
    if present is not None:
        try:
            if store.load(Role.AGENT, datetime.now(UTC)).identity != agent:
                raise Conflict(
                    f"This host has joined already, as {present.host}",
                    f"Decommission it on the master and remove {settings.identities_directory} first.",
                )
        except TrustError:
            pass  # it has ended or is damaged: the bundle mends it
        else:
            return agent
    pems = {role: _read(folder / role / CERTIFICATE_FILE).decode("ascii", "replace") for role in WORKER_ROLES}
    ca_pem = _read(folder / Role.AGENT / CA_FILE).decode("ascii", "replace")
    now = datetime.now(UTC)
    trusted, granted = judged(enrolment.host, ca_pem, pems, WORKER_ROLES, now)
    keys = {role: _key(folder / role / KEY_FILE) for role in WORKER_ROLES}
    joining.make_data_directory(settings.data_directory)
    with store.turn():
        for role in WORKER_ROLES:
            store.adopt_key(role, keys[role])
            store.store(role, granted[role], trusted, now)
    joining.remember(settings.data_directory, enrolment)
    joining.hand_over(settings.data_directory)
    return agent


def _enrolment(folder: Path) -> Enrolment:
    try:
        return Enrolment.model_validate_json(_read(folder / ENROLMENT_FILE))
    except ValidationError:
        raise ConfigError(
            f"{folder / ENROLMENT_FILE} is not what a bundle holds", "Copy the whole folder that the master wrote."
        ) from None


def _key(path: Path) -> bytes:
    content = _read(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise TrustError(f"{path} may be used by others (mode {mode:04o})", f"Run `chmod 600 {path}`.")
    return content


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4 * MAX_CA_PEM_BYTES)
    except OSError as cause:
        raise ConfigError(
            f"{path} cannot be read: {cause.strerror}", "Name the folder that `swarm enroll --out-dir` wrote."
        ) from cause
