"""Results for several images in the format that a client accepts: JSON, `.npy` or Arrow."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from featurestore.errors import InvalidInput
from featurestore.service.contract import Answer

JSON = "application/json"
NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
MEDIA_TYPES = (JSON, NPY, ARROW)
# An answer of more bytes than this is made and sent piece by piece, and others are served between.
_WHOLE_BYTES = 2**18
_NAMED = 8


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Result:
    """One image: what the client called it, what became of it, and the numbers asked for.

    Parameters
    ----------
    values
        Of the results' shape and type; None where the answer has a reason.
    predicted
        A class name; None where nothing is predicted.
    """

    name: str | None
    answer: Answer
    values: np.ndarray | None
    predicted: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The images of one request, in its order.

    Parameters
    ----------
    about
        What holds for all: JSON values that stand before the results.
    column
        What the numbers are; with probabilities come predicted classes.
    shape, dtype
        Of one image's numbers.
    """

    about: Mapping[str, object]
    column: Literal["features", "probabilities"]
    shape: tuple[int, ...]
    dtype: str
    results: Sequence[Result]


def accepted(header: str | None) -> str:
    """Return the media type that an Accept header likes best; of several, the first we name.

    Raises
    ------
    HTTPException
        406: it likes none.
    """
    if not header or header == "*/*":
        return JSON
    if header in MEDIA_TYPES:
        return header
    liked = {media_type: _quality(media_type, header) for media_type in MEDIA_TYPES}
    best = max(MEDIA_TYPES, key=lambda media_type: liked[media_type])
    if liked[best] <= 0:
        raise HTTPException(406, f"expected Accept to name one of {', '.join(MEDIA_TYPES)}")
    return best


async def respond(found: Results, media_type: str) -> Response:
    """Return the answer, with the headers that say what came from a cache.

    Raises
    ------
    InvalidInput
        An array was asked for, and an image has no numbers.
    """
    headers = _cache_headers([each.answer for each in found.results])
    size = len(found.results) * math.prod(found.shape) * np.dtype(found.dtype).itemsize
    if media_type == ARROW:
        # Loads pyarrow at first.
        body = await asyncio.to_thread(_arrow, found)
        return Response(body, headers=headers, media_type=ARROW)
    pieces = _npy(found) if media_type == NPY else _json(found)
    if size <= _WHOLE_BYTES:
        return Response(b"".join(pieces), headers=headers, media_type=media_type)
    if media_type == NPY:
        head = next(pieces)
        headers["Content-Length"] = str(len(head) + size)
        pieces = _chain(head, pieces)
    return StreamingResponse(_yielding(pieces), headers=headers, media_type=media_type)


def _quality(media_type: str, header: str) -> float:
    """Return what the most exact range of an Accept header gives a type (RFC 9110, 12.5.1)."""
    kind = media_type.partition("/")[0]
    exact = {"*/*": 1, f"{kind}/*": 2, media_type: 3}
    best = (0, 0.0)
    for part in header.split(","):
        name, *parameters = (text.strip().lower() for text in part.split(";"))
        if name in exact:
            best = max(best, (exact[name], _weight(parameters)))
    return best[1]


def _weight(parameters: Iterable[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))  # min: not a number is no liking
            except ValueError:
                return 0.0
    return 1.0


def _cache_headers(answers: Sequence[Answer]) -> dict[str, str]:
    misses = sum(answer.origin == "computed" for answer in answers)
    hits = len(answers) - misses
    return {
        "X-Featurestore-Cache": "mixed" if hits and misses else "miss" if misses else "hit",
        "X-Featurestore-Hits": str(hits),
        "X-Featurestore-Misses": str(misses),
    }


def _json(found: Results) -> Iterator[bytes]:
    """Yield a JSON object in pieces, an image each.

    Measured on 8,192 values a row: `tolist` with pydantic's writer takes 0.5 ms, the standard
    library 1.4 ms for float16 and 5.5 ms for float32. Both write the shortest digits that give the
    same double, which is the stored number exactly.
    """
    yield f'{json.dumps(found.about)[:-1]}, "results": ['.encode()
    for index, each in enumerate(found.results):
        fields: dict[str, object] = {"name": each.name, "sha256": each.answer.sha256}
        if each.values is None:
            fields["reason"] = each.answer.reason
        else:
            fields["origin"] = each.answer.origin
            if found.column == "probabilities":
                fields["predicted"] = each.predicted
        # The standard library's, as a client's text may hold half of a surrogate pair.
        text = json.dumps(fields).encode()
        if each.values is not None:
            numbers = to_json(each.values.ravel().tolist())
            text = b'%s, "%s": %s}' % (text[:-1], found.column.encode(), numbers)
        yield b", " + text if index else text
    yield b"]}"


def _npy(found: Results) -> Iterator[bytes]:
    """Yield the header of an .npy file, then a row each."""
    without = [each for each in found.results if each.values is None]
    if without:
        raise InvalidInput(
            f"{len(without)} of {len(found.results)} images cannot be read, so there is no array: "
            + "; ".join(f"{each.name!r}: {each.answer.reason}" for each in without[:_NAMED])
            + ("; …" if len(without) > _NAMED else ""),
            next_step=f"leave them out, or accept {JSON} or {ARROW}",
        )
    dtype = np.dtype(found.dtype).newbyteorder("<")
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream,
        {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (len(found.results), *found.shape),
        },
    )
    yield stream.getvalue()
    for each in found.results:
        assert each.values is not None
        yield np.ascontiguousarray(each.values, dtype).tobytes()


def _arrow(found: Results) -> bytes:
    import pyarrow as pa

    rows = found.results
    size = math.prod(found.shape)
    values = np.zeros((len(rows), size), found.dtype)
    for row, each in zip(values, rows, strict=True):
        if each.values is not None:
            row[:] = each.values.ravel()
    columns = {
        "name": pa.array([each.name for each in rows], pa.string()),
        "sha256": pa.array([each.answer.sha256 for each in rows], pa.string()),
        "origin": pa.array([each.answer.origin for each in rows], pa.string()),
        "reason": pa.array([each.answer.reason for each in rows], pa.string()),
    }
    if found.column == "probabilities":
        columns["predicted"] = pa.array([each.predicted for each in rows], pa.string())
    columns[found.column] = pa.FixedSizeListArray.from_arrays(
        pa.array(values.ravel()),
        size,
        mask=pa.array([each.values is None for each in rows], pa.bool_()),
    )
    about = {**found.about, "shape": list(found.shape)}
    table = pa.table(columns, metadata={name: json.dumps(each) for name, each in about.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


async def _yielding(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)
