"""Whether the service lives, whether it can work, and what it has counted."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from featurestore.service.problems import problem
from featurestore.service.service import Service, service_of

_log = logging.getLogger("featurestore.service")
router = APIRouter(tags=["health"])
Asked = Annotated[Service, Depends(service_of)]


@router.get("/healthz", response_class=PlainTextResponse, summary="Is the process alive?")
async def healthz() -> str:
    """Answer as soon as requests are answered at all. Needs no token."""
    return "alive\n"


@router.get(
    "/readyz",
    response_class=PlainTextResponse,
    summary="Can it work?",
    responses={503: {"description": "The cache cannot be read, or the service is stopping."}},
)
async def readyz(service: Asked) -> Response:
    """Answer 200 while the cache can be listed and nobody asked the service to stop.

    Needs no token, and says no more than that.
    """
    if service.stopping:
        return problem(503, "the service is stopping")
    try:
        await run_in_threadpool(service.catalogue.current)
    except Exception:  # whatever it is, the log has it, and the answer is the same
        _log.exception("the cache cannot be read")
        return problem(503, "the cache cannot be read")
    return PlainTextResponse("ready\n")


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    summary="Counts and histograms for Prometheus",
)
async def metrics(service: Asked) -> Response:
    """Requests, latencies, bytes, hits and misses, batches, queue, heads, memory."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
