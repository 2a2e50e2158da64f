"""Compiled passes of a network over rows: training steps, and scoring.

One step is compiled once, for one number of rows, and run over pieces of rows as they are stored;
where rows come from is not its business. A piece is cut into steps in the graph: a call from Python
for each step of 20 rows costs as much as the step.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from featurestore.training.dense_network import losses_and_hits
from featurestore.training.streaming import Piece, RowSource

# Of one piece, at 4 bytes a value: 512 rows of 8,192 columns. Not less than one step.
_PIECE_BYTES = 16 * 2**20
_SCORED_ROWS = 512

_Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def block_rows(row_values: int) -> int:
    """Return the rows of one step of scoring and prediction: 512, or what 16 MiB hold."""
    return max(1, min(_SCORED_ROWS, _PIECE_BYTES // (4 * row_values)))


def class_weights(choice: str, labels: np.ndarray, n_classes: int) -> np.ndarray | None:
    """Return what a row of each class counts under `DenseSettings.class_weight`; None: all one."""
    if choice == "none":
        return None
    weights: np.ndarray = len(labels) / (n_classes * np.bincount(labels, minlength=n_classes))
    return weights


class Training:
    """Training steps of `batch_size` rows; the last of a piece may have fewer.

    Parameters
    ----------
    class_weights
        (n_classes,) how many times a row of each class counts in the loss.
    """

    model: Any
    optimizer: Any

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        source: RowSource,
        *,
        batch_size: int,
        class_weights: np.ndarray | None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        optimizer.build(model.trainable_variables)
        batch_rows = min(batch_size, len(source))
        weights = None if class_weights is None else tf.constant(class_weights, tf.float32)
        xla = _gains_by_xla(model)
        apply = partial(_apply, optimizer, model.trainable_variables)
        # Of a step of 370 ms (VGG16's block5 and a head), 10 ms instead of 30. Keras's scaling of
        # the loss branches on what the gradients are.
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if not xla and not scaled and _supports_xla():
            apply = tf.function(apply, jit_compile=True)

        def step(X: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                losses, hits = losses_and_hits(labels, model(X, training=True))
                counted = mask if weights is None else mask * tf.gather(weights, labels)
                total = tf.reduce_sum(losses * counted)
                # The loss itself, unless the optimizer keeps small gradients from float16's zero.
                minimised = optimizer.scale_loss(total / tf.reduce_sum(mask))
            apply(tape.gradient(minimised, model.trainable_variables))
            return total, tf.reduce_sum(hits * mask)

        self._source = source
        piece_steps = _PIECE_BYTES // (4 * source.row_values * batch_rows)
        self._piece_rows = max(1, piece_steps) * batch_rows
        self._pass = _pass_over(source, step, batch_rows, xla=xla)

    def epoch(self, shuffles: np.random.Generator, *, epoch: int) -> tuple[float, float]:
        """Train on every row once; return mean loss and accuracy while the weights moved.

        The loss is the one that is minimised, with class weights where there are any.
        """
        return self.run(self._source.epoch(shuffles, self._piece_rows, epoch=epoch))

    def run(self, pieces: Iterable[Piece]) -> tuple[float, float]:
        """Train on the rows of pieces, as `epoch` does; a piece of one step's rows is one step."""
        return self._pass(pieces)


class Scoring:
    """Mean loss, without class weights, and accuracy over every row."""

    def __init__(self, model: Any, source: RowSource) -> None:
        def step(X: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            losses, hits = losses_and_hits(labels, model(X, training=False))
            return tf.reduce_sum(losses * mask), tf.reduce_sum(hits * mask)

        self._source = source
        self._step_rows = min(block_rows(source.row_values), len(source))
        self._pass = _pass_over(source, step, self._step_rows, xla=_gains_by_xla(model))

    def __call__(self) -> tuple[float, float]:
        """Return loss and accuracy under the model's present weights."""
        return self._pass(self._source.in_order(self._step_rows))


def _pass_over(
    source: RowSource, step: _Step, step_rows: int, *, xla: bool
) -> Callable[[Iterable[Piece]], tuple[float, float]]:
    """Return a function that runs `step` over pieces of rows: mean loss and hits come back.

    Every step has the same shape, and so one compiled program, whose numbers are the same wherever
    the rows come from: where a step has fewer rows it is filled up with zeros at weight 0. Without
    XLA, which needs fixed shapes, the step does not see them: they would be part of the batch that
    a batch normalisation takes its statistics of.
    """

    # Partials: to TensorFlow's warning of frequent tracing each is a function of its own, where the
    # same lines of code are one, and a process of several fits would be warned.
    compiled = tf.function(partial(_cast_and_step, step, not xla), jit_compile=xla)
    shape = (None, step_rows)
    all_steps = tf.function(
        partial(_all_steps, compiled),
        input_signature=[
            tf.TensorSpec((*shape, *source.feature_shape), source.dtype),
            tf.TensorSpec(shape, tf.int32),
            tf.TensorSpec(shape, tf.float32),
        ],
    )

    def run(pieces: Iterable[Piece]) -> tuple[float, float]:
        rows, loss, hits = 0, 0.0, 0.0
        for features, labels in pieces:
            rows += len(labels)
            piece_loss, piece_hits = all_steps(*_in_steps(features, labels, step_rows))
            loss += float(piece_loss)
            hits += float(piece_hits)
        return loss / rows, hits / rows

    return run


def _cast_and_step(
    step: _Step, cut: bool, features: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    if cut:
        rows = tf.cast(tf.reduce_sum(mask), tf.int32)
        features, labels, mask = features[:rows], labels[:rows], mask[:rows]
    return step(tf.cast(features, tf.float32), labels, mask)


def _all_steps(
    step: _Step, features: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    loss, hits = tf.constant(0.0), tf.constant(0.0)
    for i in tf.range(tf.shape(labels)[0]):
        step_loss, step_hits = step(features[i], labels[i], mask[i])
        loss += step_loss
        hits += step_hits
    return loss, hits


def _apply(optimizer: Any, variables: Sequence[Any], gradients: list[tf.Tensor]) -> None:
    optimizer.apply(gradients, variables)


def _in_steps(features: np.ndarray, labels: np.ndarray, step_rows: int) -> Iterator[tf.Tensor]:
    missing = -len(labels) % step_rows
    mask = np.ones(len(labels), np.float32)
    for column in (features, labels.astype(np.int32), mask):
        whole = np.pad(column, [(0, missing), *[(0, 0)] * (column.ndim - 1)]) if missing else column
        yield tf.constant(whole.reshape(-1, step_rows, *column.shape[1:]))


def _gains_by_xla(model: Any) -> bool:
    """Return whether to compile whole steps, whose rows then are filled up."""
    # XLA's convolutions are much slower than oneDNN's on a processor.
    if any(len(weight.shape) > 2 for weight in model.weights):
        return False
    # The rows that fill a step up would be part of a batch normalisation's statistics.
    return _supports_xla() and not any(weight.name == "moving_mean" for weight in model.weights)


def _supports_xla() -> bool:
    # Keras's own rule (keras.src.trainers.trainer.model_supports_jit): no XLA on Apple's GPUs.
    apple = platform.system() == "Darwin" and "arm" in platform.processor().lower()
    return not (apple and tf.config.list_physical_devices("GPU"))
