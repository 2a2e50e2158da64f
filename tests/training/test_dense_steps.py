"""Compiled steps: what TensorFlow says of them, and what they do as Keras does."""

import logging

import keras
import numpy as np
import pytest

from featurestore.testing.heads import MemoryRows
from featurestore.training.dense_steps import Scoring, Training
from featurestore.training.streaming import RowSource


def source(count=9):
    values = np.random.default_rng(0).normal(size=(count, 2, 2, 3)).astype(np.float32)
    return RowSource(MemoryRows(values, np.arange(count) % 2), held=True)


def network(*, convolution):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 1)] if convolution else []
    outputs = [keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")]
    return keras.Sequential([keras.Input((2, 2, 3)), *layers, *outputs])


@pytest.mark.parametrize("convolution", [True, False])
def test_many_fits_in_one_process_are_not_warned_of_tracing(convolution):
    warned = []
    listener = logging.Handler()
    listener.emit = warned.append
    logger = logging.getLogger("tensorflow")
    logger.addHandler(listener)
    try:
        for _ in range(6):
            model, optimizer = network(convolution=convolution), keras.optimizers.SGD(0.1)
            training = Training(model, optimizer, source(), batch_size=4, class_weights=None)
            training.epoch(np.random.default_rng(0), epoch=1)
            Scoring(model, source())()
    finally:
        logger.removeHandler(listener)
    assert [record.getMessage() for record in warned] == []


@pytest.mark.parametrize("name", ["adam", "nadam", "rmsprop", "sgd"])
def test_a_compiled_optimizer_steps_as_keras_does(name):
    mine, theirs = (network(convolution=True) for _ in range(2))
    optimizers = [keras.optimizers.get({"class_name": name, "config": {}}) for _ in range(2)]
    rows = source(8)
    training = Training(mine, optimizers[0], rows, batch_size=8, class_weights=None)
    theirs.compile(optimizers[1], "binary_crossentropy")
    (piece,) = rows.in_order(8)
    for _ in range(3):
        training.run([piece])
        theirs.train_on_batch(piece[0], piece[1].reshape(-1, 1))
    assert optimizers[0].iterations.numpy() == 3
    for found, expected in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
