"""What a fitted head makes of a split: probabilities, and the numbers that sum them up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import numpy as np
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from featurestore.training.contract import Head, Rows, SampleRows

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "log_loss",
    "expected_calibration_error",
)
Metrics = Mapping[str, float | None]

CALIBRATION_BINS = 15
_BLOCK_BYTES = 64 * 2**20  # of features read at once while evaluating
_TIMED_CALLS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """One split's outcome, rows in the feature set's order.

    Parameters
    ----------
    sample_ids
        (N,) strings.
    labels
        (N,) int64.
    probabilities
        (N, n_classes) float32, columns in class order.
    """

    sample_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def predict(head: Head, rows: SampleRows) -> Predictions:
    """Return the head's probabilities for every row, read block by block."""
    block = _block_rows(rows)
    probabilities = [
        head.predict_proba(rows.read(start, min(start + block, len(rows))))
        for start in range(0, len(rows), block)
    ]
    return Predictions(rows.sample_ids, rows.labels, np.concatenate(probabilities))


def seconds_per_row(head: Head, rows: Rows) -> float:
    """Return the time of one row's probabilities within a block, the best of three calls.

    A call before was the first, which may compile; reading the rows is not counted.
    """
    block = rows.read(0, min(_block_rows(rows), len(rows)))
    times = []
    for _ in range(_TIMED_CALLS):
        began = time.perf_counter()
        head.predict_proba(block)
        times.append(time.perf_counter() - began)
    return min(times) / len(block)


def score(predictions: Predictions) -> Metrics:
    """Return the numbers of `METRICS` for one split. Of equal probabilities the first class wins.

    - ``balanced_accuracy``: mean recall of the classes that the split has rows of.
    - ``macro_f1``: mean F1 of the classes that are labels or predictions of some row.
    - ``roc_auc``: of the second class against the first; with more classes the mean of each against
      the rest. None where a class has no row.
    - ``log_loss``: mean of -ln p(label), with p no less than float32's epsilon, as scikit-learn's
      `log_loss` clips it.
    - ``expected_calibration_error``: see `calibration_error`.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    n_classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    least = float(np.finfo(np.float32).eps)
    present = np.unique(labels)
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": float(
            recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
        ),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "roc_auc": _roc_auc(labels, probabilities) if len(present) == n_classes else None,
        "log_loss": float(-np.log(np.clip(given, least, 1 - least)).mean()),
        "expected_calibration_error": calibration_error(labels, probabilities),
    }


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean distance of confidence from accuracy over 15 bins of equal width, in [0, 1].

    Confidence is the largest probability of a row; bins are weighted by their rows.
    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, equation 3.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    against_rest = [
        roc_auc_score(labels == k, probabilities[:, k]) for k in range(probabilities.shape[1])
    ]
    return float(np.mean(against_rest))


def _block_rows(rows: Rows) -> int:
    return max(1, _BLOCK_BYTES // (4 * int(np.prod(rows.feature_shape))))
