"""Which requests are let in: by the token, by the name they call, by the page that they come from.

What is malformed goes first, and nothing of a body is read before a request is let in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from featurestore.service.problems import problem
from featurestore.service.service import Service
from featurestore.service.sessions import Attempts, Sessions

HEAD_BYTES = 32 * 2**10
URL_BYTES = 8 * 2**10
HEAD_FIELDS = 100
LOGIN, LOGOUT = "/login", "/logout"
# Answered to anyone: that the process lives, and what the login page needs to look like a page.
_OPEN = frozenset(("/healthz", "/readyz", LOGIN, LOGOUT, "/favicon.ico"))
_OPEN_BELOW = "/static/"
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::[0-9]{1,5})?")
_BEARER = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)
_BEARER_SCHEME = re.compile(rb"bearer( |$)", re.IGNORECASE)


class Door:
    """A service's token: who has it, and how long those who have not must wait."""

    def __init__(self, token: str) -> None:
        self.sessions = Sessions(token)
        self.attempts = Attempts()

    async def admits(self, given: bytes, client: str) -> bool:
        """Whether `given` is the token; a wrong one is told so late."""
        if self.sessions.is_token(given):
            self.attempts.forget(client)
            return True
        await self.attempts.wait_for_answer(client)
        return False


def client_of(scope: Scope) -> str:
    """Return the address that a request came from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class Guarded:
    """Wraps the application; see the module. Pure ASGI."""

    def __init__(self, app: ASGIApp, *, hosts: tuple[str, ...] | None, door: Door | None) -> None:
        self._app = app
        self._door = door
        self._hosts = hosts and frozenset(host.lower().encode() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = _Head(scope["headers"])
        refusal = self._malformed(scope, head)
        if refusal is None:
            refusal = await self._unknown(scope, head)
        await (refusal or self._app)(scope, receive, send)

    def _malformed(self, scope: Scope, head: _Head) -> Response | None:
        url_bytes = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        if url_bytes > URL_BYTES:
            return problem(414, f"the URL has more than {URL_BYTES} bytes")
        if head.size_bytes > HEAD_BYTES or head.fields > HEAD_FIELDS:
            return problem(
                431, f"expected headers of at most {HEAD_BYTES} bytes and {HEAD_FIELDS} fields"
            )
        if len(head.hosts) > 1 or not all(map(_HOST.fullmatch, head.hosts)):
            return problem(400, "expected one Host header with a name and perhaps a port")
        if self._hosts is None:
            return None
        # HTTP/1.0 may come without a host; no browser speaks it.
        if head.hosts and _name(head.hosts[0]) not in self._hosts:
            return problem(
                421,
                f"this service is not called {head.hosts[0].decode()}",
                next_step="call it by localhost or 127.0.0.1; by another name it asks for a token",
            )
        return None

    async def _unknown(self, scope: Scope, head: _Head) -> Response | None:
        """Return why the request is not let in; None lets it in."""
        unsafe = scope["method"] not in _SAFE
        if self._door is None:
            return _foreign() if unsafe and not head.is_from_here(by_cookie=False) else None
        sessions = self._door.sessions
        # Another scheme is for someone else, such as a server in front, and no try.
        if head.authorization is not None and _BEARER_SCHEME.match(head.authorization):
            given = _BEARER.fullmatch(head.authorization)
            if given is not None and await self._door.admits(given[1], client_of(scope)):
                return None
            if not _is_open(scope["path"]):
                service: Service = scope["app"].state.service
                service.metrics.refused()
                return _unauthorized("the token is not that of this service")
        by_cookie = any(map(sessions.is_session, head.cookies(sessions.cookie_name)))
        if unsafe and not head.is_from_here(by_cookie=by_cookie):
            return _foreign()
        if by_cookie or _is_open(scope["path"]):
            return None
        if b"text/html" in head.accept and not unsafe and not scope["path"].startswith("/v1/"):
            target = scope["path"]
            if scope["query_string"]:
                target += "?" + scope["query_string"].decode("latin-1")
            return RedirectResponse(f"{LOGIN}?next={quote(target, safe='/')}", 303)
        return _unauthorized("this service asks for a token")


class _Head:
    """The headers that decide, each as sent."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.hosts: list[bytes] = []
        self.authorization: bytes | None = None
        self.accept = b""
        self.origin: bytes | None = None
        self.site: bytes | None = None
        self.size_bytes = self.fields = 0
        self._cookies: list[bytes] = []
        for name, value in headers:
            self.size_bytes += len(name) + len(value)
            self.fields += 1
            if name == b"host":
                self.hosts.append(value)
            elif name == b"authorization":
                self.authorization = value
            elif name == b"accept":
                self.accept = value
            elif name == b"origin":
                self.origin = value
            elif name == b"sec-fetch-site":
                self.site = value
            elif name == b"cookie":
                self._cookies.append(value)

    def cookies(self, name: str) -> Iterable[str]:
        """Yield the values of cookies called `name`."""
        for header in self._cookies:
            for pair in header.decode("latin-1").split(";"):
                key, _, value = pair.strip().partition("=")
                if key == name:
                    yield value

    def is_from_here(self, *, by_cookie: bool) -> bool:
        """Whether a page of this service, or no page at all, sent a request that may change things.

        Browsers say where a request comes from in ``Sec-Fetch-Site`` or, over plain HTTP, in
        ``Origin``; a program says neither, and has no cookie that a browser keeps.

        Source: Go's net/http.CrossOriginProtection, which accepts by the same rules.
        """
        if self.site is not None:
            return self.site in (b"same-origin", b"none")
        if self.origin is None:
            return not by_cookie
        return bool(self.hosts) and self.origin.partition(b"://")[2] == self.hosts[0]


def _name(host: bytes) -> bytes:
    """Return a checked Host without its port."""
    host = host.lower()
    return host[: host.index(b"]") + 1] if host[:1] == b"[" else host.partition(b":")[0]


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_BELOW)


def _foreign() -> Response:
    return problem(403, "a page of another site sent this request")


def _unauthorized(detail: str) -> Response:
    return problem(
        401,
        detail,
        next_step="send it as Authorization: Bearer (clients take it from FS_TOKEN), "
        f"or sign in at {LOGIN}",
        headers={"WWW-Authenticate": 'Bearer realm="featurestore"'},
    )
