"""The dense head: Keras, trained by one compiled step from features held once as they are stored.

Measured on 2,000 x 8,192 float16 rows, batch 20, two cores: 5 ms of processor time a step, where
`model.fit` on float32 rows takes 12; ten epochs with validation 4.5 s against 11.2 s. One compiled
loop over the whole epoch was slower (XLA runs its body on one core), and so was compiling only the
optimizer's step. What is left is bound by memory: RMSprop reads and writes every weight each step.
"""

from __future__ import annotations

import platform
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.training.contract import FitOptions, Rows, check_rows
from featurestore.training.settings import DenseSettings

# Rows of one step of scoring and prediction: 512 rows of 8,192 columns are 16 MB in float32.
_BLOCK_ROWS = 512
_NO_ROW = -1


class DenseHead:
    """Flatten, scale, Dense(units, relu), dropout where asked for, then one sigmoid or K softmax.

    Computes in float32 whatever the features are stored in. `history_` holds the training loss and
    accuracy as Keras reports them, averaged over the epoch while the weights move, and the
    validation split's at the end of each epoch. Every row is trained on once an epoch.
    """

    suffix: ClassVar[str] = ".keras"

    def __init__(self, settings: DenseSettings) -> None:
        self.settings = settings

    def fit(self, train: Rows, validation: Rows | None, *, options: FitOptions) -> Self:
        """Train for every epoch of the settings.

        Two fits with one seed are equal on one machine's processor; on a GPU only to rounding.

        Raises
        ------
        InvalidInput
            The loss became infinite or not a number.
        """
        settings = self.settings
        seeds = np.random.SeedSequence(options.seed).generate_state(4)
        model = _build(
            settings,
            train.feature_shape,
            options.n_classes,
            seeds=[int(seed) for seed in seeds[:3]],
            scale=1.0 / _root_mean_square(train) if settings.scaled else 1.0,
        )
        optimizer = keras.optimizers.RMSprop(settings.learning_rate)
        shuffles = np.random.default_rng(seeds[3])
        train_epoch = _training_epoch(model, optimizer, train)
        score = None if validation is None else _scoring(model, validation)
        history: dict[str, list[float]] = {}
        for epoch in range(settings.epochs):
            order = shuffles.permutation(len(train))
            results = {"train": train_epoch(order, settings.batch_size)}
            if score is not None and validation is not None:
                results["validation"] = score(np.arange(len(validation)), _BLOCK_ROWS)
            for split, (loss, accuracy) in results.items():
                if not np.isfinite(loss):
                    raise InvalidInput(
                        f"head dense: the {split} loss is {loss} after epoch {epoch + 1} "
                        f"at learning rate {settings.learning_rate}",
                        next_step="lower --learning-rate",
                    )
                history.setdefault(f"{split}_loss", []).append(loss)
                history.setdefault(f"{split}_accuracy", []).append(accuracy)
            if options.progress is not None:
                numbers = {name: curve[-1] for name, curve in history.items()}
                options.progress(epoch + 1, settings.epochs, numbers)
        self._adopt(model, history)
        return self

    def _adopt(self, model: Any, history: dict[str, list[float]]) -> None:
        self.model_ = model
        self.feature_shape_ = tuple(model.input_shape[1:])
        self.n_classes_ = max(2, model.output_shape[-1])
        self.history_ = history
        self.chosen_: dict[str, object] = {}
        self.notes_: tuple[str, ...] = ()
        self._predict = tf.function(
            lambda block: _both_columns(model(tf.cast(block, tf.float32), training=False)),
            reduce_retracing=True,
        )

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return (N, n_classes) float32; with two classes, one minus the sigmoid comes first."""
        if not hasattr(self, "model_"):
            raise InvalidInput("head dense is not fitted", next_step="call fit or load first")
        check_rows(X, self.feature_shape_)
        probabilities = np.empty((len(X), self.n_classes_), np.float32)
        for start in range(0, len(X), _BLOCK_ROWS):
            block = tf.constant(X[start : start + _BLOCK_ROWS])
            probabilities[start : start + _BLOCK_ROWS] = self._predict(block).numpy()
        return probabilities

    def save(self, path: Path) -> None:
        """Write a `.keras` file of built-in layers, without optimizer state."""
        self.model_.save(path)

    def load(self, path: Path, *, feature_shape: tuple[int, ...], n_classes: int) -> Self:
        """Read a `.keras` file in Keras's safe mode.

        Raises
        ------
        IntegrityError
            Keras cannot read it, or its layers are not those of this head.
        """
        try:
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise IntegrityError(
                f"{path} is not a Keras model that safe mode can read: {error}",
                next_step="train the head again",
            ) from error
        expected = _build(self.settings, feature_shape, n_classes, seeds=[0, 0, 0], scale=1.0)
        if _plan(model) != _plan(expected):
            raise IntegrityError(
                f"{path}: expected a dense head of {feature_shape} -> {self.settings.units} units "
                f"-> {n_classes} classes, found {_plan(model)}",
                next_step="train the head again",
            )
        self._adopt(model, {})
        return self

    def versions(self) -> dict[str, str]:
        """Return the versions of TensorFlow and Keras."""
        return {"tensorflow": tf.__version__, "keras": keras.__version__}


def _root_mean_square(rows: Rows) -> float:
    total = 0.0
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows.read(start, min(start + _BLOCK_ROWS, len(rows))).astype(np.float32)
        total += float(np.vdot(block, block))
    mean = total / (len(rows) * np.prod(rows.feature_shape))
    return float(np.sqrt(mean)) or 1.0  # all zeros stay zeros


def _build(
    settings: DenseSettings,
    feature_shape: tuple[int, ...],
    n_classes: int,
    *,
    seeds: list[int],
    scale: float,
) -> Any:
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


def _plan(model: Any) -> list[tuple[object, ...]]:
    """Return what each layer is: its kind, activation and sizes."""
    return [
        (
            type(layer).__name__,
            getattr(getattr(layer, "activation", None), "__name__", None),
            tuple(layer.input.shape),
            tuple(layer.output.shape),
        )
        for layer in getattr(model, "layers", [])
    ]


def _both_columns(outputs: tf.Tensor) -> tf.Tensor:
    return tf.concat([1.0 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs


def _losses_and_hits(labels: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # Per row. Inside a graph Keras takes both losses from the logits behind the activation, so a
    # saturated output still has a gradient.
    if outputs.shape[1] == 1:
        losses = keras.losses.binary_crossentropy(tf.cast(labels, tf.float32)[:, None], outputs)
        predicted = tf.cast(outputs[:, 0] > 0.5, tf.int32)
    else:
        losses = keras.losses.sparse_categorical_crossentropy(labels, outputs)
        predicted = tf.argmax(outputs, axis=1, output_type=tf.int32)
    return losses, tf.cast(predicted == labels, tf.float32)


_Pass = Callable[[np.ndarray, int], tuple[float, float]]


def _training_epoch(model: Any, optimizer: Any, rows: Rows) -> _Pass:
    optimizer.build(model.trainable_variables)

    def step(X: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            losses, hits = _losses_and_hits(labels, model(X, training=True))
            total = tf.reduce_sum(losses * mask)
            mean = total / tf.reduce_sum(mask)
        optimizer.apply(tape.gradient(mean, model.trainable_variables), model.trainable_variables)
        return total, tf.reduce_sum(hits * mask)

    return _pass_over(rows, step)


def _scoring(model: Any, rows: Rows) -> _Pass:
    def step(X: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        losses, hits = _losses_and_hits(labels, model(X, training=False))
        return tf.reduce_sum(losses * mask), tf.reduce_sum(hits * mask)

    return _pass_over(rows, step)


def _pass_over(
    rows: Rows,
    step: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
) -> _Pass:
    """Compile `step` into a pass over rows in a given order: mean loss and accuracy come back.

    Features stay as they are stored; each step gathers its rows and casts them in the graph. Every
    step has the same shape: where the last has fewer rows, it is filled up with row 0 at weight 0.
    """
    X, y = rows.load()
    features, labels = tf.constant(X), tf.constant(y.astype(np.int32))

    def gathered(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mask = tf.cast(index != _NO_ROW, tf.float32)
        index = tf.maximum(index, 0)
        block = tf.cast(tf.gather(features, index), tf.float32)
        return step(block, tf.gather(labels, index), mask)

    compiled = tf.function(gathered, jit_compile=_supports_xla())

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def whole_pass(steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss, hits = tf.constant(0.0), tf.constant(0.0)
        for index in steps:
            step_loss, step_hits = compiled(index)
            loss += step_loss
            hits += step_hits
        return loss, hits

    def run(order: np.ndarray, step_rows: int) -> tuple[float, float]:
        step_rows = min(step_rows, len(order))
        steps = np.full((-(-len(order) // step_rows), step_rows), _NO_ROW, np.int32)
        steps.flat[: len(order)] = order
        loss, hits = whole_pass(tf.constant(steps))
        return float(loss) / len(order), float(hits) / len(order)

    return run


def _supports_xla() -> bool:
    # Keras's own rule (keras.src.trainers.trainer.model_supports_jit): no XLA on Apple's GPUs.
    apple = platform.system() == "Darwin" and "arm" in platform.processor().lower()
    return not (apple and tf.config.list_physical_devices("GPU"))
