"""What each request gets, whatever it asks: an id, a log line, counts, headers, no bare bug."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from featurestore.service.logs import REQUESTS, request_id
from featurestore.service.outward import failure
from featurestore.service.problems import problem
from featurestore.service.service import Service

_log = logging.getLogger("featurestore.service")
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# No script or style of a page's own text, and nothing from elsewhere: a feature set's name that got
# through unescaped would still run nothing.
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Not `no-referrer`, with which browsers say "Origin: null" of our own forms.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_CACHE_CONTROL = (b"cache-control", b"private, no-cache")
_UNMATCHED = "(none)"
# The client left before it was answered; no standard status says so. Source: nginx.
_LEFT = 499


class Observed:
    """Wraps the application; see the module. Pure ASGI: Starlette's base class costs throughput."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # Asking the system for random bytes in every request lets go of the interpreter lock.
        self._ids = itertools.count(int.from_bytes(os.urandom(7)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        service: Service = scope["app"].state.service
        asked = _asked_id(scope["headers"]) or f"{next(self._ids):016x}"
        before = request_id.set(asked)
        extra = (*_HEADERS, (b"x-request-id", asked.encode()))
        status = received = sent = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def marked_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_defaults(message.get("headers", ()), extra)
            else:
                sent += len(message.get("body", b""))
            await send(message)

        service.metrics.begun()
        try:
            await self._app(scope, counted_receive, marked_send)
        except ClientDisconnect:
            status = status or _LEFT
        except Exception as error:
            _log.error("the request failed by a bug", exc_info=error)
            if status:
                raise  # the server cuts the answer short, so that it cannot be taken for whole
            answer = problem(500, failure())
            await answer(scope, receive, marked_send)
        finally:
            seconds = time.perf_counter() - began
            route = _template(scope)
            service.metrics.ended(
                scope["method"],
                route,
                status or _LEFT,
                seconds=seconds,
                received=received,
                sent=sent,
            )
            _write_line(scope, route, status or _LEFT, ms=round(seconds * 1000, 2), sent=sent)
            request_id.reset(before)


def _asked_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"x-request-id" and _GIVEN_ID.fullmatch(value):
            return value.decode()
    return None


def _with_defaults(
    headers: Iterable[tuple[bytes, bytes]], defaults: tuple[tuple[bytes, bytes], ...]
) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer with those that a route did not set itself."""
    headers = list(headers)
    names = {name for name, _ in headers}
    headers += [each for each in defaults if each[0] not in names]
    if _CACHE_CONTROL[0] not in names:
        headers.append(_CACHE_CONTROL)
    return headers


def _template(scope: Scope) -> str:
    route = scope.get("route")
    return str(getattr(route, "path_format", None) or getattr(route, "path", None) or _UNMATCHED)


def _write_line(scope: Scope, route: str, status: int, *, ms: float, sent: int) -> None:
    level = logging.ERROR if status >= 500 else logging.INFO
    if not REQUESTS.isEnabledFor(level):
        return
    client = scope.get("client")
    # Made by hand: looking for the caller's line costs as much as all the rest of it.
    line = logging.LogRecord(REQUESTS.name, level, __file__, 0, "request", None, None)
    line.__dict__ |= {
        "method": scope["method"],
        "route": route,
        "path": scope["path"],  # without the query, which may hold what nobody should read
        "status": status,
        "ms": ms,
        "bytes": sent,
        "client": client[0] if client else None,
    }
    REQUESTS.handle(line)
