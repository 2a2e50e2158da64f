"""One service, asked over HTTP: retries, resumption, and problem documents as the library's errors.

Nothing here is taken on trust: answers are bounded, redirects do not leave the service, and what
answers without being a featurestore service is said to be none.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urljoin

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, ProxyError, SSLError
from urllib3.util import parse_url

from featurestore.errors import (
    Conflict,
    FeatureStoreError,
    IntegrityError,
    InvalidInput,
    MissingDependency,
    NotFound,
)
from featurestore.remote.answers import (
    PIECE_BYTES,
    bounded,
    first_byte,
    plain,
    problem,
    retry_after_s,
    short,
    strong,
)
from featurestore.remote.pacing import Pacing, Patience, Unreachable
from featurestore.remote.pool import Pool
from featurestore.remote.urls import TOKEN_STEP, origin, parse_service_url
from featurestore.remote.urls import quoted as quoted  # of those who ask, too


class TooLarge(InvalidInput):
    """What was sent is more than the service takes: send less in a request."""


class Unusable(InvalidInput):
    """The service has read what was sent, and cannot work with it."""


class Changed(Conflict):
    """What lies at a path is another file than it was: begin again."""


LONGEST_ANSWER = 1 << 30
_PROBLEM_BYTES = 1 << 16
_REDIRECTS = 5
_COME_AGAIN = frozenset({429, 500, 502, 503, 504})
_REDIRECTING = frozenset({301, 302, 303, 307, 308})
_KINDS: Mapping[int, type[FeatureStoreError]] = {
    404: NotFound,
    409: Conflict,
    410: NotFound,
    413: TooLarge,
    422: Unusable,
    429: Conflict,
    501: MissingDependency,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """One request.

    Parameters
    ----------
    path
        Quoted, from the root of the service: ``/v1/feature-sets``.
    query
        Names and values, unquoted.
    limit_bytes
        A longer answer is refused.
    """

    path: str
    method: str = "GET"
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | None = None
    limit_bytes: int = LONGEST_ANSWER


@dataclasses.dataclass(frozen=True, eq=False)
class Reply:
    """A whole answer of status 2xx; `headers` by name in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """A service, and how to ask it. Any thread may ask; connections are kept alive between. A child
    process that is forked makes its own.

    A request that can be answered later (connection broken, 429, 502, 503, 504, and a few times
    500) is made again with growing pauses, for as long as `pacing` says. All requests of this
    service may be repeated: none changes anything.

    Parameters
    ----------
    url
        ``http://host:port`` or ``https://…``, with a path if a proxy serves it under one.
    token
        Sent as ``Authorization: Bearer``, to this service only.
    timeout_s
        Longest wait for the next bytes of an answer; `pacing` bounds how slowly they come.
    proxy
        URL of an HTTP proxy to go through, perhaps with user and password; None goes straight.

    Raises
    ------
    InvalidInput
        The URL, the token or the proxy is none.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 60.0,
        proxy: str | None = None,
        pacing: Pacing | None = None,
    ) -> None:
        self._base = parse_service_url(url)
        self.url = self._base.url.rstrip("/")
        self._headers = {"User-Agent": "featurestore", "Accept-Encoding": "identity"}
        if token is not None:
            if not re.fullmatch(r"[\x21-\x7e]+", token):
                raise InvalidInput(
                    "the token: expected printable ASCII without spaces", next_step=TOKEN_STEP
                )
            self._headers["Authorization"] = f"Bearer {token}"
        self._pacing = pacing or Pacing()
        self._answered = False
        self._pool = Pool(timeout_s=timeout_s, proxy=proxy)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of idle connections."""
        self._pool.clear()

    def get_json(self, path: str, *, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the JSON object that the service answers; raises as `ask`."""
        reply = self.ask(Ask(path=path, query=query or {}, headers={"Accept": "application/json"}))
        return self.parse_object(reply, path=path)

    def parse_object(self, reply: Reply, *, path: str) -> dict[str, Any]:
        """Return the JSON object of a reply.

        Raises
        ------
        InvalidInput
            It is none: what answers is no featurestore service.
        """
        try:
            found = json.loads(reply.body)
        except (ValueError, RecursionError) as error:
            kind = reply.headers.get("Content-Type", "no type at all")
            raise self.no_service(f"expected JSON at {path}, found {kind}") from error
        if not isinstance(found, dict):
            raise self.no_service(f"expected a JSON object at {path}, found another value")
        return found

    def get_bytes(self, path: str, *, limit_bytes: int) -> bytes:
        """Return the whole of what lies at a path, at most `limit_bytes`; raises as `ask`."""
        return self.ask(Ask(path=path, limit_bytes=limit_bytes)).body

    def get_range(self, path: str, at: range, *, etag: str | None = None) -> bytes:
        """Return the bytes `at` of a file, fewer where it ends before; raises as `ask`.

        Parameters
        ----------
        etag
            Quoted, as the service sends it: the bytes are of that version of the file.

        Raises
        ------
        Changed
            The file is another by now.
        """
        if not at:
            return b""
        headers = {"Range": f"bytes={at.start}-{at.stop - 1}"}
        if etag is not None:
            headers["If-Range"] = etag
        try:
            reply = self.ask(Ask(path=path, headers=headers))
        except _Unsatisfiable:
            return b""
        self._hold_to(etag, reply.headers, path)
        if reply.status == HTTPStatus.PARTIAL_CONTENT:
            if first_byte(reply.headers) != at.start or len(reply.body) > len(at):
                raise self._wrong(path, "it sends other bytes than those asked for")
            return reply.body
        return reply.body[at.start : at.stop]

    def ask(self, asked: Ask) -> Reply:
        """Make a request, again if need be, and return the whole answer.

        Raises
        ------
        NotFound
            The service has no such thing.
        InvalidInput
            It refuses the request or the token, or is no featurestore service. As `TooLarge`, what
            was sent is more than it takes; as `Unusable`, it cannot work with that.
        Conflict
            It has too much to do, for longer than we wait, or something stands in the way there.
        MissingDependency
            It lacks a package for this.
        Unreachable
            Nothing answers, or not wholly, for longer than we wait.
        IntegrityError
            The answer is longer than the limit.
        """
        patience = Patience(self._pacing)
        while True:
            try:
                with self._opened(asked) as response:
                    self._refuse(response, asked)
                    body = self._whole(response, asked)
                    return Reply(response.status, response.headers, body)
            except (HTTPError, OSError, _Later) as error:
                self._pause(patience, error)

    def stream(self, path: str, *, start: int = 0, etag: str | None = None) -> Iterator[bytes]:
        """Yield a file's bytes from `start` on; an answer that breaks off is gone on with.

        Parameters
        ----------
        etag
            As for `get_range`; None is that of the first answer.

        Raises
        ------
        NotFound, InvalidInput, Unreachable, Conflict
            As `ask`; and `Changed` where the file is another by now, or shorter than `start`.
        """
        patience, position = Patience(self._pacing), start
        while True:
            headers: dict[str, str] = {}
            if position:
                headers["Range"] = f"bytes={position}-"
                if etag is not None:
                    headers["If-Range"] = etag
            try:
                with self._opened(Ask(path=path, headers=headers)) as response:
                    self._refuse(response, Ask(path=path), at=position)
                    self._hold_to(etag, response.headers, path)
                    etag = etag or strong(response.headers.get("ETag"))
                    for piece in self._from(response, position, path):
                        position += len(piece)
                        patience.moved(len(piece))
                        yield piece
                    return
            except _AtEnd:
                return
            except (HTTPError, OSError, _Later) as error:
                if position and etag is None:
                    raise Unreachable(
                        f"{self.url}{path} broke off, and says no ETag to go on with"
                    ) from error
                self._pause(patience, error)

    def no_service(self, found: str) -> InvalidInput:
        """Return the error of a URL that answers, but not as a featurestore service does."""
        return InvalidInput(
            f"{self.url} is no featurestore service: {found}",
            next_step="give the URL that `fs serve` printed, without a path",
        )

    def _pause(self, patience: Patience, error: Exception) -> None:
        """Wait before the next try, or raise what the last one ended with."""
        if isinstance(error, _Later):
            patience.pause(error.error, retry_after_s=error.retry_after_s, most=error.most)
        elif isinstance(error, SSLError) and not self._answered:
            raise InvalidInput(
                f"{self.url}: no safe connection: {error}",
                next_step="check the URL; SSL_CERT_FILE names a certificate to trust",
            ) from error
        elif isinstance(error, ProxyError) and " 407 " in str(error):
            raise self._unknown_to_proxy() from error
        else:
            unreached = Unreachable(
                f"{self.url} does not answer: {plain(error)}",
                next_step="check the URL, and that `fs serve` runs there",
            )
            unreached.__cause__ = error
            patience.pause(unreached, hasty=not self._answered)

    @contextmanager
    def _opened(self, asked: Ask) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send a request and give its answer, body unread. A redirect is followed at home."""
        url = self.url + asked.path + (f"?{urlencode(asked.query)}" if asked.query else "")
        for _ in range(_REDIRECTS):
            response = self._pool.here().urlopen(
                asked.method,
                url,
                headers=self._headers | dict(asked.headers),
                body=asked.body,
                redirect=False,
                retries=False,
                preload_content=False,
            )
            self._answered = True
            try:
                if response.status not in _REDIRECTING:
                    yield response
                    return
                url = self._redirected(url, response.headers.get("Location", ""))
            finally:
                # What was read to its end goes back to the pool; the rest cannot be used again.
                response.close() if response.connection is not None else response.release_conn()
        raise self.no_service(f"it redirects more than {_REDIRECTS} times")

    def _redirected(self, url: str, location: str) -> str:
        """Return where to go on; another host must not see the token, nor be taken for this one."""
        there = urljoin(url, location)
        try:
            parsed = parse_url(there)
        except LocationParseError as error:
            raise self.no_service("it redirects to what is no URL") from error
        if origin(parsed) != origin(self._base):
            raise InvalidInput(
                f"{self.url} redirects to {short(there)}",
                next_step="give that URL, if it is the service that you mean",
            )
        return there

    def _refuse(
        self, response: urllib3.BaseHTTPResponse, asked: Ask, *, at: int | None = None
    ) -> None:
        """Raise what a status other than 2xx means."""
        status = response.status
        if 200 <= status < 300:
            return
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            size = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
            if at is not None and size and int(size[1]) == at:
                raise _AtEnd
            if at is not None:
                raise self._changed(asked.path)
            if "Range" in asked.headers:
                raise _Unsatisfiable
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise self._unknown_to_proxy()
        body = b"".join(bounded(response, _PROBLEM_BYTES, came=Patience(self._pacing).came))
        said = problem(response, body)
        kind = _KINDS.get(status, InvalidInput if status < 500 else Unreachable)
        if status in (401, 403):
            detail = said[0] if said else HTTPStatus(status).phrase
            raise InvalidInput(f"{self.url}: {detail}", next_step=TOKEN_STEP)
        if status in _COME_AGAIN:
            detail = said[0] if said else f"status {status}"
            step = "come again later" if status != 500 else "look into the log of the service"
            raise _Later(
                kind(f"{self.url}: {detail}", next_step=step),
                retry_after_s=retry_after_s(response.headers.get("Retry-After")),
                most=2 if status == 500 else None,
            )
        if said is None:
            raise self.no_service(f"it answers {asked.path} with status {status}")
        raise kind(f"{self.url}: {said[0]}", next_step=said[1])

    def _whole(self, response: urllib3.BaseHTTPResponse, asked: Ask) -> bytes:
        came = Patience(self._pacing).came
        pieces = list(bounded(response, asked.limit_bytes + 1, came=came))
        if sum(map(len, pieces)) > asked.limit_bytes:
            raise self._wrong(asked.path, f"it sends more than {asked.limit_bytes} bytes")
        return b"".join(pieces)

    def _from(
        self, response: urllib3.BaseHTTPResponse, position: int, path: str
    ) -> Iterator[bytes]:
        """Yield what an answer has from `position` on, if it begins there or before."""
        skipped = position
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            if first_byte(response.headers) != position:
                raise self._wrong(path, "it sends other bytes than those asked for")
            skipped = 0
        for piece in response.stream(PIECE_BYTES, decode_content=False):
            yield piece[skipped:]
            skipped = max(0, skipped - len(piece))
        if skipped:
            raise self._changed(path)

    def _hold_to(self, etag: str | None, headers: Mapping[str, str], path: str) -> None:
        found = headers.get("ETag")
        if etag is not None and found is not None and found != etag:
            raise self._changed(path)

    def _unknown_to_proxy(self) -> InvalidInput:
        return InvalidInput(
            f"{self.url}: the proxy on the way there wants a user and password, or others",
            next_step="give them in the proxy's URL: http://user:password@host:port",
        )

    def _changed(self, path: str) -> Changed:
        return Changed(f"{self.url}{path} is another file by now", next_step="begin again")

    def _wrong(self, path: str, what: str) -> IntegrityError:
        return IntegrityError(f"{self.url}{path}: {what}", next_step="check that service")


class _Later(Exception):  # noqa: N818 -- never leaves this module
    """An answer that says: not now."""

    def __init__(
        self, error: FeatureStoreError, *, retry_after_s: float | None, most: int | None
    ) -> None:
        super().__init__(error.message)
        self.error, self.retry_after_s, self.most = error, retry_after_s, most


class _AtEnd(Exception):  # noqa: N818 -- never leaves this module
    """All of the file is there already."""


class _Unsatisfiable(Exception):  # noqa: N818 -- never leaves this module
    """The file ends before the range."""
