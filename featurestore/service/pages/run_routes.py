"""`/runs`, `/runs/{id}` and `/compare`: trained heads, one by one and side by side."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from featurestore.catalogue import Record
from featurestore.errors import InvalidInput
from featurestore.service.outward import text_for_client
from featurestore.service.pages import addresses
from featurestore.service.pages.choices import comparable_groups
from featurestore.service.pages.rendering import PageRoute, page
from featurestore.service.pages.runs_view import (
    MOST_LISTED,
    RunQuery,
    chosen_runs,
    run_columns,
    run_row,
    run_view,
)
from featurestore.service.pages.slow_parts import Part
from featurestore.service.service import Service, service_of
from featurestore.training.run_list import NEWEST, SORT_KEYS
from featurestore.training.run_record import PATHS
from featurestore.training.runs import Run

MOST_COMPARED = 24
"""Runs in one comparison: its pairs grow by the square."""

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Asked = Annotated[Service, Depends(service_of)]
Text = Annotated[str, Query(max_length=200)]


def run_query(
    q: Text = "",
    head: Text = "",
    path: Text = "",
    on: Text = "",
    split: Literal["validation", "test"] = "validation",
    sort: Text = NEWEST,
    reverse: bool = False,
) -> RunQuery:
    """Return what the address of the list asks for; an unknown order is the usual one."""
    return RunQuery(
        words=q,
        head=head,
        path=path,
        on=on,
        split=split,
        sort=sort if sort in SORT_KEYS else NEWEST,
        reverse=reverse,
    )


@router.get("/runs")
def runs(
    request: Request, service: Asked, query: Annotated[RunQuery, Depends(run_query)]
) -> Response:
    """List the runs."""
    found = service.catalogue.runs()
    chosen = chosen_runs(found, query)
    values: dict[str, object] = {
        "query": query,
        "columns": run_columns(query),
        "rows": [run_row(run, query.split) for run in chosen[:MOST_LISTED]],
        "left_out": max(0, len(chosen) - MOST_LISTED),
        "any": bool(found),
        "heads": sorted({run.head for run in found}),
        "paths": [path for path in PATHS if any(run.path_taken == path for run in found)],
        "problems": [
            text_for_client(problem.message, service.settings.cache)
            for problem in service.catalogue.run_problems()
        ],
        "most": MOST_COMPARED,
    }
    return page(request, "runs.html.j2", values=values)


@router.get("/runs/{run_id}")
async def one_run(request: Request, service: Asked, run_id: str) -> Response:
    """Show one run; the start of an id leads to the one it means."""
    run = await asyncio.to_thread(service.catalogue.run, run_id)
    if run.id != run_id:
        return RedirectResponse(addresses.run_page(run.id))

    def make() -> Part:
        from featurestore.service.pages.measured import measured_part  # loads Matplotlib

        return measured_part(run)

    view = await asyncio.to_thread(lambda: run_view(run, service.catalogue.records()))
    measured = await service.slow_parts.get(f"run {_identity(run)}", make)
    values: dict[str, object] = {"view": view, "measured": measured.html}
    return page(request, "run.html.j2", values=values)


@router.get("/compare")
async def comparison(
    request: Request,
    service: Asked,
    run: Annotated[list[str], Query(max_length=200)] = [],  # noqa: B006 -- FastAPI copies it
    split: Literal["test", "validation"] = "test",
) -> Response:
    """Compare the runs whose ids, or the starts of them, are given."""
    if not run:
        found = await asyncio.to_thread(service.catalogue.runs)
        groups = await asyncio.to_thread(comparable_groups, found)
        return page(request, "compare_none.html.j2", values={"groups": groups})
    if len(run) > MOST_COMPARED:
        raise InvalidInput(
            f"a page compares at most {MOST_COMPARED} runs, {len(run)} were asked for",
            next_step="choose fewer, or use fs compare --report FILE, which has no such bound",
        )
    runs = await asyncio.to_thread(lambda: [service.catalogue.run(each) for each in run])
    record = await asyncio.to_thread(_pictured, service, runs[0])

    def make() -> Part:
        from featurestore.service.pages.measured import comparison_part  # loads Matplotlib

        return comparison_part(runs, split=split, record=record)

    pictured = "" if record is None else record.fingerprint
    key = f"compare {split} {pictured} {' '.join(map(_identity, runs))}"
    part = await service.slow_parts.get(key, make)
    values: dict[str, object] = {
        "part": part,
        "split": split,
        "other": "validation" if split == "test" else "test",
        "other_address": _compare_address(runs, "validation" if split == "test" else "test"),
    }
    return page(request, "compare.html.j2", values=values)


def _identity(run: Run) -> str:
    """Return a text that is another for a run that was made anew under the same id."""
    digests = (digest[:12] for name, digest in sorted(run.files.items()) if name.endswith(".npz"))
    return f"{run.id}:{','.join(digests)}"


def _pictured(service: Service, run: Run) -> Record | None:
    """Return a feature set whose rows are the images that a run was judged on."""
    manifest = run.features.manifest_fingerprint
    same = (each for each in service.catalogue.records() if each.manifest_fingerprint == manifest)
    return next(same, None)


def _compare_address(runs: list[Run], split: str) -> str:
    given = "&".join(addresses.query(run=run.id).removeprefix("?") for run in runs)
    return f"/compare?{given}&split={split}"
