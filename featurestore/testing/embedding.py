"""Embedding without TensorFlow: a tiny network behind the same choice that settings name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from featurestore.catalogue import Record
from featurestore.digests import sha256_hex
from featurestore.embedding.settings import EmbedSettings
from featurestore.images import DECODER
from featurestore.recipe import Recipe
from featurestore.state import StateFile

SIZE = (16, 16)
FEATURE_SHAPE = (4, 4, 6)


class BlockMeans:
    """Means and deviations of 4 x 4 blocks: (n, 16, 16, 3) uint8 to (n, 4, 4, 6) float16.

    A row depends on its image alone, like a real network's; `images` counts the rows computed.
    """

    def __init__(self, *, batch_size: int = 8, before: Callable[[int], None] | None = None) -> None:
        self.batch_size = batch_size
        self.images = 0
        self._before = before

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Return (n, 4, 4, 6) float16; `before` is told how many images came earlier."""
        if self._before is not None:
            self._before(self.images)
        self.images += len(batch)
        blocks = batch.reshape(len(batch), 4, 4, 4, 4, 3).astype(np.float32)
        features = np.concatenate([blocks.mean((2, 4)), blocks.std((2, 4))], axis=-1)
        return np.maximum(features - 100, 0).astype(np.float16)


@dataclasses.dataclass
class TinyChoice:
    """A `ChoosesBackbone` whose network is `BlockMeans`; `weights` stands for their values."""

    settings: EmbedSettings
    weights: str = "one"
    before: Callable[[int], None] | None = None
    network_built: BlockMeans | None = None

    weights_label: str = "tiny"

    @property
    def device(self) -> str | None:
        """See `ChoosesBackbone`."""
        return None if self.network_built is None else "numpy"

    def recipe(self, state: StateFile | None, *, dataset: str, records: Sequence[Record]) -> Recipe:
        """See `ChoosesBackbone`."""
        del state, dataset, records
        return Recipe(
            backbone="tiny",
            weights_sha256=sha256_hex(self.weights.encode()),
            layer="blocks",
            size=SIZE,
            decoder=DECODER,
            preprocessing="none",
            precision="float32",
        )

    def network(self, recipe: Recipe) -> BlockMeans:
        """See `ChoosesBackbone`."""
        del recipe
        self.network_built = BlockMeans(
            batch_size=self.settings.batch_size or 8, before=self.before
        )
        return self.network_built


def slow_choice(settings: EmbedSettings, *, pause_s: float = 0.02) -> TinyChoice:
    """Return a choice whose network takes `pause_s` a batch, so that a test can kill it midway."""
    return TinyChoice(settings, before=lambda _: time.sleep(pause_s))
