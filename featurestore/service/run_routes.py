"""`/v1/runs`: trained heads and fine-tuned networks, as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from featurestore.service.catalogue_routes import Asked, Limit, Offset, page
from featurestore.service.summaries import (
    RunDetail,
    RunList,
    problems,
    run_detail,
    run_summary,
)

router = APIRouter(prefix="/v1/runs", tags=["runs"])
Head = Annotated[str | None, Query(description="Runs of this head only")]
On = Annotated[
    str | None,
    Query(description="Runs on feature sets whose name or fingerprint starts so"),
]


@router.get("")
def runs(
    service: Asked, head: Head = None, on: On = None, limit: Limit = None, offset: Offset = 0
) -> RunList:
    """List the runs, newest first."""
    found = [
        run
        for run in service.catalogue.runs()
        if head in (None, run.head)
        and (
            on is None
            or run.features.name.startswith(on)
            or run.features.fingerprint.startswith(on)
        )
    ]
    return RunList(
        runs=[run_summary(run) for run in page(found, limit=limit, offset=offset)],
        total=len(found),
        problems=problems(service.catalogue.run_problems(), cache=service.settings.cache),
    )


@router.get("/{run}", responses={404: {"description": "There is no such run."}})
def one_run(run: str, service: Asked) -> RunDetail:
    """Return the whole record of one run, by its id or a unique start of it."""
    return run_detail(service.catalogue.run(run))
