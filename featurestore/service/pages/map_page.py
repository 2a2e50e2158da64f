"""`/sets/{dataset}/{recipe}/map`: the page on which a script draws a feature set as points."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from featurestore.service.pages import addresses
from featurestore.service.pages.rendering import PageRoute, page
from featurestore.service.projection import describe
from featurestore.service.service import Service, service_of
from featurestore.service.versions import find_version

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Asked = Annotated[Service, Depends(service_of)]


@router.get("/sets/{dataset}/{recipe}/map")
def map_of_set(
    request: Request,
    service: Asked,
    dataset: str,
    recipe: str,
    fingerprint: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Show the map of one feature set; the start of a name leads to the one it means."""
    record = find_version(service.catalogue, f"{dataset}/{recipe}", fingerprint)
    if record.name != f"{dataset}/{recipe}":
        return RedirectResponse(addresses.map_page(record.name, asked=request.url.query))
    total = sum(record.rows.values())
    newest = service.catalogue.find(record.name)
    values: dict[str, object] = {
        "record": record,
        "pinned": None if newest.fingerprint == record.fingerprint else record.fingerprint,
        "api": "/v1/feature-sets" + addresses.set_page(record.name).removeprefix("/sets"),
        "total": total,
        "method": describe(total, service.maps.layout),
    }
    return page(request, "map.html.j2", values=values)
