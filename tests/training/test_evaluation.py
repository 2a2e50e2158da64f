"""Numbers of a split, held to scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from featurestore.training.evaluation import (
    METRICS,
    Predictions,
    calibration_error,
    score,
    seconds_per_row,
)


def random_predictions(n_classes, *, rows=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % n_classes)
    logits = rng.normal(size=(rows, n_classes)) + np.eye(n_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = np.array([f"{i}.jpg" for i in range(rows)])
    return Predictions(ids, labels, probabilities.astype(np.float32))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_score_is_scikit_learns(n_classes):
    given = random_predictions(n_classes)
    predicted = given.probabilities.argmax(axis=1)
    scores = given.probabilities[:, 1] if n_classes == 2 else given.probabilities
    expected = {
        "accuracy": metrics.accuracy_score(given.labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(given.labels, predicted),
        "macro_f1": metrics.f1_score(given.labels, predicted, average="macro"),
        "roc_auc": metrics.roc_auc_score(given.labels, scores, multi_class="ovr"),
        "log_loss": metrics.log_loss(given.labels, given.probabilities),
    }
    found = dict(score(given))
    assert tuple(found) == METRICS
    del found["expected_calibration_error"]
    assert found == pytest.approx(expected, rel=1e-6)
    assert 0.4 < found["accuracy"] < 0.95


@pytest.mark.filterwarnings("error")
def test_class_without_rows():
    given = random_predictions(3)
    some = given.labels != 2
    found = score(
        Predictions(given.sample_ids[some], given.labels[some], given.probabilities[some])
    )
    assert found["roc_auc"] is None
    predicted = given.probabilities[some].argmax(axis=1)
    recalls = [np.mean(predicted[given.labels[some] == k] == k) for k in (0, 1)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_log_loss_of_a_certain_mistake_is_finite():
    certain = Predictions(np.array(["a"]), np.array([0]), np.array([[0, 1]], np.float32))
    found = score(certain)
    assert found["log_loss"] == pytest.approx(15.94, abs=0.01)
    assert (found["accuracy"], found["expected_calibration_error"]) == (0.0, 1.0)


def test_calibration_error_by_hand():
    # Two bins: 0.9 twice, one right: gap 0.4; 0.6 twice, both right: gap 0.4. Certain rows fit.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [1, 0], [0, 1]])
    labels = np.array([0, 1, 1, 1, 0, 1])
    assert calibration_error(labels, probabilities) == pytest.approx((2 * 0.4 + 2 * 0.4) / 6)


def test_calibrated_probabilities_have_a_small_error():
    rng = np.random.default_rng(3)
    p = rng.uniform(size=200_000)
    labels = (rng.uniform(size=len(p)) < p).astype(np.int64)
    assert calibration_error(labels, np.stack([1 - p, p], axis=1)) < 0.01
    assert calibration_error(1 - labels, np.stack([1 - p, p], axis=1)) > 0.4


def test_seconds_per_row_counts_no_reading():
    class Slow:
        feature_shape = (4,)

        def __len__(self):
            return 10

        def read(self, start, stop):
            import time

            time.sleep(0.2)
            return np.zeros((stop - start, 4), np.float32)

    class Instant:
        def predict_proba(self, X):
            return np.full((len(X), 2), 0.5, np.float32)

    assert 0 < seconds_per_row(Instant(), Slow()) < 0.01
