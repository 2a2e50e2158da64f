"""The service without HTTP: what routes and pages ask, made from the settings in one place."""

from __future__ import annotations

import asyncio
import dataclasses

from starlette.requests import HTTPConnection

from featurestore.service.asked import Asked, AskedRecipe
from featurestore.service.contract import EmbedsImages, FindsSets, ServiceSettings
from featurestore.service.embedder import Embedder
from featurestore.service.heads import LoadedHeads
from featurestore.service.live_catalogue import LiveCatalogue
from featurestore.service.maps import Maps
from featurestore.service.metrics import Metrics
from featurestore.service.pages.slow_parts import SlowParts
from featurestore.service.samples import SampleIndex
from featurestore.service.store_files import StoreFiles
from featurestore.service.thumbnails import Thumbnails
from featurestore.service.uploads import Uploads
from featurestore.training.runs import Run


@dataclasses.dataclass
class Service:
    """Everything that lives as long as the service does.

    Attributes
    ----------
    recipes, runs
        By what a query names.
    stopping
        Set when the service was asked to stop: what it accepted is still answered.
    """

    settings: ServiceSettings
    catalogue: FindsSets
    recipes: Asked[AskedRecipe]
    runs: Asked[Run]
    files: StoreFiles
    metrics: Metrics
    uploads: Uploads
    embedder: EmbedsImages
    heads: LoadedHeads
    maps: Maps
    samples: SampleIndex
    thumbnails: Thumbnails
    slow_parts: SlowParts
    stopping: bool = False

    async def close(self) -> None:
        """Finish what was accepted and let go of everything."""
        await self.embedder.close()
        await self.heads.close()
        await asyncio.to_thread(self.maps.close)
        await asyncio.to_thread(self.thumbnails.close)
        await asyncio.to_thread(self.slow_parts.close)


def create_service(settings: ServiceSettings) -> Service:
    """Put the parts together; opens no network and no store yet."""
    metrics, samples = Metrics(), SampleIndex()
    catalogue = LiveCatalogue(settings.cache)
    return Service(
        settings=settings,
        catalogue=catalogue,
        recipes=Asked(lambda wanted: AskedRecipe.of(catalogue.of_recipe(wanted))),
        runs=Asked(catalogue.run),
        files=StoreFiles(settings.cache),
        metrics=metrics,
        uploads=Uploads(settings.limits),
        embedder=Embedder(settings, catalogue, counts=metrics),
        heads=LoadedHeads(settings.heads_bytes, counts=metrics),
        maps=Maps(settings.cache),
        samples=samples,
        thumbnails=Thumbnails(settings, samples),
        slow_parts=SlowParts(),
    )


async def service_of(connection: HTTPConnection) -> Service:
    """Return the service that a request belongs to, as a dependency.

    It waits for nothing; were it no coroutine, each request would visit a thread for it.
    """
    service: Service = connection.app.state.service
    return service
