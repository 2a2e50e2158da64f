"""What the parts of the service meet in: its settings, and what one part promises another.

Nothing here knows HTTP, and no part imports another part's module but through this one, `app` and
`service`, which put them together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from featurestore.catalogue import Record
from featurestore.embedding.known import Origin
from featurestore.errors import FeatureStoreError, NotFound
from featurestore.executors.contract import EmbedsBatches
from featurestore.online import DEFAULT_ONLINE_BYTES
from featurestore.recipe import Recipe
from featurestore.training.runs import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may ask of the service; beyond it the answer is 413 or 429.

    Parameters
    ----------
    body_bytes
        Of one request, as sent.
    images
        In one request.
    pixels
        Of one image, as its header says, before it is decoded. Fewer than `images.MAX_PIXELS`, to
        which `fs embed` holds: a file of 688 kB with so many takes 2 GiB in each decoder.
    requests
        At work at once, of those that compute or read an upload; others are told to come again.
    queued_images
        That wait for the network, over all requests.
    head_seconds, body_seconds
        Longest that a client may take to send its headers, and each piece of its body.
    """

    body_bytes: int = 64 * 2**20
    images: int = 256
    pixels: int = 50_000_000
    requests: int = 64
    queued_images: int = 1024
    head_seconds: float = 10.0
    body_seconds: float = 20.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """How a service runs.

    Parameters
    ----------
    token
        What a client must send as ``Authorization: Bearer``; None asks for none, which only a
        service on the loopback address may.
    images
        Folder or manifest file where the images of feature sets lie now; None: where each lay when
        it was embedded. Pages show images only where their bytes are those that were embedded.
    latency_s
        Longest that an image waits for others to share its batch.
    online_bytes
        Bound of the online cache; 0 keeps none.
    heads_bytes
        Of model files, unpacked, whose heads stay loaded; those used longest ago go first.
    workers
        Processes that decode images; None is one for each processor.
    network
        Builds the network instead of reading weights from where a feature set's provenance says.
    hosts
        Names, without port, by which requests may call the service; None allows any. A service that
        asks for no token must know its own: else a page from anywhere, whose name is made to point
        here, could read it in a browser on this machine (DNS rebinding).
    """

    cache: Path
    token: str | None = None
    images: Path | None = None
    limits: Limits = Limits()
    latency_s: float = 0.01
    online_bytes: int = DEFAULT_ONLINE_BYTES
    heads_bytes: int = 2**30
    workers: int | None = None
    network: Callable[[Recipe], EmbedsBatches] | None = None
    hosts: tuple[str, ...] | None = None


class Busy(FeatureStoreError):  # noqa: N818 -- named by what the reader does
    """The service has as much to do as it takes on: come again after `retry_after_s`."""

    exit_code = 6

    def __init__(
        self, message: str, *, next_step: str | None = None, retry_after_s: int = 1
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.retry_after_s = retry_after_s


class TooLarge(FeatureStoreError):  # noqa: N818
    """A body, a number of images or an image's pixels beyond the limits."""

    exit_code = 3


class Unavailable(FeatureStoreError):  # noqa: N818
    """The cache is not there now; it may come again, as a disk that is mounted does."""

    exit_code = 4


class Gone(NotFound):
    """A piece of a store that is no longer there, asked for by who has read what the store holds.

    Answered otherwise than `NotFound`: stock readers of Zarr take a chunk that is not found for one
    of zeros.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What became of one image.

    Parameters
    ----------
    sha256
        Hexadecimal, of the bytes as sent.
    features
        One row, (*feature_shape) of the recipe's stored type; None where `reason` says why.
    origin
        ``computed`` is a miss, the others are hits.
    """

    sha256: str
    features: np.ndarray | None
    reason: str | None
    origin: Origin


class Counts(Protocol):
    """Told what becomes of images and heads, for `/metrics`; costs little, from any thread."""

    def answered(self, origin: Origin, images: int) -> None:
        """So many images were answered with features or the reason why there are none."""
        ...

    def batch(self, images: int, seconds: float) -> None:
        """So many images went through the network together."""
        ...

    def queued(self, images: int) -> None:
        """So many images wait for the network now, over all recipes."""
        ...

    def heads_loaded(self, heads: int, model_bytes: int) -> None:
        """So many heads are loaded now, from model files of so many bytes."""
        ...


class NoCounts:
    """Where nobody counts."""

    def answered(self, origin: Origin, images: int) -> None:
        """See `Counts`."""

    def batch(self, images: int, seconds: float) -> None:
        """See `Counts`."""

    def queued(self, images: int) -> None:
        """See `Counts`."""

    def heads_loaded(self, heads: int, model_bytes: int) -> None:
        """See `Counts`."""


class EmbedsImages(Protocol):
    """Features of images' bytes; one for the whole service, for all recipes and clients."""

    async def embed(
        self, recipe: Recipe, images: Sequence[bytes], *, other_weights: Sequence[str] = ()
    ) -> list[Answer]:
        """Return what became of each image, in order.

        Known digests are answered without the network; the rest shares batches with other
        requests. Equal bytes in one request or in several at once are computed once.
        `other_weights` is as in `OnDemandOptions`: of a run whose recipe no set has.

        Raises
        ------
        Busy
            The queue is full; nothing of this request was queued.
        TooLarge
            An image has more pixels than the limits allow.
        NotFound, Conflict, InvalidInput, IntegrityError
            As `OnDemand.embed`: such as weights that are nowhere to be found.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted, then let go of networks, processes and files."""
        ...


class FindsSets(Protocol):
    """The catalogue as it is now; asking often costs little. Any thread may ask.

    All raise `Unavailable` while there is no folder where the cache was.
    """

    def current(self) -> Sequence[Record]:
        """Return the newest version of each name, once per store format, by name."""
        ...

    def records(self) -> Sequence[Record]:
        """Return every committed version."""
        ...

    def problems(self) -> Sequence[FeatureStoreError]:
        """Return why records of feature sets cannot be read; they are in no list."""
        ...

    def find(self, wanted: str) -> Record:
        """Return what `wanted` means; raises as `Catalogue.find`."""
        ...

    def of_recipe(self, wanted: str) -> Record:
        """Return the newest set whose recipe, without views, `wanted` means.

        That is the name of a recipe or of a feature set, or the start of a recipe's fingerprint.

        Raises
        ------
        NotFound
            No committed set has such a recipe.
        InvalidInput
            Several recipes are meant.
        """
        ...

    def runs(self) -> Sequence[Run]:
        """Return the runs that can be read, newest first."""
        ...

    def run_problems(self) -> Sequence[FeatureStoreError]:
        """Return why runs cannot be read; they are in no list."""
        ...

    def run(self, wanted: str) -> Run:
        """Return the run that an id, or the unique start of one, means.

        Raises
        ------
        NotFound
            There is none.
        InvalidInput
            Several are meant.
        Conflict, IntegrityError
            It cannot be read.
        """
        ...
