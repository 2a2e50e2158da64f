"""`/v1/feature-sets/{dataset}/{recipe}/store/…`: stores' files, for stock readers and `fs pull`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from featurestore.errors import IntegrityError, NotFound
from featurestore.service.problems import problem
from featurestore.service.service import Service, service_of
from featurestore.service.store_files import Address, Readable, StoredFile

# A slow client holds up to two pieces in memory. A chunk of a Zarr store is mostly one piece, and
# costs one visit to a thread.
_PIECE_BYTES = 256 * 1024
_LASTING = "private, max-age=31536000, immutable"
_CHANGING = "private, no-cache"
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The whole file. Its ETag is the SHA-256 of its bytes.",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("application/octet-stream", "application/json", "text/plain")
        },
    },
    206: {"description": "The one range of bytes that was asked for."},
    304: {"description": "The client has this file already."},
    404: {"description": "There is no such file, or no longer."},
    410: {"description": "A piece of a store that is no longer here."},
    412: {"description": "The file is not the one that the client means (If-Match)."},
    416: {"description": "The file has no such bytes."},
}

router = APIRouter(
    prefix="/v1/feature-sets/{dataset}/{recipe}/store",
    tags=["store files"],
    default_response_class=Response,
)
Asked = Annotated[Service, Depends(service_of)]


@router.head("/{store}", include_in_schema=False)
@router.get("/{store}", responses=_RESPONSES)
def store_or_record(
    request: Request, service: Asked, dataset: str, recipe: str, store: str
) -> Response:
    """Return an HDF5 store; with ``.json`` behind its name its record, with ``.sha256`` its list.

    The record is sent as it lies on disk. The list has the SHA-256 of every file of the store, one
    line each, as ``sha256sum`` writes and checks them.
    """
    return _answer(request, service, Address(dataset, recipe, store))


@router.head("/{store}/{path:path}", include_in_schema=False)
@router.get("/{store}/{path:path}", responses=_RESPONSES)
def file_of_store(  # the parameters are those of the URL
    request: Request, service: Asked, *, dataset: str, recipe: str, store: str, path: str
) -> Response:
    """Return one file of a Zarr store: metadata, a chunk or a shard, whole or one range of it."""
    return _answer(request, service, Address(dataset, recipe, store, path))


def _answer(request: Request, service: Service, address: Address) -> Response:
    """Open a file and read its first piece, in the thread that the endpoint runs in anyway."""
    try:
        found = service.files.open(address)
    except NotFound as error:
        raise _with_newest(error, service, address) from error
    try:
        response = _response(found, request.method, request.headers)
    except BaseException:
        found.file.close()
        raise
    if not isinstance(response, _Pieces):
        found.file.close()
    return response


def _response(found: StoredFile, method: str, sent: Mapping[str, str]) -> Response:
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
    found.file.seek(start)
    first = _read(found.file, min(_PIECE_BYTES, stop - start))
    if start + len(first) == stop:
        return Response(first, status, headers, found.media_type)
    pieces = _pieces(first, found.file, start=start, stop=stop)
    return _Pieces(pieces, status, headers, found.media_type, file=found.file)


class _Pieces(StreamingResponse):
    """A body that is read while it is sent; its file is closed when that ends, however it ends."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        status: int,
        headers: Mapping[str, str],
        media_type: str,
        *,
        file: Readable,
    ) -> None:
        super().__init__(pieces, status, headers, media_type)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


async def _pieces(first: bytes, file: Readable, *, start: int, stop: int) -> AsyncIterator[bytes]:
    yield first
    at = start + len(first)
    while at < stop:
        piece = await to_thread.run_sync(_read, file, min(_PIECE_BYTES, stop - at))
        yield piece
        at += len(piece)


def _read(file: Readable, size: int) -> bytes:
    """Read bytes that must be there: a body that ended early would look like a whole one."""
    piece = file.read(size)
    if size and not piece:
        raise IntegrityError("a file of a committed store became shorter while it was sent")
    return piece or b""


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
