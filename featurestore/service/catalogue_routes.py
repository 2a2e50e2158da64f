"""`/v1/feature-sets` and `/v1/runs`: what the cache holds, as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from featurestore.catalogue import Record
from featurestore.service.service import Service, service_of

router = APIRouter(prefix="/v1", tags=["catalogue"])
Asked = Annotated[Service, Depends(service_of)]


@router.get("/feature-sets")
def feature_sets(service: Asked) -> dict[str, object]:
    """List the newest version of each feature set."""
    return {"feature_sets": [summary(record) for record in service.catalogue.current()]}


@router.get("/feature-sets/{name:path}")
def feature_set(name: str, service: Asked) -> dict[str, object]:
    """Return one feature set: by name, a unique start of one, or of a fingerprint."""
    return summary(service.catalogue.find(name))


def summary(record: Record) -> dict[str, object]:
    """Return a record as JSON-ready values, with where its store's files are to be had."""
    return {
        "name": record.name,
        "fingerprint": record.fingerprint,
        "store_format": record.store_format,
        "rows": dict(record.rows),
        "feature_shape": list(record.feature_shape),
        "class_names": list(record.class_names),
        "recipe": record.recipe.to_dict(),
        "recipe_name": record.recipe.name,
        "recipe_fingerprint": record.recipe.fingerprint,
        "views": record.views,
        "stored_bytes": record.stored_bytes,
        "committed_at": record.committed_at,
        "checksums_sha256": record.checksums_sha256,
        "store": f"/v1/feature-sets/{record.name}/store/{record.store.name}",
    }
