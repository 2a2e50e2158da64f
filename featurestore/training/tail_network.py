"""The network of a fine-tuned head: the tail of a backbone, its pooling, a dense head. In Keras."""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from featurestore.backbones.architecture import in_fresh_session, tail_from, weighted_layers
from featurestore.backbones.cuts import unfrozen_layers
from featurestore.backbones.network import untrained_network
from featurestore.backbones.table import get_spec
from featurestore.training.dense_network import build_network
from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.settings import DenseSettings

_HEAD, _SCALE = "dense_head", "scale"
_MOST_CONFIG_BYTES = 16 * 2**20  # NASNetLarge's has about 2
_SHOWN = 300  # characters of a message


@dataclasses.dataclass(frozen=True, eq=False)
class TailStart:
    """What a fine-tuning begins with: weights of `build_tail`'s network, and the head's scale."""

    weights: list[np.ndarray]
    scale: float


class _AsPretrained(keras.Layer):  # type: ignore[misc] # Keras is untyped here
    """A part that never is in training mode, whatever the network around it is.

    Keras 3.15 lets ``model(..., training=True)`` override the ``training=False`` that a nested
    model was called with when the network was built.
    """

    def __init__(self, part: Any) -> None:
        super().__init__(name="as_pretrained")
        self.part = part

    def call(self, features: Any) -> Any:
        """Return what the part gives when it predicts."""
        return self.part(features, training=False)

    def get_config(self) -> dict[str, object]:
        """Return what `read_tail` compares; nothing is built from it."""
        return {"name": self.name, "layers": self.part.get_config()["layers"]}


def build_tail(
    settings: FineTuneSettings,
    n_classes: int,
    *,
    scale: float,
    base: Any = None,
    plain: bool = False,
) -> Any:
    """Return the network from features of the cut to probabilities; what is frozen is so.

    The tail computes in the settings' precision, the head in float32; variables are float32, and so
    is the input, whatever features are stored in.

    Parameters
    ----------
    scale
        Of the dense head, unless the settings leave scaling out.
    base
        The backbone up to the settings' layer, whose weights are then shared; None: an untrained
        one.
    plain
        Of Keras's own layers alone, for a network that is not trained any more.

    Raises
    ------
    InvalidInput
        The backbone has no such layers.
    """
    if base is None:
        spec = get_spec(settings.backbone)
        base = untrained_network(
            spec, settings.layer, size=settings.size, precision=settings.precision
        )
    unfrozen = set(unfrozen_layers(base, settings.unfreeze))
    tail = tail_from(base, settings.cut, precision=settings.precision)

    def build() -> Any:
        features = keras.Input(tail.input_shape[1:], name="features", dtype="float32")
        part = tail if plain or settings.statistics else _AsPretrained(tail)
        outputs = part(features)
        outputs = keras.layers.Activation("linear", dtype="float32", name="as_float32")(outputs)
        if settings.pooling == "avg":
            pool = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pooling")
            outputs = pool(outputs)
        elif settings.pooling == "max":
            outputs = keras.layers.GlobalMaxPooling2D(dtype="float32", name="pooling")(outputs)
        head = build_network(
            DenseSettings(units=settings.units, dropout=settings.dropout, scaled=settings.scaled),
            tuple(outputs.shape[1:]),
            n_classes,
            seeds=[0, 0, 0],
            scale=scale,
        )
        return keras.Model(features, head(outputs), name="fine_tuned")

    model = in_fresh_session(build, precision=settings.precision)
    for layer in weighted_layers(tail):
        layer.trainable = layer.name in unfrozen
    return model


def start_from(settings: FineTuneSettings, base: Any, dense: Any) -> TailStart:
    """Return the start of a fine-tuning: a backbone's weights, and those of a dense head's network.

    Parameters
    ----------
    base
        The backbone up to the settings' layer, with its weights.
    dense
        What `build_network` gave, fitted to the features of that layer.
    """
    scale = _scale_of(dense) if settings.scaled else 1.0
    n_classes = max(2, int(dense.output_shape[-1]))
    model = build_tail(settings, n_classes, scale=scale, base=base)
    model.get_layer(_HEAD).set_weights(dense.get_weights())
    return TailStart(model.get_weights(), scale)


def in_float32(settings: FineTuneSettings, model: Any) -> Any:
    """Return a plain copy of `build_tail`'s network that computes in float32 throughout."""
    scale = _scale_of(model.get_layer(_HEAD)) if settings.scaled else 1.0
    n_classes = max(2, int(model.output_shape[-1]))
    whole = dataclasses.replace(settings, precision="float32")
    copy = build_tail(whole, n_classes, scale=scale, plain=True)
    copy.set_weights(model.get_weights())
    return copy


def reseed(model: Any, seed: int) -> None:
    """Let everything that the network draws while training follow from one seed."""
    states = np.random.SeedSequence(seed)
    for layer in _all_layers(model):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            (drawn,) = states.spawn(1)
            generator.state.assign([drawn.generate_state(1)[0], 0])


def count_parameters(base: Any, dense: Any, unfrozen: tuple[str, ...]) -> Mapping[str, int]:
    """Return how many numbers a fine-tuning has, and how many it trains, before and after.

    Before, all of the base is frozen, and the head is trained; after, `unfrozen` layers are too.
    """
    total = base.count_params()
    head = dense.count_params()
    trained = sum(
        math.prod(weight.shape)
        for layer in weighted_layers(base)
        if layer.name in unfrozen
        for weight in layer.trainable_variables
    )
    return {
        "base_total": total,
        "base_trainable_before": 0,
        "base_trainable": trained,
        "total": total + head,
        "trainable_before": head,
        "trainable": trained + head,
        "non_trainable": total - trained,
    }


def read_tail(
    path: Path, settings: FineTuneSettings, feature_shape: tuple[int, ...], n_classes: int
) -> Any:
    """Return the network that a `.keras` file holds: the head's scale and the weights.

    As `dense_network.read_network`: the file makes no layer.

    Raises
    ------
    ValueError
        The configuration is not that of this network, or its numbers are not finite. A file that
        is no such model raises any of `UNREADABLE`.
    InvalidInput
        The settings are of no network.
    """
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"its member {broken} is damaged")
        member = archive.getinfo("config.json")
        if member.file_size > _MOST_CONFIG_BYTES:
            raise ValueError(f"its configuration has {member.file_size} bytes")
        found = json.loads(archive.read(member))
    model = build_tail(settings, n_classes, scale=_scale(found, settings))
    if tuple(model.input_shape[1:]) != feature_shape:
        raise ValueError(f"its settings give a network for features {model.input_shape[1:]}")
    for ours, theirs in zip(_plan(json.loads(model.to_json())), _plan(found), strict=True):
        if ours != theirs:
            raise ValueError(f"it has {str(theirs)[:_SHOWN]} where {ours} belongs")
    model.load_weights(path)
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise ValueError("its weights are not all finite numbers")
    return model


def _scale_of(dense: Any) -> float:
    return float(dense.get_layer(_SCALE).scale)


def _scale(config: Any, settings: FineTuneSettings) -> float:
    if not settings.scaled:
        return 1.0
    (head,) = (each for each in config["config"]["layers"] if each["config"]["name"] == _HEAD)
    layers = head["config"]["layers"]
    (scale,) = (each["config"]["scale"] for each in layers if each["config"]["name"] == _SCALE)
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ValueError(f"its features are multiplied by {scale!r}")
    return float(scale)


def _plan(config: Any) -> Iterator[tuple[str, str]]:
    """Yield class and name of every layer, nested ones in place; shapes are their weights'."""
    for layer in config["config"]["layers"]:
        if layer["class_name"] != "InputLayer":
            yield layer["class_name"], layer["config"]["name"]
        if "layers" in layer["config"]:
            yield from _plan(layer)


def _all_layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if isinstance(layer, _AsPretrained):
            yield from _all_layers(layer.part)
        elif isinstance(layer, keras.Model):
            yield from _all_layers(layer)
        else:
            yield layer
