"""A cache on another machine, from Python: `featurestore.connect(url)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from featurestore.errors import Conflict, InvalidInput
from featurestore.recipe import Recipe
from featurestore.remote.catalogue import RemoteSet, list_sets
from featurestore.remote.computing import Embedded, Predictions, embed_batch, predict_batch
from featurestore.remote.connection import Connection, TooLarge, quoted
from featurestore.remote.images import Image, Source, cut, sources
from featurestore.remote.paging import list_all
from featurestore.remote.pull import PullResult, PullSettings, pull_set
from featurestore.remote.remote_features import Reading, RemoteFeatureSet, open_remote
from featurestore.remote.remote_store import KEPT_BYTES

# One is on its way while another is computed; more would wait in the service's queue.
_REQUESTS_AT_ONCE = 4

_Answer = TypeVar("_Answer")


class RemoteCache:
    """A cache that a service shares: its feature sets, its runs, and its network.

    Nothing is asked before a method is called. Requests that can be answered later are made again;
    see `featurestore.remote.connection.Connection`, also for the errors that every method raises.
    Any thread may call any method; a child process that was forked makes its own.

    Parameters
    ----------
    url
        What `fs serve` printed: ``http://host:port``.
    token
        The service's token, if it asks for one.
    kept_bytes
        Of every set that `open` opens, what is read first stays in memory up to so many bytes, as
        downloaded, and is not downloaded again; 0 keeps nothing.

    Raises
    ------
    InvalidInput
        The URL or the token cannot be one.
    """

    def __init__(self, url: str, *, token: str | None = None, kept_bytes: int = KEPT_BYTES) -> None:
        self._connection = Connection(url, token=token)
        self._reading = Reading(
            connection=self._connection,
            within=Connection(url, token=token),
            kept_bytes=kept_bytes,
        )

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._connection.url

    def __repr__(self) -> str:
        return f"<RemoteCache {self.url}>"

    def __enter__(self) -> RemoteCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections. Sets that are open make new ones when they are read."""
        self._connection.close()
        self._reading.within.close()

    def feature_sets(self) -> list[RemoteSet]:
        """Return the newest version of each feature set, once per store format, by name."""
        return list_sets(self._connection)

    def open(self, name: str) -> RemoteFeatureSet:
        """Open a feature set by its name, or the start of one or of a fingerprint.

        The same as what `featurestore.open` gives, and good for the same: such as
        `featurestore.training.train.train`.

        Raises
        ------
        NotFound
            The service has no such set.
        InvalidInput
            Several are meant.
        IntegrityError
            It is damaged.
        """
        return open_remote(name, self._reading)

    def pull(
        self,
        name: str,
        *,
        cache: Path | str = "cache",
        settings: PullSettings | None = None,
    ) -> PullResult:
        """Copy a feature set into a cache of this machine; see `featurestore.remote.pull.pull_set`.

        Then `featurestore.open` opens it without the service.
        """
        return pull_set(self._connection, name, settings, cache=cache)

    def runs(self) -> list[dict[str, Any]]:
        """Return what the service tells of each run, newest first."""
        return list_all(self._connection, quoted("v1", "runs"), of="runs")

    def run(self, wanted: str) -> dict[str, Any]:
        """Return the record of one run, by its id or a unique start of it.

        Raises
        ------
        NotFound
            The service has no such run.
        InvalidInput
            Several are meant.
        """
        if not wanted or "/" in wanted:
            raise InvalidInput(f"{wanted!r} is no id of a run", next_step="see RemoteCache.runs")
        return self._connection.get_json(quoted("v1", "runs", wanted))

    def embed(self, images: Iterable[Image], *, recipe: str | Recipe) -> np.ndarray:
        """Return the features of images, as `fs embed` computes them from the same bytes.

        Parameters
        ----------
        images
            Paths, bytes of image files, or binary file objects. They are sent some at a time, by
            several requests at once.
        recipe
            The name of a recipe or of a feature set there, the start of a recipe's fingerprint, or
            a recipe.

        Returns
        -------
        (n, *feature_shape) of the recipe's stored type, in the order of the images.

        Raises
        ------
        InvalidInput
            There are no images; an image cannot be read, which is named; several recipes are meant.
        NotFound
            There is no such file here, or no set of such a recipe there.
        """
        return self._embed(images, recipe, skip=False).features

    def embed_readable(self, images: Iterable[Image], *, recipe: str | Recipe) -> Embedded:
        """Return the features of those images that can be read, and why others cannot.

        As `embed`, which raises an error where an image cannot be read. Without any that can,
        `Embedded.features` is of shape (0,).
        """
        return self._embed(images, recipe, skip=True)

    def predict(self, images: Iterable[Image], *, run: str) -> Predictions:
        """Return what the head of a run says of images, as `fs predict` says it there.

        Parameters
        ----------
        images
            As `embed` takes them. One that cannot be read has a reason instead of a class.
        run
            Id of a run at the service, or the unique start of one.

        Raises
        ------
        InvalidInput
            There are no images, or several runs are meant.
        NotFound
            There is no such file here, or no such run there.
        """
        answers = self._in_batches(
            images, lambda batch: predict_batch(batch, self._connection, run=run)
        )
        if len({(answer.run, answer.class_names) for answer in answers}) > 1:
            raise Conflict(
                f"{self.url}: {run!r} meant several runs in turn", next_step="type a whole id"
            )
        return dataclasses.replace(
            answers[0], images=tuple(image for answer in answers for image in answer.images)
        )

    def _embed(self, images: Iterable[Image], recipe: str | Recipe, *, skip: bool) -> Embedded:
        wanted = recipe.clean.fingerprint if isinstance(recipe, Recipe) else recipe
        answers = self._in_batches(
            images, lambda batch: embed_batch(batch, self._connection, recipe=wanted, skip=skip)
        )
        parts = [answer.features for answer in answers if len(answer.features)]
        if len({(part.shape[1:], part.dtype) for part in parts}) > 1:
            raise Conflict(
                f"{self.url}: {wanted!r} meant several recipes in turn",
                next_step="give the fingerprint of a recipe",
            )
        return Embedded(
            np.concatenate(parts) if parts else np.empty(0, np.float32),
            np.concatenate([answer.places for answer in answers]),
            tuple(each for answer in answers for each in answer.unreadable),
        )

    def _in_batches(
        self, images: Iterable[Image], ask: Callable[[Sequence[Source]], _Answer]
    ) -> list[_Answer]:
        if isinstance(images, str | bytes):
            raise InvalidInput(
                "expected images, found one path or the bytes of one",
                next_step="give a list: [image]",
            )
        batches = cut(sources(list(images)))
        if not batches:
            raise InvalidInput("no images were given", next_step="give at least one")

        def halving(batch: Sequence[Source]) -> list[_Answer]:
            try:
                return [ask(batch)]
            except TooLarge:
                if len(batch) == 1:
                    raise
            middle = len(batch) // 2
            return halving(batch[:middle]) + halving(batch[middle:])

        if len(batches) == 1:
            return halving(batches[0])
        with ThreadPoolExecutor(min(_REQUESTS_AT_ONCE, len(batches))) as pool:
            return [answer for part in pool.map(halving, batches) for answer in part]


def connect(url: str, *, token: str | None = None, kept_bytes: int = KEPT_BYTES) -> RemoteCache:
    """Return the cache that a service shares, to list, open, embed and predict; see `RemoteCache`.

    >>> with connect("http://127.0.0.1:8000") as there:  # doctest: +SKIP
    ...     X, y = there.open("flowers/vgg16")["train"].load()
    ...     features = there.embed(["new.jpg"], recipe="flowers/vgg16")
    """
    return RemoteCache(url, token=token, kept_bytes=kept_bytes)
