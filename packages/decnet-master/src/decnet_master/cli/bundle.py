"""`swarm enroll NAME --out-dir DIR`: a worker's identities in a folder, for one that reaches no enrolment endpoint now.

    DIR/enrolment.json                    who it is and where its master is
    DIR/<role>/key.pem, cert.pem, ca.pem  for agent, logship and updater

The folder is made 0700, every file 0600. The keys are made here, in this process, and the controller sees only the
requests; but they travel with the folder, which joining by token avoids. The folder is made before anything is asked
for, so that one that cannot be written enrols nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from decnet_core.enrolment import ENROLMENT_FILE
from decnet_core.errors import ConfigError, Conflict
from decnet_core.identity import WORKER_ROLES, Identity
from decnet_core.pki.certificates import generate_key, key_pem, make_csr
from decnet_core.pki.durable import SECRET_MODE, create_file
from decnet_core.pki.keystore import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from decnet_master.cli.client import Controller
from decnet_master.swarmctl.messages import BundleRequest


def write_bundle(
    controller: Controller,
    name: str,
    folder: Path,
    address: str | None,
    *,
    ports: Mapping[str, int],
    labels: Mapping[str, str],
) -> None:
    """Enrol a worker and write its folder.

    Args:
        controller: to be asked.
        name: of the worker.
        folder: new, or empty.
        address: where the master reaches it; None until it is known.
        ports: those that are not the usual ones, as a `BundleRequest` names them.
        labels: of the worker.

    Raises:
        ConfigError: the folder cannot be written; when some of it was, the worker has to be decommissioned.
        Conflict: the folder holds something, or the name is taken or reserved.
        Unavailable: the controller does not answer.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Conflict(f"{folder} is not empty", "Name a folder that does not exist yet.")
        folder.chmod(0o700)
        for role in WORKER_ROLES:
            (folder / role).mkdir(mode=0o700)
        keys = {role: generate_key() for role in WORKER_ROLES}
        csrs = {role: make_csr(key, Identity(role, name)).decode("ascii") for role, key in keys.items()}
        try:
            request = BundleRequest(name=name, address=address, csrs=csrs, labels=dict(labels), **ports)
            reply = controller.bundle(request)
        except BaseException:
            for role in WORKER_ROLES:
                (folder / role).rmdir()
            raise
        for role, key in keys.items():
            create_file(folder / role / KEY_FILE, key_pem(key), SECRET_MODE)
            create_file(folder / role / CERTIFICATE_FILE, reply.certificates[role].encode("ascii"), SECRET_MODE)
            create_file(folder / role / CA_FILE, reply.ca_pem.encode("ascii"), SECRET_MODE)
        create_file(folder / ENROLMENT_FILE, reply.enrolment.model_dump_json().encode(), SECRET_MODE)
    except OSError as cause:
        raise ConfigError(
            f"{folder} cannot be written: {cause.strerror}",
            f"Name another folder; if `decnet-master swarm list` shows {name} as active, decommission it first.",
        ) from cause
