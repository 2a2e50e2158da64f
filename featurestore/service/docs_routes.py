"""`/docs`: the OpenAPI description as a page of our own.

Swagger UI and Redoc are 1.1 to 1.7 MB of somebody's script, which would run with the session of
whoever reads the page. What they add to reading, sending requests from the page, curl does as well.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from featurestore.service.docs_view import blocks_of, groups_of
from featurestore.service.pages.rendering import page

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def documentation(request: Request) -> Response:
    """Show every operation with its parameters, its answers and a command to copy."""
    description = request.app.openapi()
    url = str(request.base_url).removesuffix("/")
    values = {
        "about": blocks_of(description["info"]["description"]),
        "version": description["info"]["version"],
        "groups": groups_of(description, url=url),
    }
    return page(request, "docs.html.j2", values=values)
