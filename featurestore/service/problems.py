"""Errors as HTTP answers: problem documents (RFC 9457) that never show a stack trace."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from featurestore.errors import (
    Conflict,
    FeatureStoreError,
    InvalidInput,
    MissingDependency,
    NotFound,
)
from featurestore.service.contract import Busy, Gone, TooLarge, Unavailable
from featurestore.service.outward import failure, told

MEDIA_TYPE = "application/problem+json"
_STATUSES: tuple[tuple[type[FeatureStoreError], int], ...] = (
    (Busy, 429),
    (TooLarge, 413),
    (Gone, 410),
    (NotFound, 404),
    (InvalidInput, 422),
    (Conflict, 409),
    (MissingDependency, 501),
    (Unavailable, 503),
)
_SHOWN = 10
_METHODS = ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT")
_log = logging.getLogger("featurestore.service")


def add_handlers(app: FastAPI) -> None:
    """Let `app` answer the errors of the library, of HTTP, and bugs with problem documents."""
    app.add_exception_handler(FeatureStoreError, _answer)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _bug)


def problem(
    status: int,
    detail: str,
    *,
    next_step: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return one problem document."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    fields: dict[str, object] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
    }
    if next_step is not None:
        fields["next_step"] = next_step
    # ASCII: a name may hold what is no Unicode text at all (a lone surrogate).
    return Response(json.dumps(fields), status, headers=headers, media_type=MEDIA_TYPE)


def status_of(error: FeatureStoreError) -> int:
    """Return the HTTP status that tells of an error; what the client cannot mend is 500."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def answer_of(error: FeatureStoreError, *, cache: Path | None = None) -> Response:
    """Return an error of the library as a problem document; see `outward`."""
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, Busy) else None
    status = status_of(error)
    detail, next_step = told(error, status=status, cache=cache)
    return problem(status, detail, next_step=next_step, headers=headers)


async def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, FeatureStoreError)
    if status_of(error) >= 500:
        _log.error("%s", error)
    return answer_of(error, cache=request.app.state.service.settings.cache)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in (204, 304):
        return Response(status_code=error.status_code, headers=error.headers)
    detail = str(error.detail)
    if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"nothing is at {request.scope['path']}"
    headers = error.headers
    if error.status_code == 405:
        detail = f"{request.scope['path']} does not take {request.method}"
        headers = {"Allow": ", ".join(_allowed(request))}
    return problem(error.status_code, detail, headers=headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods that the path takes; the error names those of one route only."""
    found = {
        method
        for method in _METHODS
        for route in request.app.router.routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = [
        f"{' '.join(str(part) for part in each['loc'])}: {each['msg']}"
        for each in error.errors()[:_SHOWN]
    ]
    return problem(422, "; ".join(said), next_step="see /docs")


async def _bug(request: Request, error: Exception) -> Response:
    _log.error("the request failed by a bug", exc_info=error)
    return problem(500, failure())
