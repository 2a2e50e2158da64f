"""The incremental linear head: the conformance suite, and the same fit from disk and memory."""

import numpy as np
import pytest

from featurestore.errors import InvalidInput
from featurestore.testing.heads import HeadConformance, MemoryRows, blobs
from featurestore.training import pools
from featurestore.training.contract import FitOptions
from featurestore.training.heads import build_settings, create_head

DEFAULTS = {}
ONE_BALANCED_EPOCH = {"epochs": 1, "class_weight": "balanced"}


class TestSgd(HeadConformance):
    head = "sgd"
    fields = DEFAULTS


class TestOneEpoch(HeadConformance):
    head = "sgd"
    fields = ONE_BALANCED_EPOCH


def fit(train, n_classes=2, *, validation=None, options=None, **fields):
    options = options or FitOptions(n_classes=n_classes)
    return create_head(build_settings("sgd", fields)).fit(train, validation, options=options)


class OnDisk(MemoryRows):
    """Rows that are never loaded whole, and count the most that were read at once."""

    most = 0

    def read(self, start, stop):
        OnDisk.most = max(OnDisk.most, stop - start)
        return self.features[start:stop]

    def load(self):
        raise AssertionError("the whole split was read")


@pytest.mark.parametrize("n_classes", [2, 3])
def test_fit_from_disk_equals_fit_in_memory(n_classes, monkeypatch):
    monkeypatch.setattr(pools, "_POOL_BYTES", 1)  # pools of the least size: 1,024 rows
    train = blobs(3000, n_classes=n_classes, distance=0.5)
    held = blobs(300, n_classes=n_classes, seed=5)
    budget = 1100 * 32 * 2
    OnDisk.most = 0
    streamed = fit(
        OnDisk(train.features, train.labels),
        validation=OnDisk(held.features, held.labels),
        options=FitOptions(n_classes=n_classes, seed=3, memory_bytes=budget),
        epochs=3,
    )
    whole = fit(train, validation=held, options=FitOptions(n_classes=n_classes, seed=3), epochs=3)
    assert 0 < OnDisk.most <= 1024
    np.testing.assert_array_equal(streamed.model_.coef_, whole.model_.coef_)
    np.testing.assert_array_equal(streamed.model_.intercept_, whole.model_.intercept_)
    assert streamed.history_ == whole.history_


def test_less_memory_than_a_pool_is_refused():
    with pytest.raises(InvalidInput, match="head sgd: expected memory for 200 rows"):
        fit(blobs(200, n_classes=2), options=FitOptions(n_classes=2, memory_bytes=1000))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_predictions_come_close_to_the_exact_optimum(n_classes):
    train = blobs(2000, n_classes=n_classes, distance=0.4)
    fresh = blobs(2000, n_classes=n_classes, distance=0.4, seed=9)
    options = FitOptions(n_classes=n_classes)
    exact = create_head(build_settings("logistic", {})).fit(train, None, options=options)
    near = fit(train, n_classes)
    accuracy, loss = {}, {}
    for name, head in (("exact", exact), ("near", near)):
        probabilities = head.predict_proba(fresh.features)
        accuracy[name] = np.mean(probabilities.argmax(axis=1) == fresh.labels)
        loss[name] = -np.log(probabilities[np.arange(len(fresh)), fresh.labels]).mean()
    assert accuracy["exact"] < 0.99  # or nothing would be told apart
    assert accuracy["near"] == pytest.approx(accuracy["exact"], abs=0.01)
    assert loss["near"] == pytest.approx(loss["exact"], abs=0.03)


def test_balanced_weights_raise_the_recall_of_a_rare_class():
    rows = blobs(1000, n_classes=2, distance=0.25)
    kept = np.sort(np.concatenate([np.arange(0, 1000, 2), np.arange(1, 1000, 2)[:25]]))
    train = MemoryRows(rows.features[kept], rows.labels[kept])
    fresh = blobs(600, n_classes=2, distance=0.25, seed=9)
    recall = [
        fit(train, class_weight=weight).predict_proba(fresh.features).argmax(axis=1)[1::2].mean()
        for weight in ("none", "balanced")
    ]
    assert recall[1] > recall[0] + 0.1


def test_curves_are_of_every_row():
    train, held = (
        blobs(rows, n_classes=2, distance=0.3, seed=seed) for rows, seed in ((700, 0), (100, 4))
    )
    told = []
    head = fit(
        train,
        validation=held,
        options=FitOptions(n_classes=2, progress=lambda *news: told.append(news)),
        epochs=4,
    )
    assert [(done, total) for done, total, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert told[-1][2] == {name: curve[-1] for name, curve in head.history_.items()}
    given = head.predict_proba(held.features)[np.arange(100), held.labels]
    assert head.history_["validation_loss"][-1] == pytest.approx(-np.log(given).mean(), rel=1e-4)
    assert head.history_["train_loss"][-1] < head.history_["train_loss"][0]


def test_seed_decides_the_order():
    train = blobs(200, n_classes=2, distance=0.3)
    first, other = (
        fit(train, options=FitOptions(n_classes=2, seed=seed)).model_.coef_ for seed in (0, 1)
    )
    assert np.abs(first - other).max() > 0


def test_equal_rows_are_refused():
    rows = MemoryRows(np.full((8, 3), 2.0, np.float32), np.array([0, 1] * 4))
    with pytest.raises(InvalidInput, match="same features"):
        fit(rows)
