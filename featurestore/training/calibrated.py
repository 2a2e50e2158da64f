"""Probabilities for classifiers that only give scores, fitted by cross-validation."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.validation import has_fit_parameter

from featurestore.training.folds import possible_folds
from featurestore.training.sklearn_model import FlatRows, fit_estimator, random_state

FOLDS = 5


def calibrated(
    estimator: Any, y: np.ndarray, *, head: str, folds: int, seed: int
) -> tuple[Any, tuple[str, ...]]:
    """Return a classifier that `fit_calibrated` fits with a sigmoid of its score, and notes.

    `y` are the labels of the images. The sigmoid is fitted to the scores that each row gets from a
    fit without its fold; the estimator that is kept is fitted to all rows. With more than two
    classes each has a sigmoid against the rest, and they are divided by their sum.
    Source: Platt (1999), Probabilistic outputs for support vector machines.

    Raises
    ------
    InvalidInput
        A class has one row only.
    """
    possible, notes = possible_folds(
        y, asked=folds, head=head, instead="use --head logistic, which needs one"
    )
    return (
        CalibratedClassifierCV(
            estimator,
            method="sigmoid",
            cv=StratifiedKFold(possible, shuffle=True, random_state=random_state(seed)),
            ensemble=False,
        ),
        notes,
    )


def fit_calibrated(
    head: str, model: Any, rows: FlatRows, *, of_images: np.ndarray | None = None
) -> tuple[str, ...]:
    """Fit what `calibrated` returned in place, and return what it warned of.

    A fold holds out images with all of their views, and gives scores of the images themselves: the
    folds, and the rows of the sigmoid, are those without views.

    Parameters
    ----------
    of_images
        (images,) what each counts, in the fit and in the sigmoid; None is 1.

    Raises
    ------
    InvalidInput
        scikit-learn refuses the parameters or the rows.
    """
    if rows.versions == 1:
        return fit_estimator(head, model, rows.X, rows.y, sample_weight=of_images)
    estimator = model.estimator
    model.set_params(estimator=_OfVersions(estimator, rows))
    numbers = np.arange(rows.images)[:, None]
    notes = fit_estimator(head, model, numbers, rows.image_labels, sample_weight=of_images)
    (fitted,) = model.calibrated_classifiers_
    fitted.estimator = fitted.estimator.fitted_
    model.set_params(estimator=estimator)
    model.n_features_in_ = rows.X.shape[1]
    return notes


class _OfVersions(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # untyped
    """Fits an estimator to images with all their views, and gives the scores of images alone.

    For scikit-learn's cross-validation, whose parts are images: they are given by number, (n, 1).
    """

    def __init__(self, estimator: Any, rows: FlatRows) -> None:
        self.estimator = estimator
        self.rows = rows

    def __sklearn_clone__(self) -> _OfVersions:
        return _OfVersions(clone(self.estimator), self.rows)  # without a copy of the rows

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Self:
        """Fit to every version of the images; each counts (n,), or once."""
        rows = self.rows
        wanted = np.concatenate([X[:, 0] + v * rows.images for v in range(rows.versions)])
        weights = {}
        if has_fit_parameter(self.estimator, "sample_weight"):
            counted = np.ones(len(X)) if sample_weight is None else sample_weight
            weights["sample_weight"] = np.tile(counted, rows.versions) / rows.versions
        self.fitted_ = clone(self.estimator).fit(rows.X[wanted], rows.y[wanted], **weights)
        self.classes_ = self.fitted_.classes_
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the classes of the images themselves: scikit-learn asks that there be such."""
        classes: np.ndarray = self.fitted_.predict(self.rows.X[X[:, 0]])
        return classes

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return the scores of the images themselves."""
        scores: np.ndarray = self.fitted_.decision_function(self.rows.X[X[:, 0]])
        return scores
