"""What heads that are Keras networks have in common: epochs, probabilities, versions."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import keras
import numpy as np
import tensorflow as tf

from featurestore.errors import InvalidInput
from featurestore.training.contract import FitOptions, check_rows
from featurestore.training.dense_network import both_columns
from featurestore.training.dense_steps import Scoring, Training, block_rows
from featurestore.training.epochs import EpochPlan, Fitted, run_epochs
from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.settings import DenseSettings
from featurestore.training.streaming import RowSource

Settings = TypeVar("Settings", bound=DenseSettings | FineTuneSettings)


class NetworkHead(Generic[Settings]):
    """A head whose `model_` goes from features to one sigmoid or K softmax outputs."""

    suffix: ClassVar[str] = ".keras"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def _train(
        self,
        training: Training,
        validation: RowSource | None,
        *,
        shuffles: np.random.Generator,
        options: FitOptions,
    ) -> Self:
        """Train for the epochs of the settings and adopt the network."""
        settings = self.settings
        fitted = run_epochs(
            training,
            None if validation is None else Scoring(training.model, validation),
            plan=EpochPlan(
                head=settings.head,
                epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                patience=settings.patience,
            ),
            shuffles=shuffles,
            options=options,
        )
        self._adopt(training.model, fitted)
        return self

    def _adopt(self, model: Any, fitted: Fitted) -> None:
        self.model_ = model
        self.feature_shape_ = tuple(model.input_shape[1:])
        self.n_classes_ = max(2, model.output_shape[-1])
        self.history_ = fitted.history
        self.chosen_ = fitted.chosen
        self.notes_ = fitted.notes
        # A partial is a function of its own to TensorFlow's warning of frequent tracing; lambdas of
        # one line are all the same, and a process that loads ten heads would be warned.
        self._predict = tf.function(partial(_probabilities, model), reduce_retracing=True)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return (N, n_classes) float32; with two classes, one minus the sigmoid comes first."""
        if not hasattr(self, "model_"):
            raise InvalidInput(
                f"head {self.settings.head} is not fitted", next_step="call fit or load first"
            )
        check_rows(X, self.feature_shape_)
        probabilities = np.empty((len(X), self.n_classes_), np.float32)
        step = block_rows(math.prod(self.feature_shape_))
        for start in range(0, len(X), step):
            block = tf.constant(X[start : start + step])
            probabilities[start : start + step] = self._predict(block).numpy()
        return probabilities

    def save(self, path: Path) -> None:
        """Write a `.keras` file without optimizer state."""
        self.model_.save(path)

    def versions(self) -> dict[str, str]:
        """Return the versions of TensorFlow and Keras."""
        return {"tensorflow": tf.__version__, "keras": keras.__version__}


def _probabilities(model: Any, block: tf.Tensor) -> tf.Tensor:
    return both_columns(model(tf.cast(block, tf.float32), training=False))
