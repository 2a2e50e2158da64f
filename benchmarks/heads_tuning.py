"""Part (b) of `heads.py`: tuning the logistic head against scikit-learn's own search."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from featurestore.features import FeatureSet
from featurestore.training.contract import FitOptions
from featurestore.training.logistic import LogisticHead
from featurestore.training.penalty_path import C_GRID, draw_folds
from featurestore.training.settings import LogisticSettings

FOLDS = 5
SEED = 0
# Largest entry of the gradient at which scikit-learn's L-BFGS stops; its default is 1e-4. Measured
# on 2,000 x 8,192 against fits at 1e-9: at 1e-7 its coefficients are right to 1e-3 at the chosen C
# and off by up to 1e-2 at the largest; at 1e-8 by up to 2e-3. Ours are within 1e-3 at every C.
TOLERANCES = (1e-7, 1e-8)

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Of one call: on the clock, and of all processors, which other work on them moves less."""

    wall: float
    processor: float


def timed(call: Callable[[], Result]) -> tuple[Result, Seconds]:
    """Return what a call returns, and its seconds."""
    begun = time.perf_counter(), time.process_time()
    result = call()
    return result, Seconds(time.perf_counter() - begun[0], time.process_time() - begun[1])


def tuning_against_scikit_learn(features: FeatureSet) -> dict[str, object]:
    """Ten values of C on five folds, and the fit with the chosen one, at two tolerances of theirs.

    Ours is the whole fit of the head, with reading and scaling, before and after scikit-learn's;
    scikit-learn's is its `fit` alone, on features scaled beforehand.
    """
    X, y = features["train"].load()
    X = X.reshape(len(X), -1).astype(np.float64)
    X -= X.mean(axis=0)
    scale = float(np.sqrt(np.vdot(X, X) / len(X)))
    X /= scale
    print(f"tuning, {len(C_GRID)} values of C x {FOLDS} folds on {len(X)} x {X.shape[1]}")
    found = [_against(features, X, y, scale=scale, tolerance=t) for t in TOLERANCES]
    return {"rows": len(X), "columns": X.shape[1], "runs": found}


def _against(
    features: FeatureSet, X: np.ndarray, y: np.ndarray, *, scale: float, tolerance: float
) -> dict[str, object]:
    def ours() -> LogisticHead:
        head = LogisticHead(LogisticSettings(tune=True, folds=FOLDS))
        options = FitOptions(n_classes=len(features.class_names), seed=SEED)
        return head.fit(features["train"], None, options=options)

    held_out = draw_folds(y, folds=FOLDS, seed=SEED)
    theirs = LogisticRegressionCV(
        Cs=C_GRID,
        cv=[(np.flatnonzero(~held), np.flatnonzero(held)) for held in held_out],
        scoring="neg_log_loss",
        tol=tolerance,
        max_iter=100_000,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defaults that will change in scikit-learn
        _, first = timed(ours)
        _, plain = timed(lambda: theirs.fit(X, y))
        head, second = timed(ours)
    chosen = float(np.ravel(theirs.C_)[0])
    exact = LogisticRegression(C=chosen, tol=1e-10, max_iter=100_000).fit(X, y).coef_
    coefficients = head.model_.coef_ * scale
    losses = -np.reshape(next(iter(theirs.scores_.values())), (FOLDS, -1)).mean(axis=0)
    numbers: dict[str, object] = {
        "tolerance": tolerance,
        "seconds": [first.wall, second.wall],
        "processor_seconds": [first.processor, second.processor],
        "scikit_learn_seconds": plain.wall,
        "scikit_learn_processor_seconds": plain.processor,
        "times_faster": plain.wall / max(first.wall, second.wall),
        "times_faster_processor": plain.processor / max(first.processor, second.processor),
        "chosen_c": [head.chosen_["c"], chosen],
        "coefficients_apart": _distance(coefficients, theirs.coef_),
        "coefficients_from_optimum": _distance(coefficients, exact),
        "scikit_learn_from_optimum": _distance(theirs.coef_, exact),
        "largest_loss_difference": float(np.abs(losses - head.chosen_["log_loss"]).max()),
    }
    print(
        f"  {first.wall:.1f} and {second.wall:.1f} s, LogisticRegressionCV (tol {tolerance:g}) "
        f"{plain.wall:.1f} s: {numbers['times_faster']:.1f} times faster by the slower of the two, "
        f"{numbers['times_faster_processor']:.1f} in processor time\n"
        f"  chosen C {head.chosen_['c']:g} and {chosen:g}; coefficients "
        f"{numbers['coefficients_apart']:.0e} apart (norm of the difference by the norm); from the "
        f"optimum {numbers['coefficients_from_optimum']:.0e} and "
        f"{numbers['scikit_learn_from_optimum']:.0e}; log losses within "
        f"{numbers['largest_loss_difference']:.0e}",
        flush=True,
    )
    return numbers


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
