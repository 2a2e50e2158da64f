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


@dataclasses.dataclass(frozen=True)
class Unit:
    """The images of one staged shard: each is computed once, whoever else shows the same bytes.

    `digests` is (n, 32) uint8; `paths` and `sample_ids` are of the first sample with those bytes.
    """

    digests: np.ndarray
    paths: tuple[Path, ...]
    sample_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)


@dataclasses.dataclass(frozen=True)
class UnitOutcome:
    """What became of a unit, told once its shard is durable.

    `quarantined` maps SHA-256 to reason; `changed` maps sample id to what was found instead of the
    bytes that the manifest names.
    """

    computed: int
    quarantined: Mapping[str, str]
    changed: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """How image bytes become the network's input."""

    size: tuple[int, int]
    interpolation: str


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
