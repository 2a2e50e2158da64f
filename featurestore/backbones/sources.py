"""Reads the weights of a network from whichever source was asked for, one adapter for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featurestore.backbones.random_weights import random_values
from featurestore.backbones.read_apart import read_apart
from featurestore.backbones.table import BackboneSpec
from featurestore.backbones.weights import ExpectedLayer, LayerValues, WeightsSource


@dataclass(frozen=True)
class LoadedWeights:
    """The arrays of each expected layer, in order, and the file they came from (None: random)."""

    layers: list[LayerValues]
    path: Path | None


def read_weights(
    source: WeightsSource, expected: Sequence[ExpectedLayer], *, spec: BackboneSpec, top: bool
) -> LoadedWeights:
    """Return values for every layer of `expected`.

    Raises
    ------
    InvalidInput
        The file is corrupt, hostile or does not fit; every layer without weights is named.
    NotFound
        The file is gone, or ImageNet weights are neither cached nor can be downloaded.
    """
    if source.kind == "random":
        seed = source.seed or 0
        return LoadedWeights([random_values(layer, seed=seed) for layer in expected], None)
    if source.path is None:
        from featurestore.backbones.imagenet import imagenet_weights

        values, path = imagenet_weights(spec, expected, top=top)
        return LoadedWeights(values, path)
    return LoadedWeights(read_apart(source.path, expected), source.path)
