"""Probabilities for classifiers that only give scores, fitted by cross-validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold

from featurestore.training.folds import possible_folds
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
