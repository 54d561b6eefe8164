"""Errors over HTTP: one table from our errors to problem+json, and the way back for our own clients.

A problem holds `type` (`urn:decnet:problem:<kind>`), `title`, `status`, `detail` (what happened), `advice` (what to do)
and `request_id`. The kind names the error's class, so that `decnet-master`, asking the controller, ends with the same
exit code as if it had met the error itself.

No web framework is needed here, because the CLI reads problems too; `http_app` answers with them.

Source: RFC 9457.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from decnet_core import errors
from decnet_core.errors import DecnetError
from decnet_core.logs import shown
from decnet_master.planning import NoWorkers

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:decnet:problem:"
MAX_DETAIL_CHARS = 500
"""A message is a sentence; what is longer comes from something that is not ours."""


class Unauthenticated(errors.TrustError):
    """Who asks is not known: no token, or one that is not or no longer good."""


class TooManyRequests(errors.RetryLater):
    """The caller asks faster than a person or a worker would."""


class TooLarge(errors.RemoteProtocolError):
    """The body is larger than any that this endpoint takes."""


class TooSlow(errors.RemoteProtocolError):
    """The body did not arrive in time."""


# The most telling class first: an error is what the first line says that it is an instance of.
_TABLE: tuple[tuple[type[DecnetError], HTTPStatus, str], ...] = (
    (Unauthenticated, HTTPStatus.UNAUTHORIZED, "unauthenticated"),
    (TooManyRequests, HTTPStatus.TOO_MANY_REQUESTS, "too-many-requests"),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large"),
    (TooSlow, HTTPStatus.REQUEST_TIMEOUT, "too-slow"),
    (errors.RemoteProtocolError, HTTPStatus.BAD_REQUEST, "bad-request"),
    (errors.TrustError, HTTPStatus.FORBIDDEN, "not-trusted"),
    (errors.RetryLater, HTTPStatus.SERVICE_UNAVAILABLE, "retry-later"),
    (errors.Unavailable, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    (errors.Conflict, HTTPStatus.CONFLICT, "conflict"),
    (errors.NotFound, HTTPStatus.NOT_FOUND, "not-found"),
    (NoWorkers, HTTPStatus.CONFLICT, "no-workers"),
    (errors.ConfigError, HTTPStatus.INTERNAL_SERVER_ERROR, "configuration"),
    (DecnetError, HTTPStatus.INTERNAL_SERVER_ERROR, "failed"),
)

_RETRY_AFTER_SECS = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it goes over the wire.

    Attributes:
        status: of the answer.
        kind: the end of its type's URN.
        detail: what happened.
        advice: what to do.
        headers: of the answer, beside its type.
    """

    status: HTTPStatus
    kind: str
    detail: str
    advice: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self, request_id: str) -> dict[str, Any]:
        """Write the answer's body."""
        return {
            "type": TYPE_PREFIX + self.kind,
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
            "advice": self.advice,
            "request_id": request_id,
        }


def problem_of(error: DecnetError) -> Problem:
    """Translate one of our errors."""
    status, kind = next((status, kind) for type_, status, kind in _TABLE if isinstance(error, type_))
    headers = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.RetryLater):
        headers["retry-after"] = str(_RETRY_AFTER_SECS)
    return Problem(status, kind, error.message, error.advice, headers)


def error_of(status: int, document: Mapping[str, Any]) -> DecnetError:
    """Translate a problem back; what is no problem of ours is a plain failure with the status in its message."""
    kind = str(document.get("type", "")).removeprefix(TYPE_PREFIX)
    detail = shown(str(document.get("detail") or f"The server answered {status}"), MAX_DETAIL_CHARS)
    advice = shown(str(document.get("advice") or ""), MAX_DETAIL_CHARS)
    by_kind = next((type_ for type_, _, name in _TABLE if name == kind), None)
    by_status = next((type_ for type_, code, _ in reversed(_TABLE) if code == status), DecnetError)
    return (by_kind or by_status)(detail, advice)
