"""What an executor promises, whatever machines it uses.

A unit is idempotent: an executor may run it twice and may finish units in any order. What it may
not do is report a unit whose shard is not durable in staging.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from featurestore.recipe import Views

Version = int | None
"""A version of an image: None is the image itself, k its view k."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """The rows of one staged shard: each is computed once, whoever else shows the same bytes.

    Rows are ordered by image, then as the image's versions are listed: an image is read and decoded
    once for all of them.

    Parameters
    ----------
    digests
        (n, 32) uint8, of the images' bytes.
    paths, sample_ids
        Of the first sample with those bytes.
    versions
        What is to be computed of each image; None is each image itself and no view.
    """

    digests: np.ndarray
    paths: tuple[Path, ...]
    sample_ids: tuple[str, ...]
    versions: tuple[tuple[Version, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def versions_of(self, image: int) -> tuple[Version, ...]:
        """Return what is to be computed of one image."""
        return (None,) if self.versions is None else self.versions[image]

    def rows(self) -> list[tuple[int, Version]]:
        """Return image and version of each row, in the order of the shard."""
        return [(image, each) for image in range(len(self)) for each in self.versions_of(image)]

    def keys(self, rows: Sequence[tuple[int, Version]], views: Views | None) -> np.ndarray:
        """Return the digests that rows are staged under: (n, 32) uint8.

        An image's is its own, a view's that of `Views.digests`.
        """
        keys = self.digests[np.array([image for image, _ in rows], np.int64)]
        if views is not None:
            for view in {version for _, version in rows if version is not None}:
                mine = [at for at, (_, version) in enumerate(rows) if version == view]
                keys[mine] = views.digests(keys[mine], view)
        return keys


@dataclasses.dataclass(frozen=True)
class UnitOutcome:
    """What became of a unit, told once its shard is durable.

    Parameters
    ----------
    computed
        Rows of images themselves.
    quarantined
        SHA-256 to reason; such an image has no row of any version.
    changed
        Sample id to what was found instead of the bytes that the manifest names.
    views
        Rows of views.
    """

    computed: int
    quarantined: Mapping[str, str]
    changed: Mapping[str, str]
    views: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """How image bytes become the network's input.

    `views` says what views are drawn from, where units ask for any; its count is not used.
    """

    size: tuple[int, int]
    interpolation: str
    views: Views | None = None


class EmbedsBatches(Protocol):
    """The part of a network that an executor needs."""

    @property
    def batch_size(self) -> int:
        """Most images that one call takes."""

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row of features."""

    def embed_stream(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Turn each (n, H, W, 3) uint8 RGB, n at most `batch_size`, into (n, *feature_shape).

        Features come in the order of the batches; the next batch may be drawn before the features
        of the last are given, so that a device computes while images are read.
        """


class StagesShards(Protocol):
    """Where an executor puts its results."""

    def put(
        self, *, digests: np.ndarray, features: np.ndarray, quarantined: Mapping[str, str]
    ) -> Path:
        """Make one shard durable."""


class Executor(Protocol):
    """Runs units of work."""

    def run(
        self,
        units: Sequence[Unit],
        *,
        network: EmbedsBatches,
        decode: DecodeSettings,
        staging: StagesShards,
    ) -> Iterator[UnitOutcome]:
        """Yield an outcome for each unit, once its shard is durable.

        Raises
        ------
        FeatureStoreError
            A value does not fit the stored type, or the network failed; staged units stay.
        OSError
            Staging cannot be written.
        """
