"""The logistic head: scikit-learn's logistic regression, its optimum found by a solver of ours."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import sklearn
import skops
import skops.io
from sklearn.linear_model import LogisticRegression

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.training.contract import FitOptions, NotConverged, Rows, check_rows
from featurestore.training.logistic_solver import Problem, share, solve, solver_bytes
from featurestore.training.penalty_path import C_GRID, choose_c, row_weights
from featurestore.training.settings import LogisticSettings

# Bound on the relative distance of the coefficients from the optimum.
_TOLERANCE = 1e-5
_READ_ROWS = 512  # at a time, beside the float64 copy
_COEFFICIENT_ARRAYS = 4  # of the size of the coefficients, alive while they are mapped back


class LogisticHead:
    """Multinomial logistic regression, L2, on flattened features.

    The features are centred and scaled only while the optimum is sought; `model_` is an ordinary
    `LogisticRegression` for the features as they are, with the `C` that belongs to them (with
    `standardise`, that belongs to them standardised). `validation` is not used. The seed draws the
    folds of a tuning; a tuned fit equals that with the chosen `c`.
    """

    suffix: ClassVar[str] = ".skops"
    chosen_: Mapping[str, object]

    def __init__(self, settings: LogisticSettings) -> None:
        self.settings = settings

    def fit(self, train: Rows, validation: Rows | None, *, options: FitOptions) -> Self:
        """Find the optimum. Warns `NotConverged`, and notes it, where it was not reached.

        For N rows of D values and K classes it takes, in bytes, 8 N D for the training split, 8 N²
        more where N <= D, and the solver's arrays: `solver_bytes`.

        Raises
        ------
        InvalidInput
            All rows are equal; the split needs more memory than allowed; a class has too few rows
            to tune on.
        """
        settings = self.settings
        _check_memory(train, options, problems=len(C_GRID) * settings.folds if settings.tune else 1)
        X, y = _load_float64(train)
        offset, scale = _standardise(X, columns=settings.standardise)
        variance = float(np.vdot(X, X)) / len(X)
        if variance == 0:
            raise InvalidInput(
                f"head logistic: all {len(X)} training rows have the same features",
                next_step="embed with another layer (fs embed --layer)",
            )
        X /= np.sqrt(variance)
        scale *= np.sqrt(variance)
        shared = share(X)
        choice = (
            choose_c(shared, y, settings=settings, seed=options.seed) if settings.tune else None
        )
        c = settings.c if choice is None else choice.c
        weights = row_weights(y, np.full(len(y), True), class_weight=settings.class_weight)
        (solution,) = solve(
            shared, y, [Problem(c, weights)], tolerance=_TOLERANCE, max_iter=settings.max_iter
        )
        model = _model(
            settings, c / variance, classes=np.arange(options.n_classes), columns=X.shape[1]
        )
        model.coef_ = np.ascontiguousarray(shared.coefficients(solution.point).T) / scale
        model.intercept_ = solution.intercept - model.coef_ @ offset
        model.n_iter_ = np.array([solution.iterations], np.int32)
        notes = () if choice is None else choice.notes
        if solution.distance > _TOLERANCE:
            notes += (
                f"head logistic did not converge in {solution.iterations} iterations: its "
                f"coefficients may be {solution.distance:.0e} of their norm from the optimum",
            )
        self._adopt(model, train.feature_shape, notes)
        self.chosen_ = {} if choice is None else choice.to_dict()
        for note in notes:
            if "did not converge" in note:
                warnings.warn(note, NotConverged, stacklevel=2)
        return self

    def _adopt(self, model: Any, feature_shape: tuple[int, ...], notes: tuple[str, ...]) -> None:
        self.model_ = model
        self.feature_shape_ = feature_shape
        self.n_classes_ = len(model.classes_)
        self.history_: dict[str, list[float]] = {}
        self.chosen_ = {}
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


def _check_memory(train: Rows, options: FitOptions, *, problems: int) -> None:
    rows, columns = len(train), math.prod(train.feature_shape)
    read = 4 * columns * min(rows, _READ_ROWS)
    mapped = 8 * columns * options.n_classes * _COEFFICIENT_ARRAYS
    solving = solver_bytes(rows, columns, n_classes=options.n_classes, problems=problems)
    needed = 8 * rows * columns + max(read, solving + mapped)
    if needed > options.memory_bytes:
        raise InvalidInput(
            f"head logistic: {rows} training rows of {columns} values need "
            f"{needed / 2**30:.2f} GiB of memory, {options.memory_bytes / 2**30:.2f} GiB allowed",
            next_step=f"--memory {math.ceil(needed / 2**20)}MiB, or --head sgd, which streams",
        )


def _load_float64(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, D) float64 and labels, never holding the stored features whole beside it."""
    X = np.empty((len(rows), math.prod(rows.feature_shape)))
    for start in range(0, len(X), _READ_ROWS):
        stop = min(start + _READ_ROWS, len(X))
        X[start:stop] = rows.read(start, stop).reshape(stop - start, -1)
    return X, rows.labels


def _standardise(X: np.ndarray, *, columns: bool) -> tuple[np.ndarray, np.ndarray]:
    """Centre X in place, and divide each column by its deviation where asked for.

    Returns
    -------
    What was subtracted and what was divided by, (D,).
    """
    mean = X.mean(axis=0)
    X -= mean
    deviation = np.ones(X.shape[1])
    if columns:
        # Sums of equal float16 or float32 values are exact in float64: constant columns are zero.
        found = np.sqrt(np.einsum("ij,ij->j", X, X) / len(X))
        deviation[found > 0] = found[found > 0]
        X /= deviation
    return mean, deviation


def _model(settings: LogisticSettings, c: float, *, classes: np.ndarray, columns: int) -> Any:
    weight = None if settings.class_weight == "none" else settings.class_weight
    model = LogisticRegression(C=c, class_weight=weight, max_iter=settings.max_iter)
    model.classes_, model.n_features_in_ = classes, columns
    return model
