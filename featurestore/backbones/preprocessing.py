"""Colour order and normalisation, inside the graph. Imports Keras."""

from __future__ import annotations

from typing import Any

import keras

from featurestore.backbones.table import Preprocessing


def preprocess(images: Any, *, mode: Preprocessing) -> Any:
    """Turn float32 RGB images (n, H, W, 3) in [0, 255] into what a network's weights expect.

    - ``caffe``: BGR, minus the ImageNet channel means 103.939, 116.779, 123.68 (in BGR), unscaled.
      Source: Simonyan and Zisserman 2014, arXiv:1409.1556, section 2.1; the means are those of
      Caffe's published VGG models.
    - ``tf``: RGB, x / 127.5 - 1, so [-1, 1]. Source: TensorFlow Slim's ``inception_preprocessing``.
    - ``torch``: RGB, x / 255, then minus (0.485, 0.456, 0.406) and divided by
      (0.229, 0.224, 0.225). Source: PyTorch's torchvision documentation, "Models and pre-trained
      weights".
    - ``none``: unchanged; the network's first layers normalise.
    """
    if mode == "none":
        return images
    return keras.applications.imagenet_utils.preprocess_input(
        images, data_format="channels_last", mode=mode
    )
