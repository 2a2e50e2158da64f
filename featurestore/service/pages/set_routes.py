"""`/` and `/sets/…`: the feature sets of the cache, and one of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from featurestore.service.pages import addresses
from featurestore.service.pages.rendering import PageRoute, page
from featurestore.service.pages.sets_view import read_contents, set_cards, set_view
from featurestore.service.service import Service, service_of
from featurestore.service.versions import find_version

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Asked = Annotated[Service, Depends(service_of)]


@router.get("/")
def feature_sets(
    request: Request, service: Asked, q: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """Show the feature sets in which every word of `q` is found."""
    records = service.catalogue.current()
    values: dict[str, object] = {
        "cards": set_cards(records, q),
        "any": bool(records),
        "q": q,
        "cache": service.settings.cache,
    }
    return page(request, "sets.html.j2", values=values)


@router.get("/sets/{dataset}/{recipe}")
def feature_set(
    request: Request,
    service: Asked,
    dataset: str,
    recipe: str,
    fingerprint: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Show one feature set; the start of a name leads to the one it means."""
    record = find_version(service.catalogue, f"{dataset}/{recipe}", fingerprint)
    if record.name != f"{dataset}/{recipe}":
        return RedirectResponse(addresses.set_page(record.name, fingerprint=fingerprint))
    view = set_view(
        record, service.catalogue.records(), url=str(request.base_url).removesuffix("/")
    )
    values: dict[str, object] = {
        "view": view,
        "contents": read_contents(record, service.samples),
        "needs_token": service.settings.token is not None,
    }
    return page(request, "set.html.j2", values=values)
