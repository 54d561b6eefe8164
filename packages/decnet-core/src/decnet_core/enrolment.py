"""Joining and renewing: the token an operator carries to a worker, and what worker and master say to each other.

A token is `decnet-join.` and the base64url of one JSON object. It holds the master's enrolment address, the SHA-256
of the CA's DER certificate (the pin), the token's id and secret, the worker's name and the time it ends. It works
once. The master stores only a hash of the secret.

The order on the wire, over TLS to the enrolment address:
  1. `GET /ca` without trust in anything: the answer is compared with the pin before anything else is sent.
  2. On a new connection that trusts this CA alone and checks the name `decnet-master`: `POST /join` with the token's
     id, its secret and one CSR for each identity (agent, logship, updater). The keys never leave the worker.
  3. The answer holds the certificates and all CAs that are trusted, the pinned one among them. The same keys with the
     same token get the same answer again, so that an answer lost on the way costs nothing; other keys with a used token
     are refused.

Renewing goes to the same address, on a connection on which the worker shows its agent's certificate: `POST /renew` with
CSRs for new keys. The same keys get the same certificates again. When they are stored, `GET /renewed` on a connection
that shows the new one tells the master so: it must know which workers have learnt of a new CA.

A worker that has just been installed asks with the same certificate whether the master reaches its agent: `POST /seen`.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated

from pydantic import AwareDatetime, Field

from decnet_core.errors import TrustError
from decnet_core.fleet import Contract, HostName
from decnet_core.identity import MAX_HOST_LENGTH, Role

TOKEN_PREFIX = "decnet-join."  # noqa: S105 -- a format's name, not a secret
MAX_TOKEN_CHARS = 2048
MAX_CSR_CHARS = 8192
"""An RSA-4096 CSR is under 2 KiB of PEM."""

AGENT_PORT, UPDATER_PORT = 8765, 8766
"""Where the master reaches a worker that says nothing else."""

WorkerName = Annotated[HostName, Field(max_length=MAX_HOST_LENGTH)]


class JoinToken(Contract):
    """What a token holds."""

    address: Annotated[str, Field(max_length=260)]
    """`host:port` of the master's enrolment endpoint."""
    pin: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    secret: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$", repr=False)]
    host: WorkerName
    expires_at: AwareDatetime

    def encode(self) -> str:
        """Write the token as the one word that an operator pastes."""
        return TOKEN_PREFIX + base64.urlsafe_b64encode(self.model_dump_json().encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Read a token.

        Raises:
            TrustError: it is not one, or was cut on the way.
        """
        advice = "Copy the whole token that `decnet-master swarm enroll` printed, or ask for a new one."
        text = text.strip()
        if not text.startswith(TOKEN_PREFIX) or len(text) > MAX_TOKEN_CHARS:
            raise TrustError("That is not a join token", advice)
        body = text.removeprefix(TOKEN_PREFIX)
        try:
            document = json.loads(base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
            return cls.model_validate(document)
        except (ValueError, RecursionError):
            # Base64, UTF-8, JSON and pydantic all say ValueError. Not chained: pydantic's text would quote the secret.
            raise TrustError("The join token is damaged", advice) from None


class JoinRequest(Contract):
    """The worker's half: who it is by the token, and one CSR (PEM) for each identity."""

    token_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    secret: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$", repr=False)]
    version: Annotated[str, Field(max_length=64)]
    agent_port: Annotated[int, Field(ge=1, le=0xFFFF)] = AGENT_PORT
    updater_port: Annotated[int, Field(ge=1, le=0xFFFF)] = UPDATER_PORT
    address: Annotated[str, Field(max_length=255)] | None = None
    """Where the master reaches this worker; None means the address that the request came from."""
    csrs: dict[Role, Annotated[str, Field(max_length=MAX_CSR_CHARS)]]


class JoinReply(Contract):
    """The master's half: the CAs to trust and one certificate (PEM) for each identity asked for."""

    host: WorkerName
    ca_pem: str
    certificates: dict[Role, str]
    listener_port: Annotated[int, Field(ge=1, le=0xFFFF)]
    """Port of the master's log listener, on the address that the worker joined at."""


class RenewRequest(Contract):
    """The worker's half of a renewal: one CSR (PEM) for each identity."""

    version: Annotated[str, Field(max_length=64)]
    csrs: Annotated[dict[Role, Annotated[str, Field(max_length=MAX_CSR_CHARS)]], Field(min_length=1)]


class RenewReply(Contract):
    """The master's half of a renewal: the CAs to trust from now on, and one certificate (PEM) for each identity."""

    host: WorkerName
    ca_pem: str
    certificates: dict[Role, str]


class SeenReply(Contract):
    """Whether the master reached the agent that asked, and else what it met, as an operator would be told."""

    ok: bool
    error: Annotated[str, Field(max_length=1000)] = ""
    advice: Annotated[str, Field(max_length=1000)] = ""


class Enrolment(Contract):
    """What a worker remembers of its joining: `<data-directory>/enrolment.json`, readable by all its daemons."""

    host: WorkerName
    master: Annotated[str, Field(max_length=255)]
    """Host name or address of the master, as the token gave it."""
    listener_port: Annotated[int, Field(ge=1, le=0xFFFF)]
    enrolment_port: Annotated[int, Field(ge=1, le=0xFFFF)]


ENROLMENT_FILE = "enrolment.json"
