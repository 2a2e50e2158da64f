"""`/v1/runs/{id}/files/…`: the files of a run as they lie on disk, for `fs pull`."""

from __future__ import annotations

import os
from io import FileIO
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Request, Response

from featurestore.catalogue import RUNS
from featurestore.digests import sha256_hex
from featurestore.errors import NotFound
from featurestore.service.beneath import open_beneath
from featurestore.service.catalogue_routes import Asked
from featurestore.service.file_routes import FILE_RESPONSES, answer_file
from featurestore.service.service import Service
from featurestore.service.stored_file import StoredFile
from featurestore.training.runs import RECORD_NAME

router = APIRouter(prefix="/v1/runs", tags=["runs"], default_response_class=Response)
Id = Annotated[str, Path(description="Its whole id: the start of one may mean another one later")]


@router.head("/{run}/files/{name}", include_in_schema=False)
@router.get(
    "/{run}/files/{name}",
    responses={status: each for status, each in FILE_RESPONSES.items() if status != 410},
)
async def file_of_run(run: Id, name: str, request: Request, service: Asked) -> Response:
    """Return one file of a run: its record, ``run.json``, or one that the record has the digest of.

    Probabilities are NumPy's ``.npz``; a model is ``.keras`` or ``.skops``.
    """
    found = await to_thread.run_sync(_opened, service, run, name)
    return await answer_file(found, request)


def _opened(service: Service, wanted: str, name: str) -> StoredFile:
    run = service.catalogue.run(wanted)
    if run.id != wanted:
        raise NotFound(f"no run has the id {wanted!r}", next_step=f"perhaps {run.id} is meant")
    if name not in (RECORD_NAME, *run.files):
        raise NotFound(
            f"run {run.id} has no file {name!r}: it has "
            f"{', '.join([RECORD_NAME, *sorted(run.files)])}"
        )
    try:
        file = open_beneath(service.settings.cache, [RUNS, run.id, name])
    except FileNotFoundError as error:
        raise NotFound(f"run {run.id} is gone, or its file {name}") from error
    if name == RECORD_NAME:
        with file:
            content = file.readall()
        return _stored(content, len(content), sha256_hex(content), "application/json")
    size_bytes = os.fstat(file.fileno()).st_size
    return _stored(file, size_bytes, run.files[name], "application/octet-stream")


def _stored(source: FileIO | bytes, size_bytes: int, sha256: str, kind: str) -> StoredFile:
    # A run may be removed, and another be given its id: so none of its files is there for ever.
    return StoredFile(source, size_bytes, sha256, kind, lasting=False)
