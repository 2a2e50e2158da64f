"""`/v1/feature-sets/{dataset}/{recipe}/images/{split}/{row}`: a row's photograph, small."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from featurestore.service.service import Service, service_of
from featurestore.service.versions import find_version

_DAY_S = 24 * 3600
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An upright JPEG of 160 pixels at the longer side; never enlarged.",
        "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "The client has this image already (If-None-Match)."},
    404: {
        "description": "There is no such set, split or row, or the bytes that were embedded are "
        "not to be had: the reason is told."
    },
    429: {"description": "Too many photographs are asked for at once."},
}

router = APIRouter(prefix="/v1/feature-sets/{dataset}/{recipe}", tags=["photographs"])
Asked = Annotated[Service, Depends(service_of)]
Pinned = Annotated[
    str | None,
    Query(
        max_length=64,
        description="Start of the fingerprint of the version that the row is of; without it, the "
        "newest.",
    ),
]


@router.get("/images/{split}/{row}", responses=_ANSWERS, response_class=Response)
async def row_image(
    request: Request,
    service: Asked,
    dataset: str,
    recipe: str,
    split: str,
    row: Annotated[int, Path(ge=0)],
    fingerprint: Pinned = None,
) -> Response:
    """Return the photograph of one row, if its bytes are those that were embedded."""
    record = find_version(service.catalogue, f"{dataset}/{recipe}", fingerprint)
    image = await service.thumbnails.image_of(record, split, row)
    tag = f'"{image.sha256}-thumbnail"'
    # A row of a version is one image for ever; the newest version may be another tomorrow.
    keep = f"max-age={_DAY_S}, immutable" if fingerprint else "no-cache"
    headers = {"ETag": tag, "Cache-Control": f"private, {keep}"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(await service.thumbnails.jpeg(image), media_type="image/jpeg", headers=headers)
