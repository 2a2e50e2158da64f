"""`/v1/feature-sets`: what the cache holds, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query

from featurestore.service.service import Service, service_of
from featurestore.service.summaries import (
    FeatureSetDetail,
    FeatureSetList,
    detail,
    problems,
    summary,
)

T = TypeVar("T")
Asked = Annotated[Service, Depends(service_of)]
Limit = Annotated[int | None, Query(ge=1, description="Longest list to return; default: all")]
Offset = Annotated[int, Query(ge=0, description="Entries to leave out at the beginning")]

_NO_SUCH_SET: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such set."}}

router = APIRouter(prefix="/v1/feature-sets", tags=["catalogue"])


@router.get("")
def feature_sets(service: Asked, limit: Limit = None, offset: Offset = 0) -> FeatureSetList:
    """List the newest version of each feature set, once per store format, by name."""
    found = service.catalogue.current()
    return FeatureSetList(
        feature_sets=[summary(record) for record in page(found, limit=limit, offset=offset)],
        total=len(found),
        problems=problems(service.catalogue.problems(), cache=service.settings.cache),
    )


@router.get("/{start}", responses=_NO_SUCH_SET)
def feature_set_that_starts(start: str, service: Asked) -> FeatureSetDetail:
    """Return the one feature set whose name or fingerprint starts so.

    The start of a fingerprint, at least four digits of it, reaches older versions too.
    """
    return _detail(start, service)


@router.get("/{dataset}/{recipe}", responses=_NO_SUCH_SET)
def feature_set(dataset: str, recipe: str, service: Asked) -> FeatureSetDetail:
    """Return one feature set, by its name or a unique start of it."""
    return _detail(f"{dataset}/{recipe}", service)


def page(found: Sequence[T], *, limit: int | None, offset: int) -> Sequence[T]:
    """Return the part of a list that was asked for."""
    return found[offset : None if limit is None else offset + limit]


def _detail(wanted: str, service: Service) -> FeatureSetDetail:
    record = service.catalogue.find(wanted)
    versions = [each for each in service.catalogue.records() if each.name == record.name]
    return detail(record, versions=versions)
