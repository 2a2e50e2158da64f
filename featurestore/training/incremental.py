"""The incremental linear head: logistic regression that reads its rows a piece at a time.

It is for splits that do not fit in memory, where the exact `logistic` head refuses. Its order of
rows depends on the seed and the size of the split alone, so a fit from disk equals one in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.utils.class_weight import compute_class_weight

from featurestore.errors import InvalidInput
from featurestore.training.contract import FitOptions, Rows
from featurestore.training.sklearn_model import EstimatorHead
from featurestore.training.sklearn_settings import SgdSettings
from featurestore.training.spread import mean_and_variance
from featurestore.training.streaming import Piece, RowSource, plan_residence

_PIECE_ROWS = 512  # of 8,192 columns: 32 MB in float64


class SgdHead(EstimatorHead[SgdSettings]):
    """`SGDClassifier` with log loss, its step falling to zero, for the features as they are.

    The features are centred and scaled only while fitting. With more than two classes each has a
    model against the rest, and their probabilities are divided by their sum.

    The step falls linearly. After 20 epochs the test log loss was within 0.003 of the exact head's
    of the same `c`, on VGG16 features and on blobs that overlap. Constant steps, averaged over the
    second half, did as well on the first and gave 0.64 instead of 0.46 on the second.

    `history_` holds log loss and accuracy, every row counted once: of each training piece by the
    weights before its steps, of the validation split at the end of each epoch.
    """

    def fit(self, train: Rows, validation: Rows | None, *, options: FitOptions) -> Self:
        """Take one step a row, for every epoch of the settings.

        Rows are held as stored where they fit `options.memory_bytes`, else read again each epoch.
        Some pieces of 512 rows in float64 come on top, and per class a few vectors of a row's size.

        Raises
        ------
        InvalidInput
            All rows are equal, not even one pool of rows fits the memory, or the steps are too
            large.
        """
        settings = self.settings
        if validation is not None and not len(validation):
            validation = None
        residence = plan_residence(
            train, validation, memory_bytes=options.memory_bytes, head=settings.head
        )
        source = RowSource(train, held=residence.train, ahead=residence.ahead)
        checked = None if validation is None else RowSource(validation, held=residence.validation)
        scaling = _Scaling(source)
        learner = _Learner(settings, train.labels, scaling, n_classes=options.n_classes)
        rng = np.random.default_rng(options.seed)
        history: dict[str, list[float]] = {}
        for epoch in range(settings.epochs):
            pieces = source.epoch(rng, _PIECE_ROWS, epoch=epoch + 1)
            numbers = _averages(pieces, learner.learn, name="train")
            if checked is not None:
                numbers |= _averages(
                    checked.in_order(_PIECE_ROWS), learner.losses_and_hits, name="validation"
                )
            for name, value in numbers.items():
                history.setdefault(name, []).append(value)
            if options.progress is not None:
                options.progress(epoch + 1, settings.epochs, numbers)
        self._adopt(learner.unscaled(), train.feature_shape, history=history)
        return self

    def model_class(self) -> Any:
        """Return the class of `model_`."""
        return SGDClassifier


class _Scaling:
    """Takes the mean row away and divides by the root of the total variance, found in one pass."""

    def __init__(self, source: RowSource) -> None:
        self.mean, self.variance = mean_and_variance(
            (_flat(features) for features, _ in source.in_order(_PIECE_ROWS)), head="sgd"
        )

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Return (N, D) float64."""
        flat = _flat(features)
        flat -= self.mean
        flat /= math.sqrt(self.variance)
        return flat


class _Learner:
    """The estimator while it learns, on scaled features."""

    def __init__(
        self, settings: SgdSettings, labels: np.ndarray, scaling: _Scaling, *, n_classes: int
    ) -> None:
        self._scaling = scaling
        self._classes = np.arange(n_classes)
        self._weights: np.ndarray = (
            np.ones(n_classes)
            if settings.class_weight == "none"
            else compute_class_weight(settings.class_weight, classes=self._classes, y=labels)
        )
        # A weight multiplies the step: the largest would otherwise be far too long.
        self._step = settings.learning_rate / max(1.0, float(self._weights.max()))
        self._steps, self._taken = len(labels) * settings.epochs, 0
        self._model = SGDClassifier(
            loss="log_loss",
            alpha=1 / (settings.c * len(labels)),
            learning_rate="constant",
            eta0=self._step,
            shuffle=False,
            random_state=0,  # of no effect but that no global generator is asked
        )

    def learn(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take a step for each row; return losses and hits as they were before."""
        X = self._scaling.apply(features)
        before = self._judge(X, labels)
        self._model.eta0 = self._step * (1 - self._taken / self._steps)
        self._taken += len(X)
        self._model.partial_fit(
            X, labels, classes=self._classes, sample_weight=self._weights[labels]
        )
        if not np.isfinite(self._model.coef_).all():
            raise InvalidInput(
                f"head sgd: the weights are not finite at learning rate {self._step:g}",
                next_step="lower --learning-rate",
            )
        return before

    def losses_and_hits(
        self, features: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each row's log loss, and whether its class is the most probable."""
        return self._judge(self._scaling.apply(features), labels)

    def _judge(self, X: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if hasattr(self._model, "coef_"):
            probabilities = self._model.predict_proba(X)
        else:
            probabilities = np.full((len(X), len(self._classes)), 1 / len(self._classes))
        given = probabilities[np.arange(len(X)), labels]
        least = float(np.finfo(np.float32).eps)  # as the log loss of a run's metrics
        return -np.log(np.clip(given, least, 1 - least)), probabilities.argmax(axis=1) == labels

    def unscaled(self) -> Any:
        """Return the estimator for the features as they are: of the fit, only the weights."""
        variance = self._scaling.variance
        model = SGDClassifier(**self._model.get_params())
        model.set_params(alpha=self._model.alpha * variance, eta0=self._step / variance)
        model.coef_ = self._model.coef_ / math.sqrt(variance)
        model.intercept_ = self._model.intercept_ - model.coef_ @ self._scaling.mean
        model.classes_ = self._classes
        model.n_features_in_ = self._model.n_features_in_
        return model


def _flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(len(features), -1).astype(np.float64)


def _averages(
    pieces: Iterator[Piece],
    judge: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    *,
    name: str,
) -> dict[str, float]:
    losses, hits = zip(*(judge(features, labels) for features, labels in pieces), strict=True)
    return {
        f"{name}_loss": float(np.concatenate(losses).mean()),
        f"{name}_accuracy": float(np.concatenate(hits).mean()),
    }
