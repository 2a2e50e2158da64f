"""Choosing a backbone: the recipe it gives, and the network, built only when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from featurestore.backbones.precision import resolve_precision
from featurestore.backbones.quiet import quiet_startup
from featurestore.backbones.table import get_spec
from featurestore.backbones.weights import parse_weights, source_signature
from featurestore.catalogue import Record
from featurestore.embedding.settings import EmbedSettings
from featurestore.errors import Conflict
from featurestore.executors.contract import EmbedsBatches
from featurestore.images import DECODER
from featurestore.recipe import Precision, Recipe
from featurestore.state import StateFile

if TYPE_CHECKING:
    from featurestore.backbones.network import Network


class ChoosesBackbone(Protocol):
    """What an embedding asks about the network."""

    @property
    def weights_label(self) -> str:
        """Where the weights come from, as the user would type it."""

    @property
    def device(self) -> str | None:
        """What the network ran on; None before it was built."""

    def recipe(self, state: StateFile | None, *, dataset: str, records: Sequence[Record]) -> Recipe:
        """Return the clean recipe; the network is built only if its weights' digest is unknown."""

    def network(self, recipe: Recipe) -> EmbedsBatches:
        """Return the network of the recipe that `recipe` gave, with or without views."""


class BackboneChoice:
    """The backbone that settings name. Its weights' digest is remembered in the state file."""

    def __init__(self, settings: EmbedSettings) -> None:
        self.settings = settings
        self.spec = get_spec(settings.backbone)
        self.source = parse_weights(settings.weights)
        self.layer = settings.layer or self.spec.default_layer
        self.size = settings.size or (self.spec.default_size, self.spec.default_size)
        self._loaded: Network | None = None

    @property
    def weights_label(self) -> str:
        """See `ChoosesBackbone`."""
        if self.source.path is not None:
            return str(self.source.path.resolve())
        return self.source.label()

    @property
    def device(self) -> str | None:
        """See `ChoosesBackbone`."""
        return None if self._loaded is None else self._loaded.device

    def recipe(self, state: StateFile | None, *, dataset: str, records: Sequence[Record]) -> Recipe:
        """See `ChoosesBackbone`.

        ``--precision auto`` takes the precision of a committed set of the same dataset that differs
        in nothing else, so that a laptop goes on with what the GPU box began.
        """
        digest = self._weights_digest(state)
        choice = self.settings.precision
        if choice == "auto":
            for record in sorted(records, key=lambda record: -record.sequence):
                same = self._recipe(digest, record.recipe.precision)
                if record.dataset == dataset and record.recipe.clean == same:
                    return same
        return self._recipe(digest, _resolved(choice))

    def network(self, recipe: Recipe) -> EmbedsBatches:
        """See `ChoosesBackbone`.

        Raises
        ------
        Conflict
            The weights are no longer those of the recipe.
        """
        if self._loaded is None or self._loaded.precision != recipe.precision:
            self._loaded = self._load(recipe.precision)
        if self._loaded.weights_sha256 != recipe.weights_sha256:
            raise Conflict(
                f"weights {self.weights_label}: expected digest {recipe.weights_sha256[:12]}, "
                f"found {self._loaded.weights_sha256[:12]}",
                next_step="name the weights that the feature set was embedded with, or embed again",
            )
        return self._loaded

    def _recipe(self, weights_sha256: str, precision: Precision) -> Recipe:
        return Recipe(
            backbone=self.spec.name,
            weights_sha256=weights_sha256,
            layer=self.layer,
            pooling=self.settings.pooling,
            size=self.size,
            decoder=DECODER,
            interpolation=self.settings.interpolation,
            preprocessing=self.spec.preprocessing,
            precision=precision,
            dtype=self.settings.dtype,
        )

    def _weights_digest(self, state: StateFile | None) -> str:
        key = f"weights {self.spec.name} {self.layer} {self.weights_label} {version('keras')}"
        note = state.note(key) if state is not None else None
        if isinstance(note, dict):
            cached = Path(str(note["path"])) if note.get("path") else None
            if note.get("signature") == source_signature(self.source, cached=cached):
                return str(note["sha256"])
        self._loaded = self._load(_resolved(self.settings.precision))
        path = self._loaded.weights_path
        signature = source_signature(self.source, cached=path)
        if state is not None and signature is not None:
            state.set_note(
                key,
                {
                    "signature": signature,
                    "path": None if path is None else str(path),
                    "sha256": self._loaded.weights_sha256,
                },
            )
        return self._loaded.weights_sha256

    def _load(self, precision: Precision) -> Network:
        with quiet_startup():
            from featurestore.backbones.network import NetworkSettings, load_network

        return load_network(
            NetworkSettings(
                spec=self.spec,
                weights=self.source,
                layer=self.layer,
                pooling=self.settings.pooling,
                size=self.size,
                precision=precision,
                dtype=self.settings.dtype,
                batch_size=self.settings.batch_size,
            )
        )


def _resolved(choice: str) -> Precision:
    with quiet_startup():  # asking for GPUs loads TensorFlow
        return resolve_precision(choice)


def network_of(recipe: Recipe, *, weights: str, batch_size: int | None = None) -> EmbedsBatches:
    """Build the network of a committed recipe from weights named as on the command line.

    Raises
    ------
    Conflict
        The weights are not those of the recipe.
    """
    settings = EmbedSettings(
        backbone=recipe.backbone,
        weights=weights,
        layer=recipe.layer,
        pooling=recipe.pooling,
        size=recipe.size,
        interpolation=recipe.interpolation,
        precision=recipe.precision,
        dtype=recipe.dtype,
        batch_size=batch_size,
    )
    return BackboneChoice(settings).network(recipe)
