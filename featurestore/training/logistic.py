"""The logistic head: scikit-learn's logistic regression, its optimum found by a solver of ours."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.linear_model import LogisticRegression

from featurestore.training.contract import FitOptions, Rows
from featurestore.training.logistic_solver import Problem, share, solve, solver_bytes
from featurestore.training.penalty_path import C_GRID, choose_c, row_weights
from featurestore.training.settings import LogisticSettings
from featurestore.training.sklearn_model import BLOCK_ROWS, FlatRows, SklearnHead
from featurestore.training.spread import require_spread

# Bound on the relative distance of the coefficients from the optimum.
_TOLERANCE = 1e-5
_COEFFICIENT_ARRAYS = 4  # of the size of the coefficients, alive while they are mapped back


class LogisticHead(SklearnHead[LogisticSettings]):
    """Multinomial logistic regression, L2, on flattened features.

    The features are centred and scaled only while the optimum is sought; `model_` is an ordinary
    `LogisticRegression` for the features as they are, with the `C` that belongs to them (with
    `standardise`, that belongs to them standardised). The seed draws the folds of a tuning; a tuned
    fit equals that with the chosen `c`.
    """

    def fit(self, train: Rows, validation: Rows | None, *, options: FitOptions) -> Self:
        """Find the optimum. Warns `NotConverged`, and notes it, where it was not reached.

        Raises
        ------
        InvalidInput
            All rows are equal; the split needs more memory than allowed; a class has too few rows
            to tune on.
        """
        self._choice: dict[str, object] = {}
        super().fit(train, validation, options=options)
        self.chosen_ = self._choice
        return self

    def needed_bytes(self, rows: int, columns: int, *, n_classes: int) -> int:
        """Return 8 bytes a value for the rows, with what reading or solving takes beside them.

        For N rows of D columns and K classes: 8 N D, and the larger of a block as it is stored and
        of the solver's arrays (`solver_bytes`: 8 N² where N <= D) with four of the coefficients.
        Views count as rows: 2,000 images with 6 views each of 8,192 values are 14,000 rows, more
        than columns, so there is no Gram matrix; they take 0.9 GB, which is read twice a step.
        """
        problems = len(C_GRID) * self.settings.folds if self.settings.tune else 1
        solving = solver_bytes(rows, columns, n_classes=n_classes, problems=problems)
        mapping = 8 * columns * n_classes * _COEFFICIENT_ARRAYS
        return 8 * rows * columns + max(4 * columns * min(rows, BLOCK_ROWS), solving + mapping)

    def fit_model(self, rows: FlatRows, *, options: FitOptions) -> tuple[Any, tuple[str, ...]]:
        """Return a `LogisticRegression` at the optimum, with features centred and scaled in place.

        With views, mean and variance are those of all rows: what the penalty is relative to.
        """
        settings, X = self.settings, rows.X
        offset, scale = _centre(X, standardise=settings.standardise)
        variance = float(np.vdot(X, X)) / len(X)
        require_spread(variance, rows=len(X), head=settings.head)
        X /= np.sqrt(variance)
        scale *= np.sqrt(variance)
        shared = share(X)
        c, notes = settings.c, tuple[str, ...]()
        if settings.tune:
            choice = choose_c(shared, rows, settings=settings, seed=options.seed)
            c, notes, self._choice = choice.c, choice.notes, choice.to_dict()
        problem = Problem(c, row_weights(rows, settings.class_weight))
        (solution,) = solve(
            shared, rows.y, [problem], tolerance=_TOLERANCE, max_iter=settings.max_iter
        )
        if solution.distance > _TOLERANCE:
            far = f"{solution.distance:.0e} of their norm" if solution.distance < 1 else "far"
            notes += (
                f"head logistic did not converge in {solution.iterations} iterations: its "
                f"coefficients may be {far} from the optimum",
            )
        model = LogisticRegression(
            C=c / variance,
            class_weight=None if settings.class_weight == "none" else settings.class_weight,
            max_iter=settings.max_iter,
        )
        model.classes_, model.n_features_in_ = np.arange(options.n_classes), X.shape[1]
        model.coef_ = np.ascontiguousarray(shared.coefficients(solution.point).T) / scale
        model.intercept_ = solution.intercept - model.coef_ @ offset
        model.n_iter_ = np.array([solution.iterations], np.int32)
        return model, notes

    def model_class(self) -> Any:
        """Return the class of `model_`."""
        return LogisticRegression


def _centre(X: np.ndarray, *, standardise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Centre X in place, and divide each column by its deviation where asked for.

    Returns
    -------
    What was subtracted and what was divided by, (D,).
    """
    mean = X.mean(axis=0)
    X -= mean
    deviation = np.ones(X.shape[1])
    if standardise:
        # Sums of equal float16 or float32 values are exact in float64: constant columns are zero.
        found = np.sqrt(np.einsum("ij,ij->j", X, X) / len(X))
        deviation[found > 0] = found[found > 0]
        X /= deviation
    return mean, deviation
