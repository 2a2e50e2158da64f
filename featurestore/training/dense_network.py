"""The network of the dense head, its loss and its optimizers, in Keras."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.settings import DenseSettings

_OPTIMIZERS = {
    "rmsprop": keras.optimizers.RMSprop,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "nadam": keras.optimizers.Nadam,
    "sgd": keras.optimizers.SGD,
}

# Arrays of the weights' size that each keeps. Source: the `build` of Keras's optimizers, for their
# defaults (no momentum, RMSprop not centred, Adam without amsgrad).
OPTIMIZER_SLOTS = {"rmsprop": 1, "adam": 2, "adamw": 2, "nadam": 2, "sgd": 0}

_MOST_CONFIG_BYTES = 2**20  # those of this head have about 4,000
_SHOWN = 300  # characters of a message


def build_optimizer(settings: DenseSettings | FineTuneSettings) -> Any:
    """Return the optimizer of the settings, otherwise with Keras's defaults."""
    return _OPTIMIZERS[settings.optimizer](settings.learning_rate)


def build_network(
    settings: DenseSettings,
    feature_shape: tuple[int, ...],
    n_classes: int,
    *,
    seeds: list[int],
    scale: float,
) -> Any:
    """Return an untrained network: flatten, scale, hidden layer, dropout where asked for, output.

    Parameters
    ----------
    seeds
        Of the hidden layer's weights, the output's, and dropout.
    scale
        Features are multiplied by it, unless the settings leave scaling out.
    """

    # Layers are named: Keras's automatic names count up in a global of the process. Their type is
    # stated: a mixed precision policy set for a backbone must not reach the head.
    def dense(name: str, units: int, activation: str, seed: int) -> Any:
        start = keras.initializers.GlorotUniform(seed=seed)
        return keras.layers.Dense(
            units, activation, kernel_initializer=start, name=name, dtype="float32"
        )

    layers = [
        keras.layers.Input(feature_shape, name="features", dtype="float32"),
        keras.layers.Flatten(name="flatten", dtype="float32"),
        *(
            [keras.layers.Rescaling(scale, name="scale", dtype="float32")]
            if settings.scaled
            else []
        ),
        dense("hidden", settings.units, "relu", seeds[0]),
    ]
    if settings.dropout:
        layers.append(
            keras.layers.Dropout(settings.dropout, seed=seeds[2], name="dropout", dtype="float32")
        )
    if n_classes == 2:
        layers.append(dense("output", 1, "sigmoid", seeds[1]))
    else:
        layers.append(dense("output", n_classes, "softmax", seeds[1]))
    return keras.Sequential(layers, name="dense_head")


def read_network(
    path: Path, settings: DenseSettings, feature_shape: tuple[int, ...], n_classes: int
) -> Any:
    """Return the network that a `.keras` file holds: its scale and its weights.

    The network is built from the settings, never by the file, which could ask Keras for layers of
    any kind and size. Its configuration is only compared.

    Raises
    ------
    ValueError
        The configuration is not that of this network, or its numbers are not finite. A file that
        is no such model raises any of `UNREADABLE`.
    """
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"its member {broken} is damaged")
        member = archive.getinfo("config.json")
        if member.file_size > _MOST_CONFIG_BYTES:
            raise ValueError(f"its configuration has {member.file_size} bytes")
        layers = json.loads(archive.read(member))["config"]["layers"]
    scales = [layer["config"]["scale"] for layer in layers if layer["class_name"] == "Rescaling"]
    (scale,) = scales if settings.scaled else [1.0]
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ValueError(f"its features are multiplied by {scale!r}")
    model = build_network(settings, feature_shape, n_classes, seeds=[0, 0, 0], scale=scale)
    found, expected = (
        [_plan(layer) for layer in each]
        for each in (layers, json.loads(model.to_json())["config"]["layers"])
    )
    if found != expected:
        raise ValueError(f"its layers are {str(found)[:_SHOWN]}")
    model.load_weights(path)
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise ValueError("its weights are not all finite numbers")
    return model


def _plan(layer: Any) -> list[object]:
    """Return what decides a layer's numbers, of its configuration, but for a scale."""
    config = layer["config"]
    names = ("units", "activation", "use_bias", "batch_shape", "offset")
    return [layer["class_name"], *(config[name] for name in names if name in config)]


def both_columns(outputs: tf.Tensor) -> tf.Tensor:
    """Return (N, n_classes): of a single sigmoid output, one minus it comes first."""
    return tf.concat([1.0 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs


def losses_and_hits(labels: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (N,) cross-entropies, and (N,) ones where the largest output is the label's."""
    # Inside a graph Keras takes both losses from the logits behind the activation, so a saturated
    # output still has a gradient.
    if outputs.shape[1] == 1:
        losses = keras.losses.binary_crossentropy(tf.cast(labels, tf.float32)[:, None], outputs)
        predicted = tf.cast(outputs[:, 0] > 0.5, tf.int32)
    else:
        losses = keras.losses.sparse_categorical_crossentropy(labels, outputs)
        predicted = tf.argmax(outputs, axis=1, output_type=tf.int32)
    return losses, tf.cast(predicted == labels, tf.float32)
