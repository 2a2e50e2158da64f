"""Errors as HTTP answers: problem documents (RFC 9457) that never show a stack trace."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from featurestore.errors import (
    Conflict,
    FeatureStoreError,
    InvalidInput,
    MissingDependency,
    NotFound,
)
from featurestore.service.contract import Busy, Gone, TooLarge

MEDIA_TYPE = "application/problem+json"
_STATUSES: tuple[tuple[type[FeatureStoreError], int], ...] = (
    (Busy, 429),
    (TooLarge, 413),
    (Gone, 410),
    (NotFound, 404),
    (InvalidInput, 422),
    (Conflict, 409),
    (MissingDependency, 501),
)
_log = logging.getLogger("featurestore.service")


def add_handlers(app: FastAPI) -> None:
    """Let `app` answer the errors of the library, and bugs, with problem documents."""
    app.add_exception_handler(FeatureStoreError, _answer)
    app.add_exception_handler(Exception, _bug)


def problem(
    status: int, detail: str, *, next_step: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return one problem document."""
    fields: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if next_step is not None:
        fields["next_step"] = next_step
    return JSONResponse(fields, status, headers=headers, media_type=MEDIA_TYPE)


def status_of(error: FeatureStoreError) -> int:
    """Return the HTTP status that tells of an error; what the client cannot mend is 500."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FeatureStoreError)
    status = status_of(error)
    if status >= 500:
        _log.error("%s %s: %s", request.method, request.url.path, error)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, Busy) else None
    return problem(status, error.message, next_step=error.next_step, headers=headers)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s", request.method, request.url.path, exc_info=error)
    return problem(500, "the service failed; its log says how")
