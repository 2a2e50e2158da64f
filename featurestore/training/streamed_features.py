"""Features of a recipe that no store holds: rows are computed when they are read."""

from __future__ import annotations

import math

import numpy as np

from featurestore.catalogue import set_fingerprint
from featurestore.errors import NotFound
from featurestore.executors.contract import EmbedsBatches
from featurestore.features import FeatureSet, Split
from featurestore.manifest import SPLITS
from featurestore.pixels import PixelStream
from featurestore.recipe import Recipe
from featurestore.training.streamed import StreamOptions, naming_images, open_pixels


class StreamedRows:
    """One split under a recipe whose features are not stored; a row is computed when it is read.

    Parameters
    ----------
    stored
        The same samples under another recipe: labels, ids and digests are taken from there.
    kept_rows
        So many of the first rows are kept once they were computed.
    """

    def __init__(
        self,
        stored: Split,
        pixels: PixelStream,
        network: EmbedsBatches,
        *,
        dtype: str,
        kept_rows: int,
    ) -> None:
        self.labels = stored.labels
        self.sample_ids = stored.sample_ids
        self.sha256 = stored.sha256
        self.feature_shape = tuple(network.feature_shape)
        self._pixels = pixels
        self._network = network
        # Pages of an array that nothing was written to take no memory.
        self._kept = np.empty((min(kept_rows, len(stored)), *self.feature_shape), dtype)
        self._known = np.zeros(len(self._kept), bool)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop, (n, *feature_shape) of the recipe's stored type.

        Where all of them are kept, they are no copy, and cannot be written to.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        stop = max(start, stop)
        known = self._known[start:stop].copy()
        missing = np.arange(start, stop)
        missing = np.concatenate([missing[: len(known)][~known], missing[len(known) :]])
        if stop <= len(self._kept):
            self._compute(missing)
            features = self._kept[start:stop]
            features.flags.writeable = False
            return features
        features = np.empty((stop - start, *self.feature_shape), self._kept.dtype)
        kept = known.reshape(-1, *[1] * len(self.feature_shape))
        np.copyto(features[: len(known)], self._kept[start:stop], where=kept)
        self._compute(missing, target=features, start=start)
        return features

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every row, and the labels; as `read`."""
        return self.read(0, len(self)), self.labels

    def _compute(
        self, rows: np.ndarray, *, target: np.ndarray | None = None, start: int = 0
    ) -> None:
        """Compute rows; keep those that are kept, and write all to a target that begins there.

        Each piece is put in its place as it comes: together they may be all that memory holds.
        """
        if not len(rows):
            return
        batches = self._pixels.batches(rows, batch_size=self._network.batch_size)
        features = self._network.embed_stream(batches)
        done = 0
        for piece in naming_images(features, self.sample_ids, rows):
            at = rows[done : done + len(piece)]
            done += len(piece)
            keep = at < len(self._kept)
            self._kept[at[keep]] = piece[keep]
            self._known[at[keep]] = True
            if target is not None:
                target[at - start] = piece


class StreamedFeatures:
    """A feature set under a recipe whose features are not stored: what training needs of one.

    Parameters
    ----------
    source
        A committed set of the same images.
    recipe
        What the features are computed under; its network is `network`.
    memory_bytes
        What computed rows may take that are kept: those of the validation split, which is read in
        every epoch, before the training split's. Decoded images are not kept here.
    """

    def __init__(
        self,
        source: FeatureSet,
        recipe: Recipe,
        network: EmbedsBatches,
        *,
        options: StreamOptions,
        memory_bytes: int,
    ) -> None:
        self.recipe = recipe
        self.name = f"{source.record.dataset}/{recipe.name}"
        self.manifest_fingerprint = source.manifest_fingerprint
        self.fingerprint = set_fingerprint(source.manifest_fingerprint, recipe)
        self.class_names = source.class_names
        self.splits = source.splits
        row_bytes = math.prod(network.feature_shape) * np.dtype(recipe.dtype).itemsize
        self._rows: dict[str, StreamedRows] = {}
        for split in ("validation", *(each for each in SPLITS if each != "validation")):
            if split not in source:
                continue
            stored = source[split]
            rows = StreamedRows(
                stored,
                open_pixels(source, split, recipe, options=options, memory_bytes=0),
                network,
                dtype=recipe.dtype,
                kept_rows=memory_bytes // row_bytes,
            )
            memory_bytes -= row_bytes * min(len(stored), memory_bytes // row_bytes)
            self._rows[split] = rows

    def __getitem__(self, split: str, /) -> StreamedRows:
        try:
            return self._rows[split]
        except KeyError:
            raise NotFound(
                f"feature set {self.name} has no split {split!r}: it has {', '.join(self.splits)}"
            ) from None
