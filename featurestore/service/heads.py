"""Heads of runs in memory: loaded when they are first asked for, and let go of by size."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from featurestore.catalogue import Record
from featurestore.errors import NotFound
from featurestore.recipe import Recipe
from featurestore.service.contract import Counts, NoCounts
from featurestore.training.classify import probabilities_of, recipe_of, weights_of_start
from featurestore.training.contract import Head
from featurestore.training.runs import Run

# Loading one head must not keep another from predicting; each of both threads may be waited for.
_THREADS = 2

T = TypeVar("T")


class LoadedHead:
    """A run's head in memory. Only the service's event loop may call it.

    Parameters
    ----------
    recipe
        Of the features that it reads.
    size_bytes
        Of its model file, unpacked.
    """

    def __init__(
        self, run: Run, head: Head, *, size_bytes: int, threads: ThreadPoolExecutor
    ) -> None:
        self.run = run
        self.recipe: Recipe = recipe_of(run)
        self.size_bytes = size_bytes
        self._head = head
        self._threads = threads
        self._alone = asyncio.Lock()  # a head belongs to one thread at a time
        self._weights: tuple[Sequence[Record], tuple[str, ...]] | None = None

    async def probabilities(self, features: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        """Return (n_classes,) float32 for each row of features, None where there is none."""
        if all(row is None for row in features):
            return [None] * len(features)
        async with self._alone:
            return await _in_thread(self._threads, partial(probabilities_of, self._head, features))

    async def other_weights(self, records: Sequence[Record]) -> tuple[str, ...]:
        """Return `weights_of_start`; looked for again only when `records` are other ones."""
        if self._weights is None or self._weights[0] is not records:
            found = await _in_thread(self._threads, partial(weights_of_start, self.run, records))
            self._weights = (records, found)
        return self._weights[1]


@dataclasses.dataclass(eq=False)
class _Place:
    """A head that is loaded or about to be."""

    loading: asyncio.Task[LoadedHead]
    users: int = 0
    used: int = 0

    @property
    def head(self) -> LoadedHead | None:
        """The head, once it is loaded."""
        loaded = self.loading.done() and not self.loading.cancelled()
        return self.loading.result() if loaded and self.loading.exception() is None else None


class LoadedHeads:
    """Heads by run, each loaded once however many ask, by model bytes within a bound.

    Those that were used longest ago go first; one in use stays, beyond the bound if need be. Only
    the service's event loop may call it; work is done in threads.

    Parameters
    ----------
    max_bytes
        Of the unpacked model files of heads that stay without being used.
    """

    def __init__(self, max_bytes: int, *, counts: Counts = NoCounts()) -> None:  # noqa: B008 -- has no state
        self._max_bytes = max_bytes
        self._counts = counts
        self._places: dict[tuple[str, str], _Place] = {}  # by run id and digest of the model file
        self._uses = itertools.count()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="heads")

    @property
    def loaded(self) -> list[LoadedHead]:
        """Those in memory now, in the order in which they were asked for first."""
        return [place.head for place in self._places.values() if place.head is not None]

    @asynccontextmanager
    async def lease(self, run: Run) -> AsyncIterator[LoadedHead]:
        """Give the head of a run, which stays in memory until the block is left.

        Raises
        ------
        NotFound
            The run is gone, also where its head is still in memory.
        IntegrityError, Conflict, MissingDependency
            As `Run.load_head` and `recipe_of`.
        """
        key = (run.id, run.files[run.model_path.name])
        place = self._places.get(key)
        if place is not None and not run.path.is_dir():
            if not place.users:
                self._drop(key)
            raise NotFound(f"run {run.id} is gone: another process has removed it")
        if place is None:
            place = _Place(asyncio.get_running_loop().create_task(self._load(run)))
            place.loading.add_done_callback(lambda _: self._loaded())
            self._places[key] = place
        place.users += 1
        place.used = next(self._uses)
        try:
            # Shielded: a client that leaves does not take the head from others who wait for it.
            yield await asyncio.shield(place.loading)
        finally:
            place.users -= 1
            self._make_room()

    async def close(self) -> None:
        """Wait for what is under way, and let go of all heads."""
        loading = [place.loading for place in self._places.values()]
        await asyncio.gather(*loading, return_exceptions=True)
        self._places.clear()
        self._tell()
        await asyncio.to_thread(self._threads.shutdown)

    async def _load(self, run: Run) -> LoadedHead:
        def load() -> LoadedHead:
            head = run.load_head()
            size_bytes = unpacked_bytes(run.model_path)
            return LoadedHead(run, head, size_bytes=size_bytes, threads=self._threads)

        return await _in_thread(self._threads, load)

    def _loaded(self) -> None:
        self._make_room()
        self._tell()

    def _make_room(self) -> None:
        """Drop what failed to load, then idle heads beyond the bound."""
        for key, place in list(self._places.items()):
            if place.loading.done() and place.head is None and not place.users:
                self._drop(key)
        idle = sorted(
            (key for key, place in self._places.items() if place.head and not place.users),
            key=lambda key: self._places[key].used,
        )
        while idle and sum(head.size_bytes for head in self.loaded) > self._max_bytes:
            self._drop(idle.pop(0))

    def _drop(self, key: tuple[str, str]) -> None:
        del self._places[key]
        self._tell()

    def _tell(self) -> None:
        loaded = self.loaded
        self._counts.heads_loaded(len(loaded), sum(head.size_bytes for head in loaded))


def unpacked_bytes(model: Path) -> int:
    """Return the size of a model file, or of what is packed in it: about what is loaded of it."""
    if not zipfile.is_zipfile(model):
        return model.stat().st_size
    with zipfile.ZipFile(model) as packed:
        return sum(member.file_size for member in packed.infolist())


async def _in_thread(threads: ThreadPoolExecutor, action: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, action)
