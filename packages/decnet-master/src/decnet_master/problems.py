"""Errors over HTTP: one table from our errors to problem+json, and the way back for our own clients.

A problem holds `type` (`urn:decnet:problem:<kind>`), `title`, `status`, `detail` (what happened), `advice` (what to do)
and `request_id`. The kind names the error's class, so that `decnet-master`, asking the controller, ends with the same
exit code as if it had met the error itself.

Invariants: no input is quoted back (it may be a secret or an attacker's), and a fault of ours tells nothing but its
request id; its traceback is in the log.

Source: RFC 9457.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from decnet_core import errors
from decnet_core.errors import DecnetError
from decnet_core.logs import shown
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

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


def install(app: FastAPI) -> None:
    """Make an application answer every error with a problem."""
    app.add_exception_handler(DecnetError, _on_decnet_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


def problem_of(error: DecnetError, request_id: str) -> Response:
    """Translate one of our errors."""
    status, kind = next((status, kind) for type_, status, kind in _TABLE if isinstance(error, type_))
    headers = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.RetryLater):
        headers["retry-after"] = str(_RETRY_AFTER_SECS)
    return _response(status, kind, error.message, advice=error.advice, request_id=request_id, headers=headers)


def error_of(status: int, document: Mapping[str, Any]) -> DecnetError:
    """Translate a problem back; what is no problem of ours is a plain failure with the status in its message."""
    kind = str(document.get("type", "")).removeprefix(TYPE_PREFIX)
    detail = shown(str(document.get("detail") or f"The server answered {status}"), MAX_DETAIL_CHARS)
    advice = shown(str(document.get("advice") or ""), MAX_DETAIL_CHARS)
    by_kind = next((type_ for type_, _, name in _TABLE if name == kind), None)
    by_status = next((type_ for type_, code, _ in reversed(_TABLE) if code == status), DecnetError)
    found = by_kind or by_status
    return NoWorkers() if found is NoWorkers else found(detail, advice)


def request_id_of(request: Request) -> str:
    """Return the id that the guard gave to this request."""
    return str(getattr(request.state, "request_id", "-"))


def _on_decnet_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DecnetError)  # noqa: S101 -- how it was registered
    return problem_of(error, request_id_of(request))


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 -- how it was registered
    faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
    detail = shown(f"The request does not fit: {faults}", MAX_DETAIL_CHARS)
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return _response(status, "bad-request", detail, advice="Correct the request.", request_id=request_id_of(request))


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 -- how it was registered
    status = HTTPStatus(error.status_code)
    kind = "not-found" if status is HTTPStatus.NOT_FOUND else "bad-request"
    detail = f"{status.phrase}: {error.detail}"
    return _response(status, kind, detail, request_id=request_id_of(request), headers=dict(error.headers or {}))


def _on_bug(request: Request, _error: Exception) -> Response:
    detail = "Something in DECNET failed"
    advice = "Look into the log of this process around this time."
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return _response(status, "failed", detail, advice=advice, request_id=request_id_of(request))


def _response(
    status: HTTPStatus,
    kind: str,
    detail: str,
    *,
    advice: str = "",
    request_id: str,
    headers: dict[str, str] | None = None,
) -> Response:
    document = {
        "type": TYPE_PREFIX + kind,
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "advice": advice,
        "request_id": request_id,
    }
    return JSONResponse(document, status_code=status, headers=headers, media_type=MEDIA_TYPE)
