"""The service without HTTP: what routes and pages ask, made from the settings in one place."""

from __future__ import annotations

import dataclasses

from starlette.requests import HTTPConnection

from featurestore.service.contract import FindsSets, ServiceSettings
from featurestore.service.live_catalogue import LiveCatalogue
from featurestore.service.metrics import Metrics
from featurestore.service.store_files import StoreFiles


@dataclasses.dataclass
class Service:
    """Everything that lives as long as the service does.

    Attributes
    ----------
    stopping
        Set when the service was asked to stop: what it accepted is still answered.
    """

    settings: ServiceSettings
    catalogue: FindsSets
    files: StoreFiles
    metrics: Metrics
    stopping: bool = False

    async def close(self) -> None:
        """Finish what was accepted and let go of everything."""


def create_service(settings: ServiceSettings) -> Service:
    """Put the parts together; opens no network and no store yet."""
    return Service(
        settings=settings,
        catalogue=LiveCatalogue(settings.cache),
        files=StoreFiles(settings.cache),
        metrics=Metrics(),
    )


async def service_of(connection: HTTPConnection) -> Service:
    """Return the service that a request belongs to, as a dependency.

    It waits for nothing; were it no coroutine, each request would visit a thread for it.
    """
    service: Service = connection.app.state.service
    return service
