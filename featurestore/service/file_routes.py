"""`/v1/feature-sets/{dataset}/{recipe}/store/…`: stores' files, for stock readers and `fs pull`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from featurestore.errors import NotFound
from featurestore.service.problems import problem
from featurestore.service.service import Service
from featurestore.service.store_files import Address
from featurestore.service.stored_file import StoredFile

# A slow client holds up to two pieces in memory. A chunk of a Zarr store is mostly one piece.
_PIECE_BYTES = 256 * 1024
_LASTING = "private, max-age=31536000, immutable"
_CHANGING = "private, no-cache"
FILE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The whole file. Its ETag is the SHA-256 of its bytes.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": {}},
            "text/plain": {"schema": {"type": "string"}},
        },
    },
    206: {"description": "The one range of bytes that was asked for."},
    304: {"description": "The client has this file already."},
    404: {"description": "There is no such file, or no longer."},
    410: {"description": "A piece of a store that is no longer here."},
    412: {"description": "The file is not the one that the client means (If-Match)."},
    416: {"description": "The file has no such bytes."},
    500: {"description": "The file is damaged; the log says how."},
}

_PREFIX = "/v1/feature-sets/{dataset}/{recipe}/store"


_KNOWN_HEAD = re.compile("/v1/(feature-sets/[^/]+/[^/]+/store/[^/].*|runs/[^/]+/files/[^/]+)")


def knows_head(path: str) -> bool:
    """Whether a path is that of a route which answers HEAD itself, and reads no file for it."""
    return _KNOWN_HEAD.fullmatch(path) is not None


def add_routes(app: FastAPI) -> None:
    """Let `app` serve the files of stores; before it includes routers.

    Routes of an included router are matched twice, after all that come before them.
    """
    for path, endpoint in (("/{store}", store_or_record), ("/{store}/{path:path}", file_of_store)):
        for method in ("GET", "HEAD"):
            app.router.add_api_route(
                _PREFIX + path,
                endpoint,
                methods=[method],
                include_in_schema=method == "GET",
                tags=["store files"],
                responses=FILE_RESPONSES,
                response_class=Response,
                route_class_override=_Direct,
            )


class _Direct(APIRoute):
    """Calls its endpoint with the parts of the URL, which are texts, as they are.

    What FastAPI does in between takes longer than to open and read a file.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[..., Coroutine[Any, Any, Response]] = self.endpoint

        async def answer(request: Request) -> Response:
            return await endpoint(request, **request.path_params)

        return answer


async def store_or_record(request: Request, *, dataset: str, recipe: str, store: str) -> Response:
    """Return an HDF5 store; with ``.json`` behind its name its record, with ``.sha256`` its list.

    The record is sent as it lies on disk. The list has the SHA-256 of every file of the store, one
    line each, as ``sha256sum`` writes and checks them.
    """
    return await _answer(request, Address(dataset, recipe, store))


async def file_of_store(
    request: Request, *, dataset: str, recipe: str, store: str, path: str
) -> Response:
    """Return one file of a Zarr store: metadata, a chunk or a shard, whole or one range of it."""
    return await _answer(request, Address(dataset, recipe, store, path))


async def _answer(request: Request, address: Address) -> Response:
    service: Service = request.app.state.service
    try:
        found = service.files.open_at_once(address)
        if found is None:
            found = await to_thread.run_sync(service.files.open, address)
    except NotFound as error:
        raise _with_newest(error, service, address) from error
    return await answer_file(found, request)


async def answer_file(found: StoredFile, request: Request) -> Response:
    """Return the answer to a request for a file: whole, one range of it, or not changed.

    The file is closed when the answer is sent, or when there is none.
    """
    try:
        response = await _response(found, request.method, request.headers)
    except BaseException:
        found.close()
        raise
    if not isinstance(response, _Pieces):
        found.close()
    return response


async def _response(found: StoredFile, method: str, sent: Mapping[str, str]) -> Response:
    etag = f'"{found.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": _LASTING if found.lasting else _CHANGING,
    }
    if "if-match" in sent and not _names(sent["if-match"], etag, weak=False):
        return problem(412, f"the file's ETag is {etag}, not one of If-Match")
    if "if-none-match" in sent and _names(sent["if-none-match"], etag, weak=True):
        return Response(status_code=304, headers=headers)
    size = found.size_bytes
    if method == "HEAD":  # which knows no ranges: RFC 9110, 14.2
        headers["Content-Length"] = str(size)
        return Response(headers=headers, media_type=found.media_type)
    status, start, stop = 200, 0, size
    # A date in If-Range never matches: nothing is sent by which a client could know it.
    if "range" in sent and sent.get("if-range", etag) == etag:
        asked = _range(sent["range"], size)
        if asked is not None:
            start, stop = asked
            if start >= stop:
                return problem(
                    416,
                    f"the file has {size} bytes, so none from byte {start} on",
                    headers={"Content-Range": f"bytes */{size}"},
                )
            status = 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    if stop - start > _PIECE_BYTES:
        return _Pieces(found, status, headers, start=start, stop=stop)
    pieces = [piece async for piece in _read(found, start, stop)]
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return Response(body, status, headers, found.media_type)


class _Pieces(StreamingResponse):
    """A body that is read while it is sent; its file is closed when that ends, however it ends."""

    def __init__(
        self,
        found: StoredFile,
        status: int,
        headers: Mapping[str, str],
        *,
        start: int,
        stop: int,
    ) -> None:
        super().__init__(_read(found, start, stop), status, headers, found.media_type)
        self._found = found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._found.close()


async def _read(found: StoredFile, start: int, stop: int) -> AsyncIterator[bytes | memoryview]:
    """Yield the bytes from `start` to `stop`; a thread is visited only for what is on the disk."""
    while start < stop:
        size_bytes = min(_PIECE_BYTES, stop - start)
        piece = found.read_at_once(start, size_bytes)
        if piece is None:
            piece = await to_thread.run_sync(found.read, start, size_bytes)
        yield piece
        start += len(piece)


def _names(header: str, etag: str, *, weak: bool) -> bool:
    """Whether an If-Match or If-None-Match header names `etag`; `weak` allows ``W/`` before it."""
    if header.strip() == "*":
        return True
    return any(
        tag == etag and (weak or not prefix)
        for prefix, tag in re.findall(r'(W/)?("[^"]*")', header)
    )


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Return the bytes from and up to which one range asks for; None to send the whole file.

    That is the answer to several ranges and to what cannot be understood (RFC 9110, 14.2). The
    first is not below the second where the file has no such bytes.
    """
    found = re.fullmatch(
        r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", header, re.IGNORECASE
    )
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return (max(size - int(last), 0), size) if int(last) else (size, size)
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def _with_newest(error: NotFound, service: Service, address: Address) -> NotFound:
    """Return the error with where the newest version of the feature set is, if there is one."""
    stores = [r.store.name for r in service.catalogue.current() if r.name == address.name]
    if not stores or any(address.store.startswith(store) for store in stores):
        return error
    where = " and ".join(
        f"/v1/feature-sets/{quote(address.name)}/store/{quote(store)}" for store in stores
    )
    return type(error)(error.message, next_step=f"its newest version is at {where}")
