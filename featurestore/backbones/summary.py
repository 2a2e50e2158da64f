"""The layer table of a backbone and its parameter counts. Imports Keras: import it lazily."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from featurestore.backbones.architecture import build_model, in_fresh_session
from featurestore.backbones.cuts import train_only
from featurestore.backbones.table import get_spec
from featurestore.errors import InvalidInput

Shape = tuple[int | None, ...]
HEAD_UNITS = 256


@dataclass(frozen=True)
class LayerRow:
    """One layer. Shapes are of its first input and output, with None for the batch axis."""

    index: int
    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    parameters: int
    trainable: bool


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of parameters, and of the arrays that hold them."""

    total: int
    trainable: int
    weight_arrays: int
    trainable_arrays: int

    @property
    def non_trainable(self) -> int:
        """Parameters that training leaves as they are."""
        return self.total - self.trainable


@dataclass(frozen=True, kw_only=True)
class BackboneSummary:
    """The layers of a backbone, its counts, and those with the reference head on it.

    Parameters
    ----------
    counts
        Of the backbone as it would be trained: all of it, or only what is unfrozen.
    unfrozen_counts
        Of the backbone with nothing frozen.
    head, head_counts, head_unfrozen_counts
        The layers of the head and the counts of backbone and head together, with the backbone's
        layers frozen as asked and with nothing frozen; None without a head.
    """

    backbone: str
    size: tuple[int, int]
    top: bool
    default_layer: str
    layers: tuple[LayerRow, ...]
    counts: Counts
    head: tuple[LayerRow, ...] | None = None
    head_counts: Counts | None = None
    head_unfrozen_counts: Counts | None = None


@dataclass(frozen=True, kw_only=True)
class SummaryOptions:
    """What to show.

    Parameters
    ----------
    size
        (height, width) in pixels; None is the backbone's default.
    unfreeze
        Layers that stay trainable while the rest is frozen, named as for `unfrozen_layers`; None
        freezes nothing, or the whole backbone under a head.
    head
        Put the reference head on it: Flatten, Dense(256, relu), Dense(1, sigmoid).
    """

    top: bool = False
    size: tuple[int, int] | None = None
    unfreeze: Sequence[str] | None = None
    head: bool = False


def summarize(backbone: str, options: SummaryOptions | None = None) -> BackboneSummary:
    """Describe a backbone's layers in order, with untrained weights.

    Raises
    ------
    InvalidInput
        Unknown backbone, a size it cannot have, a name to unfreeze that means no layer, or a head
        on top of a top.
    """
    options = options or SummaryOptions()
    spec = get_spec(backbone)
    if options.head and options.top:
        raise InvalidInput(
            f"summary of {backbone}: a head takes the place of the top; both were asked for",
            next_step="leave out --top or --head",
        )
    size = options.size or (spec.default_size, spec.default_size)
    model = build_model(spec, size=size, top=options.top)
    whole = in_fresh_session(lambda: _with_head(model)) if options.head else None
    unfrozen = None if whole is None else _counts(whole)
    if options.unfreeze is not None or whole is not None:
        train_only(model, options.unfreeze or ())
    base = _rows(model.layers, first=0)
    return BackboneSummary(
        backbone=spec.name,
        size=size,
        top=options.top,
        default_layer=spec.default_layer,
        layers=base,
        counts=_counts(model),
        head=None if whole is None else _rows(whole.layers[1:], first=len(base)),
        head_counts=None if whole is None else _counts(whole),
        head_unfrozen_counts=unfrozen,
    )


def _with_head(base: Any) -> Any:
    return keras.Sequential(
        [
            base,
            keras.layers.Flatten(),
            keras.layers.Dense(HEAD_UNITS, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def _rows(layers: Sequence[Any], *, first: int) -> tuple[LayerRow, ...]:
    return tuple(
        LayerRow(
            index=index,
            name=layer.name,
            kind=type(layer).__name__,
            input_shape=_shape(layer.input, layer.output),
            output_shape=_shape(layer.output, ()),
            parameters=_size(layer.weights),
            trainable=bool(layer.trainable_weights),
        )
        for index, layer in enumerate(layers, first)
    )


def _shape(tensors: Any, otherwise: Any) -> Shape:
    """Return the shape of the first tensor; an input layer has no input, `otherwise` stands in."""
    if isinstance(tensors, list | tuple):
        tensors = tensors[0] if tensors else otherwise
    return tuple(None if side is None else int(side) for side in tensors.shape)


def _counts(model: Any) -> Counts:
    return Counts(
        total=_size(model.weights),
        trainable=_size(model.trainable_weights),
        weight_arrays=len(model.weights),
        trainable_arrays=len(model.trainable_weights),
    )


def _size(weights: Sequence[Any]) -> int:
    return sum(math.prod(int(side) for side in weight.shape) for weight in weights)
