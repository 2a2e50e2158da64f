"""`/static/…`: the assets of the pages."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from featurestore.errors import NotFound
from featurestore.service.pages.assets import assets

_YEAR_S = 365 * 24 * 3600

router = APIRouter(include_in_schema=False)


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
async def asset(request: Request, name: str, v: str = "") -> Response:
    """Return an asset; under its version's address a browser keeps it."""
    found = assets().get(name)
    if found is None:
        raise NotFound(f"no asset {name!r}")
    tag = f'"{found.version}"'
    keep = f"max-age={_YEAR_S}, immutable" if v == found.version else "no-cache"
    headers = {"ETag": tag, "Cache-Control": f"public, {keep}"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = found.content if request.method == "GET" else b""
    headers["Content-Length"] = str(len(found.content))
    return Response(content, media_type=found.media_type, headers=headers)
