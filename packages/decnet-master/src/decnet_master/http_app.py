"""Begin an HTTP application of the master: one that tells nobody about itself and answers every error with a problem.

Invariants: no input is quoted back (it may be a secret or an attacker's), and a fault of ours tells nothing but its
request id; its traceback is in the log.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from decnet_core.errors import DecnetError
from decnet_core.logs import shown
from decnet_master.problems import MAX_DETAIL_CHARS, MEDIA_TYPE, Problem, problem_of
from decnet_master.store.engine import DatabaseAway, DatabaseUnusable

log = structlog.get_logger()


def bare_app(*, strangers: bool = True) -> FastAPI:
    """Make an application without pages about itself and without telemetry.

    Args:
        strangers: whether others than the operator on this machine reach it. They are not told where the database is.
    """
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_exception_handler(DecnetError, _on_decnet_error)
    if strangers:
        app.add_exception_handler(DatabaseAway, _on_database_fault)
        app.add_exception_handler(DatabaseUnusable, _on_database_fault)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)
    return app


def answer_of(error: DecnetError, request_id: str) -> Response:
    """Answer with one of our errors."""
    return _answer(problem_of(error), request_id)


def _on_decnet_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DecnetError)  # noqa: S101 -- how it was registered
    return answer_of(error, _request_id_of(request))


def _on_database_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, DecnetError)  # noqa: S101 -- how it was registered
    log.warning("request.unanswered", request_id=_request_id_of(request), reason=error.message, advice=error.advice)
    advice = "The log of this process says why."
    problem = replace(problem_of(error), detail="The database does not answer", advice=advice)
    return _answer(problem, _request_id_of(request))


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 -- how it was registered
    faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
    detail = shown(f"The request does not fit: {faults}", MAX_DETAIL_CHARS)
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return _answer(Problem(status, "bad-request", detail, "Correct the request."), _request_id_of(request))


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 -- how it was registered
    status = HTTPStatus(error.status_code)
    kind = "not-found" if status is HTTPStatus.NOT_FOUND else "bad-request"
    detail = f"{status.phrase}: {error.detail}"
    return _answer(Problem(status, kind, detail, "", dict(error.headers or {})), _request_id_of(request))


def _on_bug(request: Request, _error: Exception) -> Response:
    advice = "Look into the log of this process around this time."
    problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "failed", "Something in DECNET failed", advice)
    return _answer(problem, _request_id_of(request))


def _answer(problem: Problem, request_id: str) -> Response:
    return JSONResponse(
        problem.document(request_id),
        status_code=problem.status,
        headers=dict(problem.headers),
        media_type=MEDIA_TYPE,
    )


def _request_id_of(request: Request) -> str:
    """Return the id that the guard gave to this request."""
    return str(getattr(request.state, "request_id", "-"))
