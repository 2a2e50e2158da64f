"""The logistic head: scikit-learn's logistic regression, solved exactly."""

from __future__ import annotations

import math
import warnings
import zipfile
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import sklearn
import skops
import skops.io
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.training.contract import FitOptions, NotConverged, Rows, check_rows
from featurestore.training.settings import LogisticSettings

# Largest entry of the gradient at which L-BFGS stops, on features of total variance 1. Measured on
# 2,000 x 8,192: the coefficients are within 3e-4 of the optimum after 1.2 s; scikit-learn's 1e-4
# stops within 3e-2 to 1e-1.
_TOLERANCE = 1e-7


class LogisticHead:
    """Multinomial logistic regression, L2, on flattened features.

    The features are centred and scaled only while the optimum is sought; `model_` is an ordinary
    `LogisticRegression` for the features as they are, with the `C` that belongs to them.
    Fitting takes 8 bytes a value for the training split, in memory. `validation` and `seed` are not
    used: the optimum is one, and found without chance.
    """

    suffix: ClassVar[str] = ".skops"

    def __init__(self, settings: LogisticSettings) -> None:
        self.settings = settings

    def fit(self, train: Rows, validation: Rows | None, *, options: FitOptions) -> Self:
        """Find the optimum. Warns `NotConverged`, and notes it, where it was not reached.

        Raises
        ------
        InvalidInput
            All rows are equal.
        """
        stored, y = train.load()
        X = stored.reshape(len(stored), -1).astype(np.float64)
        mean = X.mean(axis=0)
        X -= mean
        variance = float(np.vdot(X, X)) / len(X)
        if variance == 0:
            raise InvalidInput(
                f"head logistic: all {len(X)} training rows have the same features",
                next_step="embed with another layer (fs embed --layer)",
            )
        scale = np.sqrt(variance)
        X /= scale
        model, trouble = _solve(X, y, c=self.settings.c, max_iter=self.settings.max_iter)
        model.coef_ = model.coef_ / scale
        model.intercept_ = model.intercept_ - model.coef_ @ mean
        model.set_params(C=self.settings.c / variance)
        notes = (f"head logistic did not converge: {trouble}",) if trouble else ()
        self._adopt(model, train.feature_shape, notes)
        for note in notes:
            warnings.warn(note, NotConverged, stacklevel=2)
        return self

    def _adopt(self, model: Any, feature_shape: tuple[int, ...], notes: tuple[str, ...]) -> None:
        self.model_ = model
        self.feature_shape_ = feature_shape
        self.n_classes_ = len(model.classes_)
        self.history_: dict[str, list[float]] = {}
        self.chosen_: dict[str, object] = {}
        self.notes_ = notes

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return (N, n_classes) float32, computed in float64."""
        if not hasattr(self, "model_"):
            raise InvalidInput("head logistic is not fitted", next_step="call fit or load first")
        check_rows(X, self.feature_shape_)
        if not len(X):
            return np.empty((0, self.n_classes_), np.float32)
        flat = X.reshape(len(X), -1).astype(np.float64)
        probabilities: np.ndarray = self.model_.predict_proba(flat)
        return probabilities.astype(np.float32)

    def save(self, path: Path) -> None:
        """Write a `.skops` file with one `LogisticRegression`."""
        skops.io.dump(self.model_, path)

    def load(self, path: Path, *, feature_shape: tuple[int, ...], n_classes: int) -> Self:
        """Read a `.skops` file that holds nothing but scikit-learn's and NumPy's own types.

        Raises
        ------
        IntegrityError
            skops cannot read it, it names other types, or it holds another estimator.
        """
        try:
            unknown = skops.io.get_untrusted_types(file=path)
            if unknown:
                raise IntegrityError(f"{path} holds types that are not trusted: {unknown}")
            model = skops.io.load(path, trusted=[])
        except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise IntegrityError(
                f"{path} is not a model that skops can read: {error}",
                next_step="train the head again",
            ) from error
        expected = (1 if n_classes == 2 else n_classes, math.prod(feature_shape))
        found = getattr(getattr(model, "coef_", None), "shape", None)
        if type(model) is not LogisticRegression or found != expected:
            raise IntegrityError(
                f"{path}: expected a LogisticRegression with coefficients {expected}, "
                f"found {type(model).__name__} with {found}",
                next_step="train the head again",
            )
        self._adopt(model, feature_shape, ())
        return self

    def versions(self) -> dict[str, str]:
        """Return the versions of scikit-learn and skops."""
        return {"scikit-learn": sklearn.__version__, "skops": skops.__version__}


def _solve(X: np.ndarray, y: np.ndarray, *, c: float, max_iter: int) -> tuple[Any, str]:
    """Return the fitted model, and what kept it from converging or an empty text."""
    model = LogisticRegression(C=c, tol=_TOLERANCE, max_iter=max_iter)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    trouble = ""
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            trouble = str(warning.message).partition("\n")[0].strip()
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return model, trouble
