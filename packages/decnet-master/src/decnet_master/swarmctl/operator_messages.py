"""What is said about operators, and to them; `messages` says what these documents are.

A request for a certificate (CSR) and a grant are no secrets: the key stays where the request was made.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from decnet_core.enrolment import MAX_CSR_CHARS
from decnet_core.fleet import Contract, HostName
from decnet_core.identity import MAX_OPERATOR_LENGTH

OperatorName = Annotated[HostName, Field(max_length=MAX_OPERATOR_LENGTH)]
Csr = Annotated[str, Field(max_length=MAX_CSR_CHARS)]


class SignRequest(Contract):
    """Let an operator in, with the key of a request; of that only the key is taken."""

    name: OperatorName
    csr: Csr


class RenewalRequest(Contract):
    """An operator's own request for a certificate for a new key."""

    csr: Csr


class Grant(Contract):
    """A certificate (PEM), and the CAs to trust with it."""

    name: OperatorName
    certificate: str
    ca_pem: str
    ends_at: datetime


class OperatorView(Contract):
    """Who may steer from elsewhere, or might until it was revoked.

    `certificates` are those that are current, `ends_at` is the end of the last of them, `seen_at` when one was last
    used, to the minute. `revoked_by` is an operator's name, or `(master)` for who was on the master itself.
    """

    name: str
    created_at: datetime
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    certificates: int
    ends_at: datetime | None = None
    seen_at: datetime | None = None


class OperatorList(Contract):
    """All operators, by name."""

    operators: tuple[OperatorView, ...]
