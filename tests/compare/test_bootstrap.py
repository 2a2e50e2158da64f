"""Metrics from counts against `score` on explicit resamples, and the pairing of resamples."""

import tracemalloc

import numpy as np
import pytest
from made_runs import noisy
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import roc_auc_score

from featurestore.compare import bootstrap
from featurestore.compare.bootstrap import resample_metrics
from featurestore.compare.statistics import percentile_interval
from featurestore.training.evaluation import METRICS, Predictions, score


@pytest.fixture
def drawn(monkeypatch):
    """The rows of each resample, as the metrics were given them."""
    indices = []
    counts = bootstrap._counts

    def recorded(drawn, rows):
        indices.extend(drawn)
        return counts(drawn, rows)

    monkeypatch.setattr(bootstrap, "_counts", recorded)
    return indices


def split(rows, *, n_classes, seed=0):
    labels = np.random.default_rng(seed).integers(0, n_classes, rows)
    return labels, noisy(labels, n_classes=n_classes, seed=seed + 1, skill=1.0)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("decimals", [1, 7], ids=["tied", "untied"])
def test_metrics_are_those_of_the_resampled_rows(drawn, n_classes, decimals):
    labels, probabilities = split(150, n_classes=n_classes)
    probabilities = np.round(probabilities, decimals)
    found = resample_metrics(labels, [probabilities], resamples=40, seed=5)
    assert len(drawn) == 40
    everything = np.arange(len(labels))
    resampled = zip(drawn, found.draws[0].T, strict=True)
    for indices, values in ((everything, found.values[0]), *resampled):
        expected = score(Predictions(indices, labels[indices], probabilities[indices]))
        np.testing.assert_allclose(values, [expected[name] for name in METRICS], rtol=1e-9)


def test_a_resample_without_a_class(drawn):
    """Metrics over the classes that are there, as `score` has them for such a split; ROC AUC too,
    which `score` leaves out."""
    labels, probabilities = split(30, n_classes=3)
    labels[labels == 2] = 0
    labels[0] = 2
    found = resample_metrics(labels, [probabilities], resamples=60, seed=0)
    lacking = [i for i, indices in enumerate(drawn) if 0 not in indices]
    assert 5 < len(lacking) < 40
    auc = METRICS.index("roc_auc")
    for i in lacking:
        rows = drawn[i]
        expected = score(Predictions(rows, labels[rows], probabilities[rows]))
        assert expected.pop("roc_auc") is None
        np.testing.assert_allclose(np.delete(found.draws[0, :, i], auc), [*expected.values()])
        areas = [roc_auc_score(labels[rows] == k, probabilities[rows, k]) for k in (0, 1)]
        assert found.draws[0, auc, i] == pytest.approx(np.mean(areas))


def test_two_classes_of_which_a_resample_lacks_one(drawn):
    labels, probabilities = split(20, n_classes=2)
    labels[:] = 0
    labels[3] = 1
    found = resample_metrics(labels, [probabilities], resamples=60, seed=0)
    areas = found.draws[0, METRICS.index("roc_auc")]
    lacking = np.array([3 not in indices for indices in drawn])
    assert lacking.any() and np.array_equal(np.isnan(areas), lacking)
    assert percentile_interval(areas) is None


def test_a_split_without_a_class():
    labels, probabilities = split(40, n_classes=3)
    labels[labels == 2] = 0
    found = resample_metrics(labels, [probabilities], resamples=20, seed=0)
    undefined = [
        name for name, value in zip(METRICS, found.values[0], strict=True) if value != value
    ]
    assert undefined == ["roc_auc"]
    assert np.isnan(found.draws[0, METRICS.index("roc_auc")]).all()
    assert not np.isnan(np.delete(found.draws[0], METRICS.index("roc_auc"), axis=0)).any()


def test_the_interval_of_accuracy_is_scipys():
    labels, probabilities = split(200, n_classes=3)
    right = (probabilities.argmax(axis=1) == labels).astype(float)
    expected = scipy_bootstrap(
        (right,),
        np.mean,
        n_resamples=3000,
        batch=bootstrap._BATCH_VALUES // 200,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval
    found = resample_metrics(labels, [probabilities], resamples=3000, seed=7)
    interval = percentile_interval(found.draws[0, METRICS.index("accuracy")])
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_resamples_are_the_same_for_every_run():
    """So equal runs differ by nothing, and like runs by less than runs on other images would."""
    labels, probabilities = split(300, n_classes=2)
    near = probabilities.copy()
    near[:6] = near[:6, ::-1]
    found = resample_metrics(labels, [probabilities, probabilities, near], resamples=500, seed=1)
    np.testing.assert_array_equal(found.draws[0], found.draws[1])
    other = resample_metrics(labels, [near], resamples=500, seed=2)
    paired = percentile_interval(found.draws[0, 0] - found.draws[2, 0])
    unpaired = percentile_interval(found.draws[0, 0] - other.draws[0, 0])
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_the_seed_decides():
    labels, probabilities = split(50, n_classes=2)
    first, again, other = (
        resample_metrics(labels, [probabilities], resamples=20, seed=seed).draws
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def peak_bytes(labels, probabilities, *, resamples):
    tracemalloc.start()
    resample_metrics(labels, probabilities, resamples=resamples, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_that_of_a_batch():
    """20,000 rows x 300 resamples of counts are 48 MB; a batch of them is 2."""
    labels, probabilities = split(20_000, n_classes=3)
    assert peak_bytes(labels, [probabilities] * 2, resamples=300) < 30e6


def test_memory_does_not_grow_with_runs():
    """The ranks of one run of 40 classes are about 10 MB; of six, all at once, they were 60."""
    labels, probabilities = split(4000, n_classes=40)
    one, six = (peak_bytes(labels, [probabilities] * n, resamples=20) for n in (1, 6))
    assert six < 1.5 * one


def test_of_many_rows_and_classes_roc_auc_is_not_resampled(monkeypatch):
    labels, probabilities = split(3000, n_classes=50)
    whole = resample_metrics(labels, [probabilities], resamples=20, seed=0)
    monkeypatch.setattr(bootstrap, "_MOST_RANKED", 3000 * 50 - 1)
    found = resample_metrics(labels, [probabilities], resamples=20, seed=0)
    np.testing.assert_array_equal(found.values, whole.values)
    area = METRICS.index("roc_auc")
    assert np.isnan(found.draws[0, area]).all()
    np.testing.assert_array_equal(
        np.delete(found.draws[0], area, axis=0), np.delete(whole.draws[0], area, axis=0)
    )
    few = peak_bytes(labels, [probabilities], resamples=20)
    monkeypatch.undo()
    assert few < 0.6 * peak_bytes(labels, [probabilities], resamples=20)


def test_progress_counts_runs():
    labels, probabilities = split(30, n_classes=2)
    told = []
    resample_metrics(
        labels, [probabilities] * 3, resamples=10, seed=0, progress=lambda *n: told.append(n)
    )
    assert told == [(0, 3), (1, 3), (2, 3)]
