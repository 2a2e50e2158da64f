"""Probabilities for classifiers that only give scores, fitted by cross-validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold

from featurestore.errors import InvalidInput
from featurestore.training.sklearn_model import random_state

FOLDS = 5


def calibrated(
    estimator: Any, y: np.ndarray, *, head: str, folds: int, seed: int
) -> tuple[Any, tuple[str, ...]]:
    """Return an unfitted classifier that fits `estimator` and a sigmoid of its score, and notes.

    The sigmoid is fitted to the scores that each row gets from a fit without its fold; the
    estimator that is kept is fitted to all rows. With more than two classes each has a sigmoid
    against the rest, and they are divided by their sum.
    Source: Platt (1999), Probabilistic outputs for support vector machines.

    Raises
    ------
    InvalidInput
        A class has one row only.
    """
    counts = np.bincount(y)
    least = int(counts.argmin())
    if counts[least] < 2:
        raise InvalidInput(
            f"head {head}: expected at least two training rows of each class, to fit probabilities "
            f"by cross-validation; found {counts[least]} of class number {least}",
            next_step="add images of that class, or use --head logistic, which needs one",
        )
    notes: tuple[str, ...] = ()
    if counts[least] < folds:
        notes = (
            f"head {head}: {counts[least]} folds instead of {folds}: class number {least} has "
            f"{counts[least]} training rows",
        )
        folds = int(counts[least])
    return (
        CalibratedClassifierCV(
            estimator,
            method="sigmoid",
            cv=StratifiedKFold(folds, shuffle=True, random_state=random_state(seed)),
            ensemble=False,
        ),
        notes,
    )
