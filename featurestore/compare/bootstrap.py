"""Sampling error of every metric: the paired bootstrap over the images of one split.

SciPy draws the resamples; one resample is how often each image came, and it is the same for every
run, so differences of runs are paired. Metrics are computed from those counts for many resamples
at once, which SciPy and scikit-learn do not have: that is the code here. It is held to
`featurestore.training.evaluation.score` on explicit resamples in the tests.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import sparse
from scipy.stats import DegenerateDataWarning, bootstrap

from featurestore.training.evaluation import CALIBRATION_BINS, METRICS

# Counts of one batch of resamples: 2 MiB in float64, so that a batch stays in the cache.
_BATCH_VALUES = 2**18

# Rows times classes up to which ROC AUC is resampled: about 10 s and 100 MB for 5,000 resamples.
_MOST_RANKED = 2 * 10**6

# (N, B) float64 counts -> (B,), or (metrics, B)
_Score = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int, int], None]
"""Told runs done and runs in all."""


@dataclasses.dataclass(frozen=True, eq=False)
class Resampled:
    """The metrics of several runs on the split and on the same resamples of it.

    Parameters
    ----------
    values
        (runs, metrics) float64, of the split itself; NaN where a metric is not defined.
    draws
        (runs, metrics, resamples) float64; NaN where a metric is not defined on a resample.
    """

    values: np.ndarray
    draws: np.ndarray


def resample_metrics(
    labels: np.ndarray,
    probabilities: Sequence[np.ndarray],
    *,
    resamples: int,
    seed: int,
    progress: Progress | None = None,
) -> Resampled:
    """Return the metrics of `METRICS`, in that order, on resamples of the rows.

    Parameters
    ----------
    labels
        (N,) int64.
    probabilities
        For each run (N, n_classes), rows as in `labels`.

    Notes
    -----
    On a resample that lacks a class, metrics are what `score` gives for a split that lacks it:
    balanced accuracy and macro F1 over the classes that are there. ROC AUC is the mean over the
    classes that are there too, where `score` gives None; with two classes it is not defined. Where
    the split itself lacks a class, it is not defined on any resample, nor where there is more of
    it than `resamples_roc_auc` allows.

    Memory beyond the draws is that of one run.
    """
    rows = len(labels)
    values = np.empty((len(probabilities), len(METRICS)))
    draws = np.empty((*values.shape, resamples))
    # Run by run, for the sums and ranks of one run may take as much as its probabilities several
    # times; the same seed draws the same resamples again.
    for run, each in enumerate(probabilities):
        if progress is not None:
            progress(run, len(probabilities))
        sums, area = _sums(labels, each), _roc_auc(labels, each)
        values[run] = _scores(sums, area, np.ones((rows, 1)))[:, 0]
        if not resamples_roc_auc(rows, each.shape[1]):
            area = _undefined
        draws[run] = _draws(functools.partial(_scores, sums, area), rows, resamples, seed)
    return Resampled(values, draws)


def resamples_roc_auc(rows: int, n_classes: int) -> bool:
    """Whether ROC AUC is resampled: of 20,000 rows and 1,000 classes that took 110 s for a run."""
    return rows * n_classes <= _MOST_RANKED


def _draws(score: _Score, rows: int, resamples: int, seed: int) -> np.ndarray:
    """Return (metrics, resamples)."""

    def statistic(indices: np.ndarray, axis: int) -> np.ndarray:
        return score(_counts(indices, rows))

    with warnings.catch_warnings():
        # Of SciPy's own intervals, which nobody reads: a metric that is not defined has none.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found: np.ndarray = bootstrap(
            (np.arange(rows),),
            statistic,
            n_resamples=resamples,
            batch=max(1, _BATCH_VALUES // rows),
            vectorized=True,
            axis=-1,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    return found


def _scores(sums: _Score, area: _Score, counts: np.ndarray) -> np.ndarray:
    """Return (metrics, B) of (N, B) counts: SciPy wants the resamples on the last axis."""
    return np.insert(sums(counts), METRICS.index("roc_auc"), area(counts), axis=0)


def _undefined(counts: np.ndarray) -> np.ndarray:
    return np.full(counts.shape[1], np.nan)


def _counts(indices: np.ndarray, rows: int) -> np.ndarray:
    """Turn (B, n) drawn rows into (rows, B) counts."""
    batch = len(indices)
    cells = indices + rows * np.arange(batch)[:, None]
    counted = np.bincount(cells.ravel(), minlength=batch * rows).reshape(batch, rows)
    return np.ascontiguousarray(counted.T, dtype=np.float64)


def _sums(labels: np.ndarray, probabilities: np.ndarray) -> _Score:
    """Return the function of counts that gives one run's metrics but ROC AUC, in their order.

    They are made of sums over rows, taken as one sparse product: how often each class is the label,
    is predicted, and is both; the log loss; each bin's confidence less its accuracy.
    """
    rows, n_classes = probabilities.shape
    each = np.arange(rows)
    predicted = probabilities.argmax(axis=1)
    right = predicted == labels
    given = probabilities[each, labels].astype(np.float64)
    least = float(np.finfo(np.float32).eps)
    losses = -np.log(np.clip(given, least, 1 - least))
    confidence = probabilities.max(axis=1).astype(np.float64)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    sums = [
        _summing(labels, np.ones(rows), n_classes),
        _summing(predicted, np.ones(rows), n_classes),
        _summing(labels, right, n_classes),
        _summing(np.zeros(rows, np.int64), losses, 1),
        _summing(bins, confidence - right, CALIBRATION_BINS),
    ]
    weights = sparse.vstack(sums, format="csr")
    ends = np.cumsum([matrix.shape[0] for matrix in sums])[:-1]

    def scores(counts: np.ndarray) -> np.ndarray:
        labelled, answered, both, loss, gaps = np.split(weights @ counts, ends)
        drawn = labelled.sum(axis=0)
        found = {
            "accuracy": both.sum(axis=0) / drawn,
            "balanced_accuracy": _mean_of_defined(both, labelled),
            "macro_f1": _mean_of_defined(2 * both, labelled + answered),
            "log_loss": loss[0] / drawn,
            "expected_calibration_error": np.abs(gaps).sum(axis=0) / drawn,
        }
        return np.stack([found[name] for name in METRICS if name in found])

    return scores


def _summing(groups: np.ndarray, values: np.ndarray, n_groups: int) -> sparse.csr_array:
    """Return the (n_groups, N) matrix that sums `values` of counted rows by group."""
    return sparse.csr_array(
        (values.astype(np.float64), (groups, np.arange(len(groups)))),
        shape=(n_groups, len(groups)),
    )


def _mean_of_defined(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Return (B,) means of (K, B) ratios over those whose denominator is not zero."""
    ratios = np.divide(
        numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0
    )
    defined = (denominators > 0).sum(axis=0)
    means: np.ndarray = np.divide(
        ratios.sum(axis=0), defined, out=np.full(ratios.shape[1], np.nan), where=defined > 0
    )
    return means


def _roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> _Score:
    """Return the function of counts that gives ROC AUC, (B,).

    It is the share of pairs of a row of the class and a row of another in which the first has the
    larger probability, ties counting half (the Mann-Whitney statistic). With more than two classes
    it is the mean over the classes, as in `score`.
    """
    n_classes = probabilities.shape[1]
    if len(np.unique(labels)) < n_classes:
        return _undefined
    classes = [1] if n_classes == 2 else range(n_classes)

    def rank() -> Iterable[_Ranked]:
        return (_Ranked.of(probabilities[:, k], labels == k) for k in classes)

    kept = [*rank()] if resamples_roc_auc(*probabilities.shape) else None

    def area(counts: np.ndarray) -> np.ndarray:
        ranked = rank() if kept is None else kept
        won, pairs = zip(*(one.pairs(counts) for one in ranked), strict=True)
        return _mean_of_defined(np.stack(won), np.stack(pairs))

    return area


@dataclasses.dataclass(frozen=True, eq=False)
class _Ranked:
    """One class against the rest.

    The other rows, by rising score, are cut where a row of the class falls. Summing each piece as
    a sparse product and only then adding up the pieces took a fifth of the time of adding up row
    by row (1,000 rows of 10 classes).
    """

    own: np.ndarray
    pieces: sparse.csr_array
    below: np.ndarray
    not_above: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, is_class: np.ndarray) -> _Ranked:
        own, others = np.flatnonzero(is_class), np.flatnonzero(~is_class)
        others = others[np.argsort(scores[others])]
        below, not_above = (
            np.searchsorted(scores[others], scores[own], side=side) for side in ("left", "right")
        )
        cuts = np.unique([below, not_above])
        piece = np.searchsorted(cuts, np.arange(len(others)), side="right")
        pieces = sparse.csr_array(
            (np.ones(len(others)), (piece, others)), shape=(len(cuts) + 1, len(scores))
        )
        return cls(own, pieces, np.searchsorted(cuts, below), np.searchsorted(cuts, not_above))

    def pairs(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs won by the class, ties half, and all pairs: both (B,)."""
        own = counts[self.own]
        summed = np.cumsum(self.pieces @ counts, axis=0)  # entry s: others before cut s
        won = np.einsum("nb,nb->b", own, summed[self.below] + summed[self.not_above]) / 2
        return won, own.sum(axis=0) * summed[-1]
