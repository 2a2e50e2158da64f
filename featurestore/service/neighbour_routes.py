"""`/v1/feature-sets/{dataset}/{recipe}/neighbours`: which rows are near a row, or a new image."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.requests import ClientDisconnect

from featurestore.catalogue import Record
from featurestore.errors import InvalidInput, NotFound
from featurestore.service.contract import Answer, Busy
from featurestore.service.embed_routes import CLIENT_LEFT
from featurestore.service.map_routes import PROBLEMS, Pinned
from featurestore.service.maps import Maps
from featurestore.service.neighbours import find_nearest
from featurestore.service.projection import place_among, unit_vectors
from featurestore.service.service import Service, service_of
from featurestore.service.uploads import UntilGone
from featurestore.service.versions import find_version

_WAIT_S = 20.0
_ASK_EVERY_S = 0.1
_AGAIN_S = 2
_ANCHORS = 5

router = APIRouter(prefix="/v1/feature-sets/{dataset}/{recipe}", tags=["maps"])
Asked = Annotated[Service, Depends(service_of)]
Count = Annotated[int, Query(ge=1, le=200, description="How many neighbours.")]
_BYTES = {"type": "string", "format": "binary"}
_BUSY: dict[int | str, dict[str, Any]] = {
    429: {"description": "The features are being read for the first time, or the service is busy."}
}
_UPLOAD: dict[int | str, dict[str, Any]] = {
    400: {"description": "The form is malformed."},
    408: {"description": "The body came too slowly."},
    409: {"description": "The weights are not those of the recipe."},
    413: {"description": "More bytes or pixels than the service's limits allow."},
    415: {"description": "The body is encoded, or a multipart that is no form."},
}


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """One row near the query.

    `distance` is one minus the cosine of the features' means over space: 0 to 2, and 0 where the
    image has the very bytes of the query (`same_bytes`). `position` counts rows over all splits.
    """

    split: str
    row: int
    position: int
    sample_id: str
    class_name: str
    distance: float
    same_bytes: bool


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The rows nearest to a query, the nearest first.

    `split`, `row` and `position` are the query's own, where it is a row; `origin` is where the
    features of an image came from. `place` is where the query lies on the map, from -1 to 1, or
    would lie by its neighbours; null while there is no map.
    """

    feature_set: str
    fingerprint: str
    sha256: str
    split: str | None
    row: int | None
    position: int | None
    origin: str | None
    place: tuple[float, float] | None
    neighbours: list[Neighbour]


@router.get("/neighbours", responses=PROBLEMS | _BUSY)
async def neighbours_of_row(  # the parameters are those of the URL
    service: Asked,
    *,
    dataset: str,
    recipe: str,
    split: str,
    row: Annotated[int, Query(ge=0, le=2**53)],
    k: Count = 12,
    fingerprint: Pinned = None,
) -> Neighbours:
    """Return the rows whose features are nearest to those of one row."""
    record = await asyncio.to_thread(
        find_version, service.catalogue, f"{dataset}/{recipe}", fingerprint
    )
    rows = await asyncio.to_thread(service.maps.rows, record)
    position = rows.position(split, row)
    vectors = await _vectors(service, record)
    query = _Query(
        vectors[position], rows.digests[position].tobytes(), position=position, split=split, row=row
    )
    return await _found(service.maps, record, query, k)


@router.post(
    "/neighbours",
    responses=PROBLEMS | _BUSY | _UPLOAD,
    response_model=Neighbours,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "One image as it is, or a form with one file.",
            "content": {
                "application/octet-stream": {"schema": _BYTES},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": _BYTES},
                        "required": ["image"],
                    }
                },
            },
        }
    },
)
async def neighbours_of_image(  # the parameters are those of the URL
    request: Request,
    service: Asked,
    *,
    dataset: str,
    recipe: str,
    k: Count = 12,
    fingerprint: Pinned = None,
) -> Neighbours | Response:
    """Return the rows whose features are nearest to those of an image.

    Its features are those of `fs embed` for the same bytes, found or computed as `/v1/embed` does.
    """
    record = await asyncio.to_thread(
        find_version, service.catalogue, f"{dataset}/{recipe}", fingerprint
    )
    try:
        async with service.uploads.receive(request) as uploads, UntilGone(request):
            if len(uploads) != 1:
                raise InvalidInput(f"neighbours: expected one image, found {len(uploads)}")
            answers = await service.embedder.embed(record.recipe.clean, [uploads[0].content])
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    answer = answers[0]
    if answer.features is None:
        raise InvalidInput(f"the image cannot be read: {answer.reason}")
    await _vectors(service, record)
    return await _found(service.maps, record, _of_answer(answer, answer.features), k)


@dataclasses.dataclass(frozen=True, eq=False)
class _Query:
    """What neighbours are looked for: a vector, and the digest of its image's bytes."""

    vector: np.ndarray
    sha256: bytes
    position: int | None = None
    split: str | None = None
    row: int | None = None
    origin: str | None = None


def _of_answer(answer: Answer, features: np.ndarray) -> _Query:
    return _Query(
        unit_vectors(features[None])[0], bytes.fromhex(answer.sha256), origin=answer.origin
    )


async def _vectors(service: Service, record: Record) -> np.ndarray:
    """Return a set's vectors; the first time, when they are made."""
    ends = time.monotonic() + _WAIT_S
    while True:
        found = await asyncio.to_thread(service.maps.vectors, record)
        if found is not None:
            return found
        progress = await asyncio.to_thread(service.maps.look, record)
        if progress.step == "failed":
            raise NotFound(f"the features of {record.name} cannot be read: {progress.reason}")
        if time.monotonic() > ends:
            raise Busy(f"the features of {record.name} are being read", retry_after_s=_AGAIN_S)
        await asyncio.sleep(_ASK_EVERY_S)


async def _found(maps: Maps, record: Record, query: _Query, count: int) -> Neighbours:
    async with maps.searches:
        return await asyncio.to_thread(_search, maps, record, query, count)


def _search(maps: Maps, record: Record, query: _Query, count: int) -> Neighbours:
    rows = maps.rows(record)
    vectors = maps.vectors(record)
    assert vectors is not None, "they were there when the search began"
    same = rows.of_bytes(query.sha256)
    nearest = find_nearest(vectors, query.vector, count=count, same=same, without=query.position)
    equal = set(same.tolist())
    neighbours = []
    for position, distance in zip(nearest.rows.tolist(), nearest.distances.tolist(), strict=True):
        split, row = rows.place(position)
        neighbours.append(
            Neighbour(
                split=split,
                row=row,
                position=position,
                sample_id=str(rows.sample_ids[position]),
                class_name=record.class_names[int(rows.labels[position])],
                distance=distance,
                same_bytes=position in equal,
            )
        )
    points = maps.points(record)
    return Neighbours(
        feature_set=record.name,
        fingerprint=record.fingerprint,
        sha256=query.sha256.hex(),
        split=query.split,
        row=query.row,
        position=query.position,
        origin=query.origin,
        place=None if points is None else _place(points[0], query, nearest.rows, nearest.distances),
        neighbours=neighbours,
    )


def _place(
    points: np.ndarray, query: _Query, near: np.ndarray, distances: np.ndarray
) -> tuple[float, float] | None:
    if query.position is not None:
        place = points[query.position]
    elif len(near):
        # Distances are of squares: lengths of differences between vectors of length 1.
        lengths = np.sqrt(2 * distances[:_ANCHORS])
        place = place_among(lengths, np.asarray(points[near[:_ANCHORS]]))
    else:
        return None
    return float(place[0]), float(place[1])
