"""Comparing runs: who is one contender, what is refused, and which numbers come out."""

import dataclasses

import numpy as np
import pytest
from made_runs import answers, changed, made_run, noisy, trained_on
from sklearn.metrics import balanced_accuracy_score

from featurestore.compare import bootstrap
from featurestore.compare.comparison import compare
from featurestore.compare.results import Interval
from featurestore.compare.statistics import none_of
from featurestore.errors import Conflict, IntegrityError, InvalidInput, NotFound
from featurestore.testing.heads import RECIPE, MemoryFeatures, blobs
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.train import TrainOptions, train

LABELS = np.arange(100) % 2
QUICK = 200


def right(*wrong):
    found = np.ones(len(LABELS), bool)
    found[list(wrong)] = False
    return found


@pytest.fixture
def dense(tmp_path):
    return made_run(tmp_path, LABELS, answers(LABELS, right(1, 2, 3, 4)))


@pytest.fixture
def logistic(tmp_path):
    return made_run(
        tmp_path, LABELS, answers(LABELS, right(4, *range(20, 34))), settings=LogisticSettings()
    )


def test_one_run_is_held_against_chance(dense):
    found = compare([dense], resamples=QUICK)
    (contender,) = found.contenders
    assert found.pairs == ()
    assert contender.label == "dense"
    assert contender.runs == (dense,)
    assert contender.majority_share == 0.5
    assert contender.chance_share == pytest.approx(0.5)
    assert max(contender.chance_p, contender.majority_p) < 1e-9
    assert contender.seed_spread is None
    assert contender.metrics["accuracy"].value == pytest.approx(0.96)
    assert (
        contender.metrics["accuracy"].interval.low
        < 0.96
        < contender.metrics["accuracy"].interval.high
    )
    assert (contender.fit_seconds, contender.predict_us, contender.model_bytes) == (2.0, 10.0, 100)


def test_two_heads(dense, logistic):
    found = compare([dense, logistic], resamples=2000)
    assert [contender.label for contender in found.contenders] == ["dense", "logistic"]
    (pair,) = found.pairs
    assert (pair.test.only_first, pair.test.only_second) == (14, 3)
    assert pair.adjusted_p == pair.test.p_value
    assert pair.by_seed is None
    assert pair.winner == "dense"
    assert pair.difference.value == pytest.approx(0.11)
    assert 0.02 < pair.difference.interval.low < 0.05 < 0.17 < pair.difference.interval.high < 0.21
    assert found.split == "test" and found.class_names == ("cats", "dogs")
    assert set(found.probabilities) == {dense.id, logistic.id}
    assert (found.resamples, found.seed, found.notes) == (2000, 0, ())
    np.testing.assert_array_equal(found.labels, LABELS)


def test_pairs_are_corrected_for_their_number(tmp_path, dense, logistic):
    third = made_run(
        tmp_path, LABELS, answers(LABELS, right(*range(50, 60))), settings=DenseSettings(units=8)
    )
    found = compare([dense, logistic, third], resamples=QUICK)
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        ("dense", "logistic"),
        ("dense", "dense:units=8"),
        ("logistic", "dense:units=8"),
    ]
    raw = [pair.test.p_value for pair in found.pairs]
    assert min(pair.adjusted_p for pair in found.pairs) == pytest.approx(3 * min(raw))
    alone = compare([dense, logistic], resamples=QUICK).pairs[0]
    assert found.pairs[0].images_needed > alone.images_needed


def test_labels_are_unique(tmp_path):
    predictions = answers(LABELS, right(1))
    runs = [
        made_run(tmp_path, LABELS, predictions, settings=settings, shuffled_labels=shuffled)
        for settings in (DenseSettings(), DenseSettings(units=8), LogisticSettings(c=3.0))
        for shuffled in (False, True)
    ]
    found = compare(runs, resamples=QUICK)
    assert [contender.label for contender in found.contenders] == [
        "dense",
        "dense (shuffled labels)",
        "dense:units=8",
        "dense:units=8 (shuffled labels)",
        "logistic",
        "logistic (shuffled labels)",
    ]


def other_recipe(**fields):
    recipe = dataclasses.replace(RECIPE, **fields)
    return {
        "recipe": recipe.to_dict(),
        "recipe_fingerprint": recipe.fingerprint,
        "fingerprint": "a" * 64,
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (other_recipe(precision="bfloat16"), "recipe, precision is float32 and bfloat16"),
        (other_recipe(size=(96, 96)), "recipe, size is .*150.* and .*96"),
        (
            {"manifest_fingerprint": "d" * 64, "fingerprint": "a" * 64},
            "manifest_fingerprint is eeeeeeeeeeee and dddddddddddd",
        ),
        (
            {"manifest_fingerprint": "d" * 64, "rows": {"train": 10, "test": 99}},
            "rows is train 10, test 100 and train 10, test 99",
        ),
        ({"class_names": ("cats", "wolves")}, "class_names is cats, dogs and cats, wolves"),
        ({"comparable": "a" * 64}, "comparable is ffffffffffff and aaaaaaaaaaaa"),
    ],
)
def test_other_features_are_refused_by_name(dense, logistic, changes, named):
    with pytest.raises(Conflict, match=named) as caught:
        compare([dense, changed(logistic, **changes)])
    assert dense.id in str(caught.value) and logistic.id in str(caught.value)
    assert caught.value.exit_code == 6
    assert "fs compare" in caught.value.next_step


@pytest.mark.parametrize(
    ("rows", "ids", "named"),
    [
        (LABELS, [f"other/{i}" for i in range(100)], "sample_ids.*100 rows, first in row 0"),
        (np.where(np.arange(100) == 7, 1 - LABELS, LABELS), None, "labels.*1 row, first in row 7"),
        (LABELS[:90], None, "sample_ids.*100 and 90 rows"),
    ],
)
def test_other_test_rows_are_refused_by_name(tmp_path, dense, rows, ids, named):
    arguments = {} if ids is None else {"sample_ids": ids}
    other = made_run(
        tmp_path,
        rows,
        answers(rows, np.ones(len(rows), bool)),
        settings=LogisticSettings(),
        **arguments,
    )
    with pytest.raises(Conflict, match=named):
        compare([dense, other])


def test_what_else_is_refused(tmp_path, dense):
    with pytest.raises(InvalidInput, match="at least one run"):
        compare([])
    with pytest.raises(InvalidInput, match="at least 100"):
        compare([dense], resamples=10)
    with pytest.raises(NotFound, match="validation"):
        compare([dense], split="validation")
    single = made_run(tmp_path, [0], [[0.9, 0.1]])
    with pytest.raises(InvalidInput, match="at least two rows"):
        compare([single])
    dense.model_path.unlink()
    with pytest.raises(IntegrityError, match="no model file"):
        compare([dense])


def test_a_damaged_file_is_refused(dense):
    path = dense.path / "probabilities-test.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="SHA-256"):
        compare([dense])


def test_a_head_without_errors_is_not_without_doubt(tmp_path, logistic):
    perfect = made_run(tmp_path, LABELS, answers(LABELS, right()))
    found = compare([perfect, logistic], resamples=QUICK)
    assert found.contenders[0].metrics["accuracy"].interval == Interval(1 - none_of(100), 1.0)
    assert found.contenders[0].metrics["roc_auc"].value == 1.0
    assert found.contenders[0].metrics["roc_auc"].interval is None


def test_heads_that_answer_alike(tmp_path, dense):
    same = made_run(
        tmp_path, LABELS, answers(LABELS, right(1, 2, 3, 4)), settings=LogisticSettings()
    )
    (pair,) = compare([dense, same], resamples=QUICK).pairs
    assert pair.difference.value == 0
    assert pair.difference.interval == Interval(-none_of(100), none_of(100))
    assert pair.adjusted_p == 1.0 and pair.images_needed is None and pair.apart == 0
    assert pair.sentence.endswith("they get the same ones right")


def test_three_classes_of_which_the_split_has_two(tmp_path):
    labels = np.arange(60) % 2
    features = trained_on(class_names=("a", "b", "c"))
    runs = [
        made_run(
            tmp_path,
            labels,
            noisy(labels, n_classes=3, seed=seed),
            settings=settings,
            features=features,
        )
        for seed, settings in enumerate([DenseSettings(), LogisticSettings()])
    ]
    found = compare(runs, resamples=QUICK)
    metrics = found.contenders[0].metrics
    assert metrics["roc_auc"].value is None and metrics["roc_auc"].interval is None
    predicted = found.probabilities[runs[0].id].argmax(axis=1)
    recalls = [np.mean(predicted[labels == k] == k) for k in (0, 1)]
    assert metrics["balanced_accuracy"].value == pytest.approx(np.mean(recalls))
    assert metrics["balanced_accuracy"].interval is None
    assert metrics["accuracy"].interval is not None
    assert found.notes == (
        "balanced accuracy, macro F1 and ROC AUC have no interval: 30 images of a cannot tell "
        "their error",
    )


@pytest.mark.parametrize("rare", [1, 5, 49, 50])
def test_a_rare_class_leaves_means_over_classes_without_an_interval(tmp_path, rare):
    labels = np.repeat([0, 1], [250 - rare, rare])
    run = made_run(tmp_path, labels, noisy(labels, n_classes=2, seed=0))
    found = compare([run], resamples=QUICK)
    metrics = found.contenders[0].metrics
    for name in ("balanced_accuracy", "macro_f1", "roc_auc"):
        assert metrics[name].value is not None
        assert (metrics[name].interval is None) == (rare < 50)
    assert metrics["accuracy"].interval is not None and metrics["log_loss"].interval is not None
    assert any("of dogs" in note for note in found.notes) == (rare < 50)


def test_of_many_classes_roc_auc_has_no_interval_and_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "_MOST_RANKED", 599)
    labels = np.arange(200) % 3
    features = trained_on(class_names=("a", "b", "c"))
    run = made_run(tmp_path, labels, noisy(labels, n_classes=3, seed=0), features=features)
    found = compare([run], resamples=QUICK)
    metrics = found.contenders[0].metrics
    assert metrics["roc_auc"].value > 0.5 and metrics["roc_auc"].interval is None
    assert metrics["balanced_accuracy"].interval is not None
    assert found.notes == (
        "ROC AUC has no interval: 200 images of 3 classes are too many to resample it",
    )


def test_heads_stopped_by_the_compared_rows_are_noted(tmp_path):
    settings = [DenseSettings(), DenseSettings(patience=3)]
    runs = [
        made_run(
            tmp_path,
            LABELS,
            answers(LABELS, right(1)),
            settings=each,
            splits=("validation", "test"),
        )
        for each in settings
    ]
    assert compare(runs, resamples=QUICK).notes == ()
    (note,) = compare(runs, resamples=QUICK, split="validation").notes
    assert note.startswith("dense:patience=3: early stopping chose the epoch by the rows")


def test_the_calibration_error_has_no_interval(tmp_path):
    """Neither a head of some error nor one that is always sure, whose resamples all agree."""
    labels = np.arange(200) % 2
    for predictions in (noisy(labels, n_classes=2, seed=0), np.eye(2)[labels]):
        run = made_run(tmp_path, labels, predictions)
        (contender,) = compare([run], resamples=QUICK).contenders
        assert contender.metrics["expected_calibration_error"].interval is None


def test_a_rare_class_found_is_not_chance(tmp_path):
    """950 and 50 images: 40 of the rare are found at the price of 60 of the others."""
    labels = np.repeat([0, 1], [950, 50])
    right = np.ones(1000, bool)
    right[:60] = right[-10:] = False
    run = made_run(tmp_path, labels, answers(labels, right))
    (contender,) = compare([run], resamples=QUICK).contenders
    assert contender.chance_p < 1e-9 and contender.majority_p > 0.99
    assert contender.sentence.startswith(
        "dense is better than chance on 1,000 images, but is not shown to beat always answering "
        "cats: 93.0 % right"
    )
    assert not contender.is_expected(0.05)


def test_one_answer_for_every_image_is_chance_but_its_probabilities_may_rank(tmp_path):
    labels = np.repeat([0, 1], [900, 100])
    rng = np.random.default_rng(0)
    second = 0.4 * rng.random(1000) * np.where(labels == 1, 1.0, 0.7)
    run = made_run(tmp_path, labels, np.stack([1 - second, second], axis=1))
    (contender,) = compare([run], resamples=QUICK).contenders
    assert contender.chance_p == 1.0
    assert "90.0 % right, with the same answer for every image; its probabilities rank" in (
        contender.sentence
    )


@pytest.mark.parametrize("n_classes", [2, 4])
def test_shuffled_labels_are_at_chance(tmp_path, n_classes):
    rows = {
        "train": blobs(200, n_classes=n_classes, distance=1.0),
        "test": blobs(300, n_classes=n_classes, seed=2, distance=1.0),
    }
    features = MemoryFeatures(rows, tuple("abcd"[:n_classes]))
    control, real = (
        train(
            features,
            LogisticSettings(),
            cache=tmp_path,
            options=TrainOptions(shuffle_labels=shuffle),
        )
        for shuffle in (True, False)
    )
    found = compare([control, real], resamples=QUICK)
    shuffled, learned = found.contenders
    assert "logistic (shuffled labels) is not distinguishable from chance" in shuffled.sentence
    assert "logistic is better than chance" in learned.sentence
    assert shuffled.chance_p > 0.05 > learned.chance_p
    assert found.pairs[0].adjusted_p < 0.001
    assert found.contenders[1].metrics["balanced_accuracy"].value == pytest.approx(
        balanced_accuracy_score(found.labels, found.probabilities[real.id].argmax(axis=1))
    )
