"""What heads made of one split, and the numbers that pictures of it are drawn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

from featurestore.compare.grouping import check_same_features
from featurestore.compare.results import Comparison, Interval
from featurestore.training.evaluation import CALIBRATION_BINS
from featurestore.training.methods import seeded_labels
from featurestore.training.runs import Run


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """One head's answers on one split.

    Parameters
    ----------
    labels
        (N,) int64.
    probabilities
        (N, n_classes), columns in class order.
    """

    label: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def answers(self) -> np.ndarray:
        """(N,) int64: of equal probabilities the first class wins."""
        answers: np.ndarray = self.probabilities.argmax(axis=1)
        return answers


@dataclasses.dataclass(frozen=True, eq=False)
class RocCurve:
    """True against false positive rate, both ascending from 0 to 1, and the area below.

    `title` names whose curve it is.
    """

    title: str
    false_positive: np.ndarray
    true_positive: np.ndarray
    area: float


@dataclasses.dataclass(frozen=True)
class CalibrationBin:
    """Rows whose largest probability lies in one of the bins; `interval` is of the accuracy."""

    rows: int
    confidence: float
    accuracy: float
    interval: Interval


def outcomes_of_runs(runs: Sequence[Run], split: str) -> list[Outcome]:
    """Return what runs made of the same rows.

    Raises
    ------
    Conflict
        They were not trained on the same features: see `check_same_features`.
    NotFound
        One has no rows of that split.
    IntegrityError
        Its probabilities are gone or are not those that were written.
    """
    check_same_features(runs)
    outcomes = []
    for label, run in zip(seeded_labels(runs), runs, strict=True):
        found = run.predictions(split)
        outcomes.append(
            Outcome(
                label=label,
                class_names=run.features.class_names,
                labels=found.labels,
                probabilities=found.probabilities,
            )
        )
    return outcomes


def outcomes_of_comparison(comparison: Comparison) -> list[Outcome]:
    """Return what each contender's first run made of the rows that were compared on."""
    return [
        Outcome(
            label=contender.label,
            class_names=comparison.class_names,
            labels=comparison.labels,
            probabilities=comparison.probabilities[contender.runs[0].id],
        )
        for contender in comparison.contenders
    ]


def confusion_counts(outcome: Outcome) -> np.ndarray:
    """Return (n_classes, n_classes) int64: rows of each true class (row) by answer (column)."""
    n_classes = outcome.probabilities.shape[1]
    cells = outcome.labels * n_classes + outcome.answers
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def roc_curves(outcome: Outcome) -> list[RocCurve]:
    """Return the curve of the second of two classes; of more, each against the rest.

    Classes that every row or no row has are left out: they have no curve.
    """
    labels, probabilities = outcome.labels, outcome.probabilities
    columns = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    curves = []
    for column in columns:
        positive = labels == column
        if positive.any() and not positive.all():
            false_positive, true_positive, _ = roc_curve(positive, probabilities[:, column])
            area = float(roc_auc_score(positive, probabilities[:, column]))
            curves.append(
                RocCurve(outcome.class_names[column], false_positive, true_positive, area)
            )
    return curves


def mean_curve(curves: Sequence[RocCurve], *, title: str) -> RocCurve:
    """Return the mean of true positive rates at every false positive rate of any curve.

    Its area is the mean of their areas: `roc_auc` of a run's metrics where every class has rows.
    """
    grid = np.unique(np.concatenate([curve.false_positive for curve in curves]))
    rates = [_rates_at(grid, curve) for curve in curves]
    area = float(np.mean([curve.area for curve in curves]))
    return RocCurve(title, np.append(0.0, grid), np.append(0.0, np.mean(rates, axis=0)), area)


def _rates_at(grid: np.ndarray, curve: RocCurve) -> np.ndarray:
    # Where a curve rises straight up, the upper end counts: np.interp takes the last of equal x.
    rates: np.ndarray = np.interp(grid, curve.false_positive, curve.true_positive)
    return rates


def calibration_bins(outcome: Outcome) -> list[CalibrationBin | None]:
    """Return 15 bins of equal width over [0, 1], None for one without rows.

    The bins are those of `featurestore.training.evaluation.calibration_error`. Intervals are
    Wilson's, 95 %, by SciPy.
    """
    confidence = outcome.probabilities.max(axis=1).astype(np.float64)
    right = outcome.answers == outcome.labels
    numbers = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    bins: list[CalibrationBin | None] = []
    for number in range(CALIBRATION_BINS):
        mine = numbers == number
        rows = int(mine.sum())
        if not rows:
            bins.append(None)
            continue
        accuracy = binomtest(int(right[mine].sum()), rows)
        low, high = accuracy.proportion_ci(method="wilson")
        bins.append(
            CalibrationBin(
                rows,
                float(confidence[mine].mean()),
                float(accuracy.statistic),
                Interval(float(low), float(high)),
            )
        )
    return bins
