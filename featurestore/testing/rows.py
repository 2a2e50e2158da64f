"""Rows and feature sets in memory, for tests of what trains on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from featurestore.recipe import Recipe

RECIPE = Recipe(
    backbone="vgg16",
    weights_sha256="0" * 64,
    layer="block5_pool",
    size=(150, 150),
    decoder="none",
    preprocessing="caffe",
    precision="float32",
)


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryRows:
    """Rows of a split, held as arrays: (N, *feature_shape) features and (N,) int64 labels.

    `versions` are their views: (K, N, *feature_shape).
    """

    features: np.ndarray
    labels: np.ndarray
    prefix: str = "row"
    versions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.features.shape[1:]

    @property
    def sample_ids(self) -> np.ndarray:
        """(N,) strings."""
        return np.array([f"{self.prefix}/{i:05}.jpg" for i in range(len(self))], dtype=object)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop; they cannot be written to."""
        return self.load()[0][start:stop]

    @property
    def views(self) -> int:
        """How many views each row has."""
        return 0 if self.versions is None else len(self.versions)

    def read_view(self, view: int, start: int, stop: int) -> np.ndarray:
        """Return one view of rows start to stop; they cannot be written to."""
        if self.versions is None:
            raise ValueError(f"these rows have no view {view}")
        rows = self.versions[view, start:stop].view()
        rows.flags.writeable = False
        return rows

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features and labels; neither can be written to."""
        features, labels = self.features.view(), self.labels.view()
        features.flags.writeable = labels.flags.writeable = False
        return features, labels


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryFeatures:
    """A feature set held as arrays."""

    rows: Mapping[str, MemoryRows]
    class_names: tuple[str, ...]
    name: str = "blobs/vgg16-150-block5_pool-fp32-w000000"
    fingerprint: str = "f" * 64
    manifest_fingerprint: str = "e" * 64
    recipe: Recipe = RECIPE

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.rows)

    def __getitem__(self, split: str, /) -> MemoryRows:
        return self.rows[split]


def blobs(
    rows: int,
    *,
    n_classes: int,
    feature_shape: tuple[int, ...] = (2, 2, 8),
    seed: int = 0,
    dtype: str = "float16",
    distance: float = 2.0,
) -> MemoryRows:
    """Return rows like features after a ReLU: none negative, about half zero, up to about 200.

    Classes take turns, so each has rows. They lie around centres that depend on `n_classes` and
    `feature_shape` alone; at `distance` 2 a linear head tells almost all rows apart.
    """
    centres = np.random.default_rng(1).normal(size=(n_classes, *feature_shape)) * distance
    labels = np.arange(rows) % n_classes
    noise = np.random.default_rng(seed).normal(size=(rows, *feature_shape))
    features = np.maximum(centres[labels] + noise, 0) * 30
    return MemoryRows(features.astype(dtype), labels.astype(np.int64), prefix=f"seed{seed}")


def varied(rows: MemoryRows, *, views: int, spread: float = 10.0, seed: int = 0) -> MemoryRows:
    """Return the same rows with views, each the row and noise of that deviation, none negative."""
    noise = np.random.default_rng(seed).normal(size=(views, *rows.features.shape)) * spread
    versions = np.maximum(rows.features + noise, 0).astype(rows.features.dtype)
    return dataclasses.replace(rows, versions=versions)
