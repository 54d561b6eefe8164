"""An operator for tests: let in by the master's own controller, with a key store of its own."""

from __future__ import annotations

from pathlib import Path

import httpx

from decnet_core.identity import MASTER_HOST, Identity, Role
from decnet_core.pki.certificates import make_csr
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.pki.tls import IdentityFiles, client_context
from tests.pki.world import now

ADDRESS = "127.0.0.2:0"
"""Where the door for operators is opened: not where the controller's own is."""


async def let_in(controller: httpx.AsyncClient, folder: Path, name: str) -> StoredIdentity:
    """Make a key in a folder and have the master sign for it."""
    store = KeyStore(folder)
    csr = make_csr(store.create_key(Role.OPERATOR), Identity(Role.OPERATOR, name)).decode("ascii")
    answer = await controller.post("/operators", json={"name": name, "csr": csr})
    assert answer.status_code == 201, answer.text
    grant = answer.json()
    return store.store(Role.OPERATOR, grant["certificate"].encode(), grant["ca_pem"].encode(), now())


def operator_client(port: int, files: IdentityFiles, host: str = MASTER_HOST) -> httpx.AsyncClient:
    """A client at the door for operators, that shows these files."""

    async def named(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = MASTER_HOST

    return httpx.AsyncClient(
        base_url=f"https://127.0.0.2:{port}",
        headers={"host": host},
        verify=client_context(files, files.ca),
        trust_env=False,
        event_hooks={"request": [named]},
        timeout=60.0,
    )
