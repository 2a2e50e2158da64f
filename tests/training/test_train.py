"""Training as a whole: what is refused, what is recorded, what the test split is for."""

import numpy as np
import pytest

from featurestore.errors import InvalidInput
from featurestore.testing.heads import MemoryFeatures, MemoryRows, blobs
from featurestore.training import evaluation
from featurestore.training.heads import (
    DenseSettings,
    LogisticSettings,
    build_settings,
    create_head,
)
from featurestore.training.train import TrainOptions, train

NAMES = ("cats", "dogs")


def features(names=NAMES, **rows):
    return MemoryFeatures(rows, names)


def test_metrics_of_every_split(tmp_path):
    given = features(
        train=blobs(60, n_classes=2, distance=0.5),
        validation=blobs(30, n_classes=2, seed=1, distance=0.5),
        test=blobs(40, n_classes=2, seed=2, distance=0.5),
    )
    run = train(given, LogisticSettings(), cache=tmp_path)
    assert list(run.metrics) == ["train", "validation", "test"]
    for split, found in run.metrics.items():
        assert found == evaluation.score(run.predictions(split))
    assert 0.5 < run.metrics["test"]["accuracy"] < 1
    assert run.features.rows == {"train": 60, "validation": 30, "test": 40}
    assert run.notes == ()
    assert run.seconds["total"] >= run.seconds["fit"] > 0
    assert 0 < run.seconds["predict_per_row"] < 1
    assert run.model_path.is_file()
    assert {"python", "numpy", "featurestore", "scikit-learn", "skops"} == set(run.versions)


def test_shuffled_labels_score_at_chance(tmp_path):
    given = features(train=blobs(200, n_classes=2), test=blobs(400, n_classes=2, seed=2))
    control = train(
        given, LogisticSettings(), cache=tmp_path, options=TrainOptions(shuffle_labels=True)
    )
    assert control.shuffled_labels
    assert "shuffled" in control.notes[0]
    assert 0.35 < control.metrics["test"]["accuracy"] < 0.65
    assert control.metrics["test"]["accuracy"] < control.metrics["train"]["accuracy"]
    # The labels that were learned are not the labels that are recorded.
    np.testing.assert_array_equal(control.predictions("train").labels, given["train"].labels)
    assert train(given, LogisticSettings(), cache=tmp_path).metrics["test"]["accuracy"] > 0.9


def test_dense_run_round_trips(tmp_path):
    given = features(train=blobs(50, n_classes=2), test=blobs(20, n_classes=2, seed=2))
    settings = DenseSettings(units=8, epochs=3, learning_rate=1e-3)
    run = train(given, settings, cache=tmp_path, options=TrainOptions(seed=2))
    assert set(run.history) == {"train_loss", "train_accuracy"}
    assert len(run.history["train_loss"]) == 3
    found = run.load_head().predict_proba(given["test"].features)
    np.testing.assert_array_equal(found, run.predictions("test").probabilities)
    assert {"tensorflow", "keras"} <= set(run.versions)
    again = train(given, settings, cache=tmp_path, options=TrainOptions(seed=2))
    assert (again.metrics, again.history) == (run.metrics, run.history)
    assert again.id != run.id


@pytest.mark.parametrize("absent", ["none", "empty"])
def test_missing_splits_have_no_metrics_and_say_so(tmp_path, absent):
    rows = {"train": blobs(30, n_classes=2)}
    if absent == "empty":
        nothing = MemoryRows(np.empty((0, 2, 2, 8), np.float16), np.empty(0, np.int64))
        rows |= {"validation": nothing, "test": nothing}
    run = train(features(**rows), LogisticSettings(), cache=tmp_path)
    assert run.metrics["validation"] is None and run.metrics["test"] is None
    assert [note.split("no ")[1].split()[0] for note in run.notes] == ["validation", "test"]
    assert list(run.features.rows) == ["train"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (features(test=blobs(20, n_classes=2)), r"no rows in a train split: it has test"),
        (features(), r"it has no rows at all"),
        (features(("cats",), train=blobs(5, n_classes=1)), r"two classes, found 1: cats"),
        (
            features(("ant", "bee", "cat"), train=blobs(20, n_classes=2)),
            r"no training row of class cat\n.*fs show",
        ),
    ],
)
def test_untrainable_sets_are_refused(tmp_path, given, message):
    with pytest.raises(InvalidInput, match=message):
        train(given, LogisticSettings(), cache=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_class_missing_from_test_is_fine(tmp_path):
    test = blobs(20, n_classes=3, seed=2)
    some = MemoryRows(test.features[test.labels != 1], test.labels[test.labels != 1])
    given = features(("a", "b", "c"), train=blobs(60, n_classes=3), test=some)
    run = train(given, LogisticSettings(), cache=tmp_path)
    assert run.predictions("test").probabilities.shape[1] == 3


def test_test_split_decides_nothing(tmp_path):
    rows = {"train": blobs(50, n_classes=2), "validation": blobs(20, n_classes=2, seed=1)}
    settings = DenseSettings(units=8, epochs=2)
    runs = [
        train(features(**rows, test=blobs(20, n_classes=2, seed=seed)), settings, cache=tmp_path)
        for seed in (2, 3)
    ]
    assert runs[0].history == runs[1].history
    np.testing.assert_array_equal(
        runs[0].predictions("validation").probabilities,
        runs[1].predictions("validation").probabilities,
    )


def test_evaluation_by_blocks_is_evaluation_at_once(tmp_path, monkeypatch):
    given = features(train=blobs(50, n_classes=2), test=blobs(37, n_classes=2, seed=2))
    whole = train(given, LogisticSettings(), cache=tmp_path)
    monkeypatch.setattr(evaluation, "_BLOCK_BYTES", 5 * 4 * 32)
    blocked = train(given, LogisticSettings(), cache=tmp_path)
    np.testing.assert_allclose(
        blocked.predictions("test").probabilities,
        whole.predictions("test").probabilities,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("head", "fields", "message"),
    [
        ("dense", {"units": 0}, "units: expected at least 1, found 0"),
        ("dense", {"dropout": 1.0}, "dropout: expected at least 0 and less than 1"),
        ("dense", {"learning_rate": float("nan")}, "learning_rate: expected above 0"),
        ("logistic", {"c": float("inf")}, "c: expected above 0"),
        ("logistic", {"epochs": 3}, "no setting epochs: it has c, "),
        ("logistics", {}, "did you mean logistic"),
    ],
)
def test_bad_settings_are_refused(head, fields, message):
    with pytest.raises(InvalidInput, match=message):
        build_settings(head, fields)


def test_default_settings_build_each_head():
    for name in ("dense", "logistic"):
        assert create_head(build_settings(name, {})).settings.head == name
