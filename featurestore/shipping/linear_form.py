"""Classifiers of scikit-learn that are one matrix, one vector and one function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC

CLASSES = (
    "LinearDiscriminantAnalysis, LinearSVC, LogisticRegression, LogisticRegressionCV, "
    "NearestCentroid, PassiveAggressiveClassifier, Perceptron, RidgeClassifier, RidgeClassifierCV "
    "and SGDClassifier"
)
"""Names of scikit-learn's classifiers that have a form, with parameters that keep them linear."""

# What scikit-learn's linear classifiers inherit: X @ coef_.T + intercept_. The method tells them
# apart from a subclass that scores otherwise, and names no class that a later version drops.
_LINEAR_SCORES = (LinearSVC.decision_function, LinearDiscriminantAnalysis.decision_function)
# sigmoid: one score, the second class's probability. softmax: a score for each class.
# shared-sigmoid: a sigmoid of each class's score, divided by their sum.
Link = Literal["sigmoid", "softmax", "shared-sigmoid"]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearForm:
    """Probabilities as ``link(X @ weights + bias)``.

    Parameters
    ----------
    weights
        (D, S) float64: S is one with the link ``sigmoid``, else the number of classes.
    bias
        (S,) float64.
    """

    weights: np.ndarray
    bias: np.ndarray
    link: Link

    def on_scaled(self, scale: np.ndarray, offset: np.ndarray) -> LinearForm:
        """Return the form for raw `X` of one that was fitted to ``X * scale + offset``."""
        return LinearForm(
            self.weights * np.broadcast_to(scale, len(self.weights))[:, None],
            self.bias + np.broadcast_to(offset, len(self.weights)) @ self.weights,
            self.link,
        )


def linear_form(estimator: Any) -> LinearForm | None:
    """Return the exact linear form of a fitted classifier's probabilities, None where it has none.

    Subclasses are not taken for their parents: they may predict otherwise.
    """
    find = _FORMS.get(type(estimator))
    return None if find is None else find(estimator)


def _columns(weights: np.ndarray, bias: np.ndarray, *, several: Link) -> LinearForm:
    """Return the form of `coef_` (1 or K, D) and `intercept_`: with two classes, a sigmoid."""
    link: Link = "sigmoid" if len(weights) == 1 else several
    return LinearForm(
        np.asarray(weights, np.float64).T, np.broadcast_to(bias, len(weights)).astype(float), link
    )


def _logistic(model: Any) -> LinearForm | None:
    # liblinear has no multinomial loss, and an older scikit-learn could be told to leave it out.
    multinomial = getattr(model, "multi_class", "auto") in ("auto", "deprecated", "multinomial")
    several: Link = "softmax" if multinomial and model.solver != "liblinear" else "shared-sigmoid"
    return _columns(model.coef_, model.intercept_, several=several)


def _discriminant(model: Any) -> LinearForm | None:
    return _columns(model.coef_, model.intercept_, several="softmax")


def _sgd(model: Any) -> LinearForm | None:
    if model.loss != "log_loss":
        return None
    return _columns(model.coef_, model.intercept_, several="shared-sigmoid")


def _calibrated(model: Any) -> LinearForm | None:
    """Platt's sigmoids on one linear classifier. With an ensemble it is a mean of several forms."""
    if model.method != "sigmoid" or len(model.calibrated_classifiers_) != 1:
        return None
    fitted = model.calibrated_classifiers_[0]
    scores = _linear_scores(fitted.estimator)
    if scores is None:
        return None
    # sklearn.calibration._SigmoidCalibration: p = 1 / (1 + exp(a * score + b)).
    a = np.array([one.a_ for one in fitted.calibrators], np.float64)
    b = np.array([one.b_ for one in fitted.calibrators], np.float64)
    weights, bias = scores
    return _columns(-(weights * a[:, None]), -(bias * a + b), several="shared-sigmoid")


def _linear_scores(model: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (1 or K, D) and (1 or K,) of a fitted classifier whose decisions are linear."""
    if isinstance(model, Pipeline):
        last = _linear_scores(model[-1])
        scaling = _scaling(model[:-1])
        if last is None or scaling is None:
            return None
        weights, bias = last
        scale, offset = scaling
        return weights * scale, bias + weights @ np.broadcast_to(offset, weights.shape[1])
    if type(model).decision_function not in _LINEAR_SCORES:
        return None
    weights = np.atleast_2d(np.asarray(model.coef_, np.float64))  # ridge: (D,) of two classes
    return weights, np.broadcast_to(model.intercept_, len(weights)).astype(np.float64)


def _nearest_centroid(model: Any) -> LinearForm | None:
    """Softmax of minus the squared scaled distances plus twice the log priors.

    The square of the row itself is the same for every class and cancels in the softmax. Source:
    sklearn.neighbors.NearestCentroid.decision_function.
    """
    if model.metric != "euclidean" or not hasattr(model, "within_class_std_dev_"):
        return None
    centroids = np.asarray(model.centroids_, np.float64)
    deviation = np.asarray(model.within_class_std_dev_, np.float64)
    scale = np.divide(1.0, deviation, out=np.ones_like(deviation), where=deviation != 0)
    scaled = centroids * scale
    bias = 2 * np.log(model.class_prior_) - np.square(scaled).sum(axis=1)
    return LinearForm((2 * scaled * scale).T, bias, "softmax")


def _pipeline(model: Any) -> LinearForm | None:
    form = linear_form(model[-1])
    scaling = _scaling(model[:-1])
    return None if form is None or scaling is None else form.on_scaled(*scaling)


def _scaling(steps: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the (scale, offset) by which a row of scalers turns X into ``X * scale + offset``."""
    scale, offset = np.ones(1), np.zeros(1)
    for step in steps:
        if step is None or step == "passthrough":
            continue
        found = _one_scaling(step)
        if found is None:
            return None
        scale, offset = scale * found[0], offset * found[0] + found[1]
    return scale, offset


def _one_scaling(step: Any) -> tuple[np.ndarray, np.ndarray] | None:
    if type(step) is StandardScaler:
        scale = 1 / np.asarray(1.0 if step.scale_ is None else step.scale_, np.float64)
        mean = np.asarray(step.mean_ if step.with_mean else 0.0, np.float64)
        return np.atleast_1d(scale), np.atleast_1d(-mean * scale)
    if type(step) is MaxAbsScaler:
        return 1 / np.asarray(step.scale_, np.float64), np.zeros(1)
    if type(step) is MinMaxScaler and not step.clip:
        return np.asarray(step.scale_, np.float64), np.asarray(step.min_, np.float64)
    return None


_FORMS: dict[type, Callable[[Any], LinearForm | None]] = {
    CalibratedClassifierCV: _calibrated,
    LinearDiscriminantAnalysis: _discriminant,
    LogisticRegression: _logistic,
    LogisticRegressionCV: _logistic,
    NearestCentroid: _nearest_centroid,
    Pipeline: _pipeline,
    SGDClassifier: _sgd,
}
