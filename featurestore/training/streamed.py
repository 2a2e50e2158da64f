"""Rows that no store holds: images run through the frozen network in every epoch.

The network only runs forward, in the recipe's precision, and its output is rounded to the recipe's
stored type. So a streamed row is the row that `fs embed` would store, and what trains on it is the
same code with the same numbers.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from featurestore.augmentation import Augmentation
from featurestore.embedding.backbone import network_of
from featurestore.embedding.command import embed_command
from featurestore.errors import Conflict, InvalidInput, NotFound, UnstorableFeatures
from featurestore.executors.contract import EmbedsBatches
from featurestore.executors.watched import WatchedNetwork
from featurestore.features import FeatureSet, Split
from featurestore.images import DECODER
from featurestore.pixels import PixelStream
from featurestore.recipe import Recipe
from featurestore.source_images import SourceImageMissing, SourceImages
from featurestore.training.checkpoints import Resumption
from featurestore.training.contract import Features, SampleRows
from featurestore.training.pools import Pool
from featurestore.training.rows import stored_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How images are streamed through a network.

    Parameters
    ----------
    augmentation
        Ranges that the training images are varied by; None: they are not.
    weights
        As on the command line; None: those that the feature set was embedded with.
    images
        Folder or manifest file where the images lie now; None: where they lay when embedded.
    workers
        Threads that read, decode and augment; None is one for each processor.
    batch_size
        Images in one pass of the frozen network; None is what suits the device.
    network
        Builds the network instead of `network_of`.
    watch
        Told after each batch how many images of a pass over them have gone through the network.
    resumption
        What becomes of the checkpoints of an earlier process that was killed.
    """

    augmentation: Augmentation | None = None
    weights: str | None = None
    images: Path | None = None
    workers: int | None = None
    batch_size: int | None = None
    network: Callable[[Recipe], EmbedsBatches] | None = None
    watch: Callable[[int], None] | None = None
    resumption: Resumption = dataclasses.field(default_factory=Resumption)


class HashedRows(SampleRows, Protocol):
    """Rows that say of which bytes they are: `featurestore.features.Split` has it."""

    @property
    def sha256(self) -> np.ndarray:
        """(N, 32) uint8: digests of the images' bytes."""


def stream_network(source: FeatureSet, recipe: Recipe, options: StreamOptions) -> EmbedsBatches:
    """Build the network of a recipe for the images of a feature set.

    Raises
    ------
    Conflict
        This version decodes images by another rule, or the weights are not those of the recipe.
    NotFound
        The weights are gone, or the feature set does not say where they were.
    """
    if recipe.decoder != DECODER:
        raise Conflict(
            f"recipe {recipe.name} decodes images by the rule {recipe.decoder}, "
            f"this version by {DECODER}",
            next_step="use the version of featurestore that embedded it, or embed again",
        )
    if options.network is not None:
        network = options.network(recipe)
    else:
        weights = backbone_weights(source, options)
        network = network_of(recipe, weights=weights, batch_size=options.batch_size)
    watch = options.watch
    return network if watch is None else WatchedNetwork(network, lambda _, done: watch(done))


def backbone_weights(source: FeatureSet, options: StreamOptions) -> str:
    """Return the weights to use, as on the command line.

    Raises
    ------
    NotFound
        None are named, and the feature set does not say where its own were.
    """
    weights = options.weights or str(source.record.provenance.get("weights") or "")
    if not weights:
        raise NotFound(
            f"feature set {source.name} does not say where its weights were",
            next_step="name them with --weights",
        )
    return weights


def bytes_for_images(features: Features, memory_bytes: int) -> int:
    """Return what decoded images may take of a memory that holds the validation rows too."""
    if "validation" not in features.splits:
        return memory_bytes
    return max(0, memory_bytes - stored_bytes(features["validation"]))


def open_pixels(
    source: FeatureSet, split: str, recipe: Recipe, *, options: StreamOptions, memory_bytes: int
) -> PixelStream:
    """Return the images of one split as a recipe's network takes them.

    Every file is looked for now; its bytes are held to their digest when they are read.

    Parameters
    ----------
    memory_bytes
        What decoded images may take that are kept from one pass to the next.

    Raises
    ------
    InvalidInput
        An image is not where it was.
    """
    rows = source[split]
    images = _Images(source, rows, options)
    images.check()
    return PixelStream(
        images.read,
        rows.sha256,
        size=recipe.size,
        interpolation=recipe.interpolation,
        workers=options.workers or os.cpu_count() or 1,
        memory_bytes=memory_bytes,
        name=images.name,
    )


class AugmentedRows:
    """Training rows of which each epoch sees another version of every image: `EpochRows`.

    Epoch e shows version e - 1 of each image. Without augmentation it shows the image itself, and
    the features of `clean` to the bit.

    Parameters
    ----------
    clean
        The rows without augmentation: what `read` and `load` give.
    pixels
        Of the same images in the same order.
    seed
        Of the versions, not of the order.
    """

    def __init__(
        self,
        clean: HashedRows,
        pixels: PixelStream,
        network: EmbedsBatches,
        *,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        self._clean = clean
        self._pixels = pixels
        self._network = network
        self._augmentation = augmentation
        self._seed = seed

    def __len__(self) -> int:
        return len(self._clean)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._clean.feature_shape

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return self._clean.labels

    @property
    def sample_ids(self) -> np.ndarray:
        """(N,) strings."""
        return self._clean.sample_ids

    @property
    def sha256(self) -> np.ndarray:
        """(N, 32) uint8: digests of the images' bytes."""
        return self._clean.sha256

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop without augmentation."""
        return self._clean.read(start, stop)

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every row without augmentation, and the labels."""
        return self._clean.load()

    def pieces(
        self, pools: Iterator[Pool], *, epoch: int, piece_rows: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `EpochRows`. Threads decode and augment what comes next while a piece is used."""
        orders = [pool.rows for pool in pools]
        if not orders:
            return
        rows = np.concatenate(orders)
        batches = self._pixels.batches(
            rows,
            batch_size=self._network.batch_size,
            augmentation=self._augmentation,
            seed=self._seed,
            view=epoch - 1,
        )
        features = _Regrouped(
            naming_images(self._network.embed_stream(batches), self.sample_ids, rows)
        )
        labels = self.labels
        for order in orders:
            for start in range(0, len(order), piece_rows):
                wanted = order[start : start + piece_rows]
                yield features.take(len(wanted)), labels[wanted]


def naming_images(
    features: Iterator[np.ndarray], sample_ids: np.ndarray, rows: np.ndarray
) -> Iterator[np.ndarray]:
    """Pass features on; say which image it was where the network only knows a row of a batch."""
    done = 0
    try:
        for each in features:
            yield each
            done += len(each)
    except UnstorableFeatures as error:
        sample_id = sample_ids[rows[done + error.rows[0]]]
        raise error.of(f"image {sample_id}") from error


class _Images:
    """The bytes of a split's images by row, held to their digests."""

    def __init__(self, source: FeatureSet, rows: Split, options: StreamOptions) -> None:
        self._source = SourceImages(source.record, options.images)
        # Of a folder that is not there, or was named wrongly, nothing is to be embedded.
        original = Path(str(source.record.provenance.get("source", "")))
        self._again = embed_command(source.record) if original.exists() else None
        self._sample_ids = rows.sample_ids
        self._sha256 = rows.sha256

    def read(self, row: int) -> bytes:
        sha256 = self._sha256[row].tobytes().hex()
        try:
            return self._source.read(str(self._sample_ids[row]), sha256=sha256)
        except SourceImageMissing as error:
            again = f", or embed again: {self._again}" if self._again else ""
            raise InvalidInput(
                error.message,
                next_step="name the folder that holds the images as they were embedded with "
                f"--images DIR{again}",
            ) from error

    def name(self, row: int) -> str:
        return f"image {self._sample_ids[row]}"

    def check(self) -> None:
        """Look for every file by its name; only one that is not there is searched for."""
        dataset = self._source.dataset
        root = dataset if dataset.is_dir() else dataset.parent
        for row, sample_id in enumerate(self._sample_ids):
            if not os.path.isfile(root / str(sample_id)):
                self.read(row)


class _Regrouped:
    """Rows of arrays that come one after the other, in pieces of other sizes."""

    def __init__(self, arrays: Iterator[np.ndarray]) -> None:
        self._arrays = arrays
        self._rest: np.ndarray | None = None

    def take(self, count: int) -> np.ndarray:
        """Return the next `count` rows; there are as many."""
        parts, missing = [], count
        while missing:
            array = next(self._arrays) if self._rest is None else self._rest
            parts.append(array[:missing])
            self._rest = array[missing:] if len(array) > missing else None
            missing -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
