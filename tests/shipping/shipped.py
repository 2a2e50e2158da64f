"""A small real network and heads on it, and what a shipped model must give for them."""

import dataclasses

import keras
import numpy as np

from featurestore.backbones.architecture import in_fresh_session
from featurestore.backbones.preprocessing import preprocess
from featurestore.recipe import Recipe
from featurestore.testing.heads import MemoryRows
from featurestore.training.contract import FitOptions
from featurestore.training.heads import build_settings, create_head

SIZE = (10, 14)
IMAGES = np.random.default_rng(3).integers(0, 256, (7, *SIZE, 3), dtype=np.uint8)
FAST = {"dense": {"units": 8, "epochs": 3, "learning_rate": 0.01}, "logistic": {"c": 10.0}}


def backbone():
    """Return a convolution with a normalisation, whose features are zero for about half."""

    def build():
        pixels = keras.Input((*SIZE, 3), name="pixels")
        start = keras.initializers.RandomNormal(seed=4)
        features = keras.layers.Conv2D(5, 3, strides=3, kernel_initializer=start)(pixels)
        scaled = keras.layers.Normalization(mean=[0.0] * 5, variance=[4.0] * 5)(features)
        return keras.Model(pixels, keras.layers.ReLU()(scaled), name="tiny")

    return in_fresh_session(build)


def recipe(**fields):
    given = {"preprocessing": "caffe", "precision": "float32", **fields}
    return Recipe(
        backbone="vgg16",
        weights_sha256="0" * 64,
        layer="tiny",
        size=SIZE,
        decoder="none",
        **given,
    )


def features(model, images, wanted):
    """Return what the cached path would have stored for images."""
    found = np.asarray(model(preprocess(images.astype(np.float32), mode=wanted.preprocessing)))
    if wanted.pooling != "none":
        found = found.mean(axis=(1, 2)) if wanted.pooling == "avg" else found.max(axis=(1, 2))
    return found.astype(wanted.dtype)


def fitted(kind, rows, *, n_classes):
    """Return a head fitted to features; labels go by the first of them, so there is a rule."""
    first = rows.reshape(len(rows), -1)[:, 0].astype(np.float64)
    labels = np.argsort(np.argsort(first, kind="stable")) * n_classes // len(rows)
    train = MemoryRows(rows, labels.astype(np.int64))
    head = create_head(build_settings(kind, FAST.get(kind, {})))
    return head.fit(train, None, options=FitOptions(n_classes=n_classes))


def many(count, seed=0):
    """Return more images of the size."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


@dataclasses.dataclass
class Model:
    """What `head_layers` asks of a head."""

    model_: object
