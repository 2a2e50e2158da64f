"""`/v1/feature-sets/{dataset}/{recipe}/map`: a set as points, and what colours them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response

from featurestore.catalogue import Record
from featurestore.errors import NotFound
from featurestore.service.contract import Busy
from featurestore.service.map_points import Body, framed, pack
from featurestore.service.projection import describe
from featurestore.service.service import Service, service_of
from featurestore.service.versions import find_version
from featurestore.training.runs import Run

_MOST_NAMES = 256
_AGAIN_S = 2

router = APIRouter(prefix="/v1/feature-sets/{dataset}/{recipe}", tags=["maps"])
Asked = Annotated[Service, Depends(service_of)]
Pinned = Annotated[
    str | None,
    Query(
        description="Start of the fingerprint of the version that is meant; else the newest.",
        max_length=64,
    ),
]
_COLUMNS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`FSCOLUMN`, the length of a JSON text (4 bytes, little-endian), the text, "
        "and the columns that it describes.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "The client has these points already (If-None-Match)."},
    404: {"description": "There is no such set or run, or its map cannot be made."},
    409: {"description": "The run was judged on other images."},
    429: {"description": "The map is being made: come again after `Retry-After` seconds."},
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such set, version, split or row."},
    422: {"description": "A number is out of its range, or several sets are meant."},
}


@dataclasses.dataclass(frozen=True)
class Split:
    """One split's rows among all: `start` onwards."""

    name: str
    start: int
    rows: int


@dataclasses.dataclass(frozen=True)
class ColouringRun:
    """A run by whose answers points can be coloured; `of_this_set`: it was trained on these
    features, else on others of the same images."""

    id: str
    head: str
    path: str
    created: str
    of_this_set: bool
    accuracy: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class MapState:
    """A map: how far it is, and what its points mean.

    `step` is ``waiting``, ``reading``, ``components``, ``layout``, ``placing``, ``ready`` or
    ``failed``. `points` says whether there are any: ``none``, a ``draft``, or the ``layout``.
    """

    feature_set: str
    fingerprint: str
    step: str
    done: float
    reason: str | None
    points: str
    method: str
    rows: int
    class_names: list[str]
    splits: list[Split]
    runs: list[ColouringRun]


@dataclasses.dataclass(frozen=True)
class Names:
    """The sample ids of the rows asked for, in that order."""

    fingerprint: str
    names: list[str]


@router.get("/map", responses=PROBLEMS)
def map_state(service: Asked, dataset: str, recipe: str, fingerprint: Pinned = None) -> MapState:
    """Tell how far a set's map is, and begin it where nobody has. Ask until `step` is ``ready``."""
    record = find_version(service.catalogue, f"{dataset}/{recipe}", fingerprint)
    progress = service.maps.look(record)
    found = service.maps.points(record)
    starts = service.maps.rows(record).starts
    total = sum(record.rows.values())
    return MapState(
        feature_set=record.name,
        fingerprint=record.fingerprint,
        step=progress.step,
        done=progress.done,
        reason=progress.reason,
        points="none" if found is None else "layout" if found[1] else "draft",
        method=describe(total, service.maps.layout),
        rows=total,
        class_names=list(record.class_names),
        splits=[Split(name, start, record.rows[name]) for name, start in starts.items()],
        runs=[_colouring(run, record) for run in runs_of(service, record)],
    )


@router.get("/map/points", response_class=Response, responses=_COLUMNS)
def map_points(
    request: Request, service: Asked, dataset: str, recipe: str, fingerprint: Pinned = None
) -> Response:
    """Return the points of all rows: ``x`` and ``y``, 0 to 65,535 from the lower left, ``label``.

    Rows are in the order of the splits that the map's state tells.
    """
    record = find_version(service.catalogue, f"{dataset}/{recipe}", fingerprint)
    progress = service.maps.look(record)
    found = service.maps.points(record)
    if found is None:
        if progress.step == "failed":
            raise NotFound(f"the map of {record.name} cannot be made: {progress.reason}")
        raise Busy(f"the map of {record.name} is being made", retry_after_s=_AGAIN_S)
    points, final = found
    places = framed(points)
    labels = service.maps.rows(record).labels
    small = len(record.class_names) < 2**16
    body = pack(
        {
            "x": places[:, 0],
            "y": places[:, 1],
            "label": labels.astype("uint16" if small else "uint32"),
        },
        {
            "fingerprint": record.fingerprint,
            "rows": len(labels),
            "points": "layout" if final else "draft",
        },
    )
    return _columns(request, body)


@router.get("/map/answers", response_class=Response, responses=_COLUMNS)
def map_answers(
    request: Request,
    service: Asked,
    *,
    dataset: str,
    recipe: str,
    run: Annotated[str, Query(description="Id of a run, or its unique start.", max_length=200)],
    fingerprint: Pinned = None,
) -> Response:
    """Return what a run answered for each row: ``predicted`` (65,535: nothing), ``probability``."""
    record = find_version(service.catalogue, f"{dataset}/{recipe}", fingerprint)
    found = service.catalogue.run(run)
    predicted, probability = service.maps.rows(record).answers(found)
    body = pack(
        {"predicted": predicted, "probability": probability},
        {"fingerprint": record.fingerprint, "rows": len(predicted), "run": found.id},
    )
    return _columns(request, body)


@router.get("/map/names", responses=PROBLEMS)
def map_names(
    service: Asked,
    dataset: str,
    recipe: str,
    positions: Annotated[
        str,
        Query(
            pattern=rf"^[0-9]{{1,12}}(,[0-9]{{1,12}}){{0,{_MOST_NAMES - 1}}}$",
            description="Positions of rows, counted over all splits, with commas between.",
        ),
    ],
    fingerprint: Pinned = None,
) -> Names:
    """Return what up to 256 rows are called."""
    record = find_version(service.catalogue, f"{dataset}/{recipe}", fingerprint)
    rows = service.maps.rows(record)
    asked = np.array(positions.split(","), np.int64)
    if (outside := asked[asked >= len(rows)]).size:
        raise NotFound(f"feature set {record.name}: row {outside[0]} is not among its {len(rows)}")
    return Names(record.fingerprint, [str(each) for each in rows.sample_ids[asked]])


def runs_of(service: Service, record: Record) -> list[Run]:
    """Return the runs on a set's images: those on its features first, the newest first."""
    runs = [
        run
        for run in service.catalogue.runs()
        if run.features.manifest_fingerprint == record.manifest_fingerprint
    ]
    return sorted(runs, key=lambda run: run.features.fingerprint != record.fingerprint)


def _colouring(run: Run, record: Record) -> ColouringRun:
    return ColouringRun(
        id=run.id,
        head=run.head,
        path=run.path_taken,
        created=run.created,
        of_this_set=run.features.fingerprint == record.fingerprint,
        accuracy={
            split: metrics["accuracy"]
            for split, metrics in run.metrics.items()
            if metrics is not None
        },
    )


def _columns(request: Request, body: Body) -> Response:
    headers = {"ETag": body.etag, "Cache-Control": "private, no-cache"}
    if body.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body.content, headers=headers, media_type="application/octet-stream")
