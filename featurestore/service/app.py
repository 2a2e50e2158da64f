"""The HTTP application: routes, errors and the life of the service, put together."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from featurestore import __name__ as package
from featurestore.service import (
    catalogue_routes,
    docs_routes,
    embed_routes,
    file_routes,
    health_routes,
    images_routes,
    login_routes,
    map_routes,
    neighbour_routes,
    predict_routes,
    problems,
    run_file_routes,
    run_routes,
)
from featurestore.service.contract import ServiceSettings
from featurestore.service.description import completed
from featurestore.service.head_requests import HeadAsGet
from featurestore.service.limits import Limited
from featurestore.service.observed import Observed
from featurestore.service.pages import map_page, missing_page, set_routes, static_routes
from featurestore.service.pages import run_routes as run_pages
from featurestore.service.security import Door, Guarded
from featurestore.service.service import create_service

# In the order in which they are asked; a path parameter that takes slashes comes last.
_ROUTERS = (
    health_routes.router,
    docs_routes.router,
    login_routes.router,
    embed_routes.router,
    predict_routes.router,
    images_routes.router,
    map_routes.router,
    neighbour_routes.router,
    map_page.router,
    set_routes.router,
    run_pages.router,
    static_routes.router,
    catalogue_routes.router,
    run_routes.router,
    run_file_routes.router,
)


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the description of all routes, made once."""
        if self.openapi_schema is None:
            made = super().openapi()
            self.openapi_schema = completed(made, asks_for_token=self.state.door is not None)
        return self.openapi_schema


def create_app(settings: ServiceSettings) -> FastAPI:
    """Return the application of one cache. Nothing is opened before it is started."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service = create_service(settings)
        try:
            yield
        finally:
            await service.close()

    # FastAPI's documentation pages load their scripts from another server; ours do not. Its
    # telemetry asks the environment in every request, and may send what it sees elsewhere. Versions
    # without it let the setting pass.
    app = _Application(
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        title=package,
        version=importlib.metadata.version(package),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.door = door = None if settings.token is None else Door(settings.token)
    # The last one is asked first.
    app.add_middleware(HeadAsGet)
    app.add_middleware(Limited, limits=settings.limits)
    app.add_middleware(Guarded, hosts=settings.hosts, door=door)
    app.add_middleware(Observed)
    problems.add_handlers(app)
    file_routes.add_routes(app)
    for router in _ROUTERS:
        app.include_router(router)
    missing_page.add_route(app)
    return app
