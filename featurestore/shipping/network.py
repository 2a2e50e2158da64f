"""The whole network in Keras's own layers: pixels, preprocessing, backbone, head. Imports Keras.

Nothing in it needs this package to load: every layer is Keras's, in safe mode. It takes uint8,
because that is what a decoded image is: floats in [0, 1], the usual mistake, would have to be
converted by hand, and ONNX Runtime refuses them.

Everything is computed in float32, also where the recipe computed in bfloat16 or float16: those are
fast on some processors and emulated or missing on others. Features stored in float16 are rounded
to it as the head saw them in training (a value beyond 65,504, which `fs embed` refuses, becomes
infinite). Measured with VGG16 and 1,000 photographs: without the rounding, probabilities differ by
2e-4 (logistic, linear-svm, sgd, dense) to 2e-3 (dense, --raw --epochs 1) from those of the cached
path in float32; with it, by 3e-7 for those three linear heads, and by 1e-7 for dense on 300 images.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from featurestore.backbones.architecture import in_fresh_session
from featurestore.recipe import Recipe
from featurestore.shipping.head_layers import HeadLayers
from featurestore.shipping.settings import INPUT_NAME, OUTPUT_NAME

_CAFFE_MEANS_RGB = np.array([123.68, 116.779, 103.939], np.float32)
_TORCH_MEANS = (0.485, 0.456, 0.406)
_TORCH_DEVIATIONS = (0.229, 0.224, 0.225)


def assemble(backbone: Any, head: HeadLayers, *, recipe: Recipe) -> Any:
    """Return the Keras model from images to probabilities.

    Parameters
    ----------
    backbone
        The Keras network cut at the recipe's layer, computing in float32.
    head
        What `head_layers` gives: from features to probabilities.

    Returns
    -------
    A model of one input, uint8 RGB (N, H, W, 3) in [0, 255], and one output, float32
    (N, n_classes): probabilities in class order. Batches may have any size.
    """

    def build() -> Any:
        images = keras.Input((*recipe.size, 3), dtype="uint8", name=INPUT_NAME)
        features = backbone(_preprocessed(images, recipe))
        if recipe.pooling == "avg":
            features = keras.layers.GlobalAveragePooling2D(name="pooling")(features)
        elif recipe.pooling == "max":
            features = keras.layers.GlobalMaxPooling2D(name="pooling")(features)
        if recipe.dtype == "float16":
            features = _rounded(features)
        probabilities = head(features)
        named = keras.layers.Activation("linear", name=OUTPUT_NAME)(probabilities)
        return keras.Model(images, named, name="featurestore_model")

    return in_fresh_session(build)


def _rounded(features: Any) -> Any:
    """Round to float16 and back: a layer casts what it is given to its own type.

    The detour through another shape is for tf2onnx, which drops a cast next to a cast.
    """
    shape = tuple(features.shape[1:])
    stored = keras.layers.Reshape((1, *shape), dtype="float16", name="as_stored")(features)
    return keras.layers.Reshape(shape, name="features")(stored)


def _preprocessed(images: Any, recipe: Recipe) -> Any:
    """Apply `featurestore.backbones.preprocessing.preprocess` as layers; sources stand there."""
    mode = recipe.preprocessing
    if mode == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocessing")(images)
    if mode == "torch":
        scaled = keras.layers.Rescaling(1 / 255.0, name="preprocessing")(images)
        return keras.layers.Normalization(
            mean=_TORCH_MEANS, variance=np.square(_TORCH_DEVIATIONS).tolist(), name="normalisation"
        )(scaled)
    pixels = keras.layers.Rescaling(1.0, name="as_float32")(images)
    if mode == "none":
        return pixels
    # Colours change places by a 1 x 1 convolution: Keras has no layer that flips an axis. Products
    # are with one and zero, so the result is that of a flip and a subtraction to the last bit.
    flip = keras.layers.Conv2D(3, 1, trainable=False, name="preprocessing")
    preprocessed = flip(pixels)
    flip.set_weights([np.eye(3, dtype=np.float32)[::-1][None, None], -_CAFFE_MEANS_RGB[::-1]])
    return preprocessed
