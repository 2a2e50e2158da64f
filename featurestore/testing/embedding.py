"""Embedding without TensorFlow: `TinyNetwork` behind the choice that settings name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from featurestore.catalogue import Record
from featurestore.digests import sha256_hex
from featurestore.embedding.settings import EmbedSettings
from featurestore.images import DECODER
from featurestore.recipe import Recipe
from featurestore.state import StateFile
from featurestore.testing.backbones import TinyNetwork


@dataclasses.dataclass
class TinyChoice:
    """A `ChoosesBackbone` whose network is `TinyNetwork`; see there for the fields.

    `built` is the network once one was asked for.
    """

    settings: EmbedSettings
    weights: str = "one"
    pause_s: float = 0.0
    before: Callable[[int], None] | None = None
    built: TinyNetwork | None = None
    weights_label: str = "tiny"

    @property
    def device(self) -> str | None:
        """See `ChoosesBackbone`."""
        return None if self.built is None else self.built.device

    def recipe(self, state: StateFile | None, *, dataset: str, records: Sequence[Record]) -> Recipe:
        """See `ChoosesBackbone`."""
        del state, dataset, records
        return Recipe(
            backbone="tiny",
            weights_sha256=sha256_hex(self.weights.encode()),
            layer=TinyNetwork.layer,
            size=TinyNetwork.size,
            decoder=DECODER,
            preprocessing="none",
            precision="float32",
        )

    def network(self, recipe: Recipe) -> TinyNetwork:
        """See `ChoosesBackbone`."""
        self.built = TinyNetwork(
            weights=self.weights,
            dtype=recipe.dtype,
            batch_size=self.settings.batch_size or 8,
            pause_s=self.pause_s,
            before=self.before,
        )
        return self.built
