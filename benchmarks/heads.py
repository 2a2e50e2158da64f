"""What training costs against the plain way: one process, ratios of times taken side by side.

The dense head, against Keras's own `fit` of the same network; tuning C of the logistic head,
against scikit-learn's `LogisticRegressionCV` on the same folds; loading a split from each format
that the cache has the set in, against `np.load`. Run from the project's root:

    python benchmarks/heads.py CACHE FEATURE_SET [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from heads_dense import dense_against_keras
from heads_loading import loading_against_numpy
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from featurestore.features import FeatureSet, open_features
from featurestore.training.contract import FitOptions
from featurestore.training.logistic import LogisticHead
from featurestore.training.penalty_path import C_GRID, draw_folds
from featurestore.training.settings import LogisticSettings

FOLDS = 5
SEED = 0
# Largest entry of the gradient at which scikit-learn's L-BFGS stops. At its default, 1e-4, its
# coefficients are off by several per cent; at 1e-7, by less than 1e-3 at the chosen C (measured
# below), and by up to 1e-2 at the largest, where this head's are not.
TOLERANCE = 1e-7

Result = TypeVar("Result")


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """Return what a call returns, and its seconds."""
    begun = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begun


def tuning_against_scikit_learn(features: FeatureSet) -> dict[str, object]:
    """Ten values of C on five folds, and the fit with the chosen one.

    Ours is the whole fit of the head, with reading and scaling, before and after scikit-learn's;
    scikit-learn's is its `fit` alone, on features scaled beforehand.
    """
    train = features["train"]
    stored, y = train.load()
    X = stored.reshape(len(stored), -1).astype(np.float64)
    X -= X.mean(axis=0)
    scale = np.sqrt(np.vdot(X, X) / len(X))
    X /= scale

    def ours() -> LogisticHead:
        head = LogisticHead(LogisticSettings(tune=True, folds=FOLDS))
        options = FitOptions(n_classes=len(features.class_names), seed=SEED)
        return head.fit(train, None, options=options)

    held_out = draw_folds(y, folds=FOLDS, seed=SEED)
    theirs = LogisticRegressionCV(
        Cs=C_GRID,
        cv=[(np.flatnonzero(~held), np.flatnonzero(held)) for held in held_out],
        scoring="neg_log_loss",
        tol=TOLERANCE,
        max_iter=100_000,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defaults that will change in scikit-learn
        head, first = timed(ours)
        _, plain = timed(lambda: theirs.fit(X, y))
        head, second = timed(ours)
    chosen = float(np.ravel(theirs.C_)[0])
    exact = LogisticRegression(C=chosen, tol=1e-10, max_iter=100_000).fit(X, y).coef_
    coefficients = head.model_.coef_ * scale

    def distance(found: np.ndarray, expected: np.ndarray) -> float:
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    losses = -np.reshape(next(iter(theirs.scores_.values())), (FOLDS, -1)).mean(axis=0)
    seconds = max(first, second)
    numbers: dict[str, object] = {
        "rows": len(X),
        "columns": X.shape[1],
        "seconds": [first, second],
        "scikit_learn_seconds": plain,
        "scikit_learn_tolerance": TOLERANCE,
        "times_faster": plain / seconds,
        "chosen_c": [head.chosen_["c"], chosen],
        "coefficients_apart": distance(coefficients, theirs.coef_),
        "coefficients_from_optimum": distance(coefficients, exact),
        "scikit_learn_from_optimum": distance(theirs.coef_, exact),
        "largest_loss_difference": float(np.abs(losses - head.chosen_["log_loss"]).max()),
    }
    print(
        f"tuning, {len(C_GRID)} values of C x {FOLDS} folds on {len(X)} x {X.shape[1]}: "
        f"{first:.1f} and {second:.1f} s, LogisticRegressionCV (tol {TOLERANCE:g}) {plain:.1f} s: "
        f"{plain / seconds:.1f} times faster by the slower of the two\n"
        f"  chosen C {head.chosen_['c']:g} and {chosen:g}; coefficients "
        f"{numbers['coefficients_apart']:.0e} apart (norm of the difference by the norm); from the "
        f"optimum {numbers['coefficients_from_optimum']:.0e} and "
        f"{numbers['scikit_learn_from_optimum']:.0e}; log losses within "
        f"{numbers['largest_loss_difference']:.0e}",
        flush=True,
    )
    return numbers


PARTS: dict[str, Callable[[FeatureSet], dict[str, object]]] = {
    "dense": dense_against_keras,
    "tuning": tuning_against_scikit_learn,
    "loading": loading_against_numpy,
}


def main() -> None:
    """Measure, print, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("feature_set")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; all by default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    numbers = {}
    with open_features(arguments.feature_set, cache=arguments.cache) as features:
        for name in arguments.only or PARTS:
            numbers[name] = PARTS[name](features)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
