"""Embedding without TensorFlow: `TinyNetwork` behind the choice that settings name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from featurestore.catalogue import Record
from featurestore.digests import sha256_hex
from featurestore.embedding.embed import embed
from featurestore.embedding.settings import EmbedResult, EmbedSettings
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


class TinyEmbedder:
    """Embeds one folder into one cache and keeps the last choice, to see what was computed."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.choice: TinyChoice | None = None

    def __call__(
        self,
        *,
        weights: str = "one",
        before: Callable[[int], None] | None = None,
        folder: Path | None = None,
        **settings: Any,
    ) -> EmbedResult:
        """Embed with fields of `EmbedSettings`; `weights` and `before` are `TinyChoice`'s."""

        def choose(given: EmbedSettings) -> TinyChoice:
            self.choice = TinyChoice(given, weights=weights, before=before)
            return self.choice

        return embed(
            folder or self.folder, EmbedSettings(**settings), cache=self.cache, choose=choose
        )

    @property
    def forward_passes(self) -> int:
        """Images and views that went through the network in the last call."""
        assert self.choice is not None, "nothing was embedded yet"
        return 0 if self.choice.built is None else self.choice.built.images
