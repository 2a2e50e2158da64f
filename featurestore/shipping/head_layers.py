"""Heads as layers of Keras. Imports Keras and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from featurestore.errors import InvalidInput
from featurestore.shipping.linear_form import CLASSES, LinearForm, linear_form
from featurestore.training.contract import Head

# From a symbolic tensor of features, (N, *feature_shape), to one of probabilities, (N, n_classes).
HeadLayers = Callable[[Any], Any]

EXPRESSIBLE = "dense, fine-tuned, logistic, linear-svm, sgd and nearest-centroid"


def head_layers(head: Head, *, name: str) -> HeadLayers:
    """Return a fitted head as layers that give its probabilities to float32's rounding.

    Raises
    ------
    InvalidInput
        The head is no network and no linear classifier.
    """
    model = getattr(head, "model_", None)
    if isinstance(model, keras.Model):
        return lambda features: _both_columns(model(features))
    form = linear_form(model)
    if form is None:
        raise InvalidInput(
            f"head {name} cannot become layers of a network: {EXPRESSIBLE} can, and of "
            f"scikit-learn's classes {CLASSES}, with parameters that keep them linear",
            next_step="fs train FEATURE_SET --head logistic, then export that run",
        )
    return lambda features: _linear(form, features)


def _linear(form: LinearForm, features: Any) -> Any:
    flat = keras.layers.Flatten(name="flatten")(features)
    dense = keras.layers.Dense(form.weights.shape[1], name="scores")
    scores = dense(flat)
    dense.set_weights([form.weights.astype(np.float32), form.bias.astype(np.float32)])
    if form.link == "sigmoid":
        return _both_columns(keras.layers.Activation("sigmoid", name="second_class")(scores))
    if form.link == "shared-sigmoid":
        # softmax(log p) is p divided by its sum, without a division that Keras has no layer for.
        scores = keras.layers.Activation("log_sigmoid", name="log_sigmoid")(scores)
    return keras.layers.Softmax(name="shares")(scores)


def _both_columns(outputs: Any) -> Any:
    """Put one minus a single sigmoid output before it, as `Head.predict_proba` does."""
    if outputs.shape[-1] != 1:
        return outputs
    first = keras.layers.Rescaling(-1.0, offset=1.0, name="first_class")(outputs)
    return keras.layers.Concatenate(name="both_classes")([first, outputs])
