"""Learning curves: which rows, what they score, and what is said of it."""

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.augmentation import Augmentation
from featurestore.compare import curve_fits
from featurestore.compare.crossed import crossed_difference, crossed_share
from featurestore.compare.curve_fits import CurveOptions, learning_curve
from featurestore.compare.curve_sentences import curve_sentence
from featurestore.compare.curve_sizes import check_sizes, default_sizes, nested_order
from featurestore.compare.learning_curve import CurvePoint, Gain
from featurestore.compare.results import Estimate, Interval
from featurestore.errors import InvalidInput, NotFound
from featurestore.recipe import Views
from featurestore.testing.heads import RECIPE, MemoryFeatures, MemoryRows, blobs, varied
from featurestore.training.contract import FitOptions
from featurestore.training.head_specs import head_label
from featurestore.training.heads import create_head
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.train import TrainOptions, fit_head

LOGISTIC = LogisticSettings()


def features_of(n_classes=2, *, train=120, validation=60, test=30, distance=0.6):
    rows = {
        split: blobs(count, n_classes=n_classes, seed=seed, distance=distance)
        for seed, (split, count) in enumerate(
            {"train": train, "validation": validation, "test": test}.items()
        )
    }
    names = tuple("abcdef"[:n_classes])
    return MemoryFeatures({name: part for name, part in rows.items() if len(part)}, names)


# --- which rows


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    seed=st.integers(0, 1000),
)
def test_every_beginning_of_the_order_is_stratified(counts, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = nested_order(labels, seed=seed)
    assert sorted(order) == list(range(len(labels)))
    drawn = np.cumsum(np.eye(len(counts))[labels[order]], axis=0)  # (n, classes)
    assert (drawn[len(counts) - 1 :] >= 1).all()
    shares = np.array(counts) / sum(counts)
    expected = np.arange(1, len(labels) + 1)[:, None] * shares
    # The first row of each class is given; so many rows may be too many, no more.
    assert (np.abs(drawn - expected) < len(counts) + 1).all()
    big = shares == shares.max()
    assert (np.abs(drawn - expected)[-len(labels) // 4 :, big] < len(counts)).all()


def test_equal_classes_stay_equal():
    labels = np.arange(600) % 3
    order = nested_order(labels, seed=0)
    for n in (3, 30, 300, 599):
        counts = np.bincount(labels[order[:n]])
        assert np.ptp(counts) <= 1


def test_seeds_draw_other_rows():
    labels = np.arange(100) % 2
    first, again, other = (set(nested_order(labels, seed=s)[:20].tolist()) for s in (1, 1, 2))
    assert first == again != other
    # Any row may be drawn: the order of the rows themselves decides nothing.
    drawn = np.concatenate([nested_order(labels, seed=s)[:20] for s in range(60)])
    assert len(set(drawn.tolist())) == 100


@given(rows=st.integers(2, 200_000), n_classes=st.integers(2, 1000))
def test_default_sizes_can_be_fitted(rows, n_classes):
    if rows < n_classes:
        return
    sizes = default_sizes(rows, n_classes)
    assert sizes == check_sizes(sizes, rows=rows, n_classes=n_classes)
    assert sizes[-1] == rows and len(sizes) <= 8


def test_default_sizes_of_the_reference():
    assert default_sizes(2000, 2) == (20, 38, 74, 140, 270, 520, 1000, 2000)


@pytest.mark.parametrize("sizes", [(), (1, 20), (20, 121)])
def test_sizes_that_cannot_be_drawn_are_refused(sizes):
    with pytest.raises(InvalidInput, match=r"from 2 .* to 120 .*\n.*--sizes"):
        learning_curve(features_of(), [LOGISTIC], CurveOptions(sizes=sizes))


# --- the curve


def test_a_point_is_the_score_of_heads_on_nested_rows():
    features = features_of()
    found = learning_curve(features, [LOGISTIC], CurveOptions(sizes=(10, 40, 120), seeds=2))
    assert (found.split, found.rows, found.majority_share) == ("validation", 60, 0.5)
    assert (found.feature_set, found.fingerprint) == (features.name, features.fingerprint)
    (curve,) = found.curves
    assert [point.labels for point in curve.points] == [10, 40, 120]
    assert (curve.label, curve.skipped, curve.notes) == ("logistic", (), ())
    train, validation = features["train"], features["validation"]
    right = {}
    for point in curve.points:
        for seed, accuracy in enumerate(point.by_seed):
            rows = np.sort(nested_order(train.labels, seed=seed)[: point.labels])
            head = create_head(LOGISTIC).fit(
                MemoryRows(train.features[rows], train.labels[rows]),
                None,
                options=FitOptions(n_classes=2),
            )
            predicted = head.predict_proba(validation.features).argmax(axis=1)
            right[point.labels, seed] = predicted == validation.labels
            assert accuracy == right[point.labels, seed].mean()
        assert point.accuracy.value == pytest.approx(np.mean(point.by_seed))
        assert point.accuracy.interval.low < point.accuracy.value < point.accuracy.interval.high
    assert len(set(curve.points[0].by_seed)) == 2, "seeds draw other rows"
    gain = curve.last_gain
    assert (gain.fewer, gain.more) == (40, 120)
    assert gain.difference.value == pytest.approx(
        np.mean([right[120, s].mean() - right[40, s].mean() for s in (0, 1)])
    )


def test_it_is_the_same_twice_and_read_from_disk(monkeypatch):
    features = features_of(3)
    options = CurveOptions(sizes=(9, 50, 120), seeds=2)
    whole = learning_curve(features, [LOGISTIC], options)
    again = learning_curve(features, [LOGISTIC], options)
    monkeypatch.setattr(curve_fits, "stored_bytes", lambda rows: 2**60)  # so none are held
    read = learning_curve(features, [LOGISTIC], options)
    assert whole == again == read


def test_an_easy_problem_is_learned_and_a_hopeless_one_is_not():
    easy = learning_curve(features_of(distance=2.0), [LOGISTIC])
    assert easy.curves[0].points[-1].accuracy.value > 0.95
    hopeless = learning_curve(features_of(distance=0.0), [LOGISTIC], CurveOptions(sizes=(60, 120)))
    interval = hopeless.curves[0].points[-1].accuracy.interval
    assert interval.low < 0.5 < interval.high


def test_all_rows_are_fitted_once_where_seeds_change_nothing(monkeypatch):
    fitted = []
    fit = curve_fits.fit_head
    monkeypatch.setattr(
        curve_fits,
        "fit_head",
        lambda s, rows, *a, **k: fitted.append(len(rows)) or fit(s, rows, *a, **k),
    )
    found = learning_curve(features_of(), [LOGISTIC], CurveOptions(sizes=(20, 120), seeds=3))
    assert fitted == [20, 20, 20, 120]
    assert len(set(found.curves[0].points[-1].by_seed)) == 1
    assert len(found.curves[0].points[-1].by_seed) == 3


def test_the_fits_see_neither_test_rows_nor_validation_rows(monkeypatch):
    asked = []
    fit = curve_fits.fit_head

    def spy(settings, rows, validation, **options):
        asked.append((set(rows.sample_ids.tolist()), validation))
        return fit(settings, rows, validation, **options)

    monkeypatch.setattr(curve_fits, "fit_head", spy)
    features = features_of()
    found = learning_curve(features, [LOGISTIC], CurveOptions(sizes=(40, 120), split="test"))
    assert (found.split, found.rows) == ("test", 30)
    train = set(features["train"].sample_ids.tolist())
    assert all(ids <= train and validation is None for ids, validation in asked)


def test_a_head_that_cannot_fit_a_size_is_reported_and_the_rest_goes_on(monkeypatch):
    fit = curve_fits.fit_head

    def refuses_few(settings, rows, *a, **k):
        if len(rows) < 30 and settings.c == 2.0:
            raise InvalidInput(f"head logistic: expected 30 rows, found {len(rows)}")
        return fit(settings, rows, *a, **k)

    monkeypatch.setattr(curve_fits, "fit_head", refuses_few)
    heads = [LogisticSettings(c=2.0), LOGISTIC]
    found = learning_curve(features_of(), heads, CurveOptions(sizes=(10, 20, 60), seeds=2))
    picky, other = found.curves
    assert picky.label == head_label(heads[0])
    assert [point.labels for point in picky.points] == [60]
    assert [(s.labels, s.reason) for s in picky.skipped] == [
        (10, "head logistic: expected 30 rows, found 10"),
        (20, "head logistic: expected 30 rows, found 20"),
    ]
    assert [point.labels for point in other.points] == [10, 20, 60]
    with pytest.raises(InvalidInput, match=r"no head could be fitted.*expected 30 rows, found 10"):
        learning_curve(features_of(), heads[:1], CurveOptions(sizes=(10, 20)))


def test_notes_of_heads_are_told_with_their_sizes():
    hurried = LogisticSettings(max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = learning_curve(features_of(), [hurried], CurveOptions(sizes=(20, 60), seeds=2))
    assert found.curves[0].notes and all("labels)" in note for note in found.curves[0].notes)


def test_early_stopping_gets_the_validation_rows_and_says_so(monkeypatch):
    asked = []
    fit = curve_fits.fit_head

    def spy(settings, rows, validation, **options):
        asked.append(len(validation))
        return fit(LOGISTIC, rows, validation, **options)  # the dense head takes seconds to start

    monkeypatch.setattr(curve_fits, "fit_head", spy)
    stopping = DenseSettings(patience=1)
    options = CurveOptions(sizes=(120,), seeds=1)
    found = learning_curve(features_of(), [stopping], options)
    assert any("early stopping" in note for note in found.curves[0].notes)
    tested = learning_curve(features_of(), [stopping], dataclasses.replace(options, split="test"))
    assert not any("early stopping chose" in note for note in tested.curves[0].notes)
    assert asked == [60, 60]


def test_what_one_seed_and_the_test_split_mean_is_noted():
    def notes(**options):
        return learning_curve(features_of(), [LOGISTIC], CurveOptions(sizes=(40,), **options)).notes

    assert notes(seeds=2) == ()
    (one_seed,) = notes(seeds=1)
    assert "with one seed the intervals count which images were evaluated, and not" in one_seed
    assert notes(seeds=2, split="test") == (
        "what is chosen by this curve has been chosen on the test split",
    )


def test_progress_counts_every_fit():
    seen = []
    options = CurveOptions(sizes=(20, 40), seeds=2, progress=lambda *told: seen.append(told))
    learning_curve(features_of(), [LOGISTIC, LogisticSettings(c=1.0)], options)
    assert [told[:2] for told in seen] == [(i, 8) for i in range(8)]
    assert seen[5][2] == f"{head_label(LogisticSettings(c=1.0))}, 20 labels, seed 1"


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(NotFound, match="no validation rows: it has train, test"):
        learning_curve(features_of(validation=0), [LOGISTIC])
    with pytest.raises(InvalidInput, match="no rows in a train split"):
        learning_curve(features_of(train=0), [LOGISTIC])
    with pytest.raises(InvalidInput, match="trained on"):
        CurveOptions(split="train")
    with pytest.raises(InvalidInput, match="at least 1 seed"):
        CurveOptions(seeds=0)
    lacking = features_of(3)
    one_short = MemoryRows(lacking["train"].features[:2], lacking["train"].labels[:2])
    with pytest.raises(InvalidInput, match="no training row of class c"):
        learning_curve(
            dataclasses.replace(lacking, rows={**lacking.rows, "train": one_short}), [LOGISTIC]
        )


# --- the words


def point(labels, value):
    return CurvePoint(
        labels=labels,
        accuracy=Estimate(value, Interval(value - 0.01, value + 0.01)),
        by_seed=(value,),
    )


def gain(value, low, high):
    return Gain(fewer=1000, more=2000, difference=Estimate(value, Interval(low, high)))


LITTLE = "more labels of this kind are probably worth little"
POINTS = [
    point(20, 0.88),
    point(200, 0.952),
    point(500, 0.949),
    point(1000, 0.967),
    point(2000, 0.97),
]


@pytest.mark.parametrize(
    ("difference", "ending"),
    [
        ((0.003, -0.004, 0.009), "): a gain of less than a point, if any; " + LITTLE),
        ((0.004, 0.001, 0.008), "): a gain, but a small one; " + LITTLE),
        ((0.02, 0.011, 0.03), "): still rising, so more labels may well help"),
        ((0.011, -0.003, 0.024), "): whether more labels would help cannot be told"),
    ],
)
def test_a_sentence_says_what_the_last_doubling_brought(difference, ending):
    text = curve_sentence("logistic", POINTS, last_gain=gain(*difference), train_rows=2000)
    assert text.endswith(ending)
    assert text.startswith(
        "logistic: accuracy 0.970 (95 % 0.960 to 0.980) with all 2,000 labels; "
        "measured mean 0.95 or more from 1,000 labels on; "
        "measured mean within 1 point of the last from 1,000 labels on; "
        f"from 1,000 to 2,000 labels it gained {100 * difference[0]:.1f} points (95 % "
    )


def test_twenty_images_all_right_do_not_say_that_more_labels_are_worth_little():
    right = np.ones((1, 20))
    last = CurvePoint(labels=40, accuracy=crossed_share(right), by_seed=(1.0,))
    none = Gain(fewer=20, more=40, difference=crossed_difference(right - right))
    text = curve_sentence("knn", [last], last_gain=none, train_rows=40)
    assert text.startswith("knn: accuracy 1.000 (95 % 0.832 to 1.000) with all 40 labels; ")
    assert text.endswith(
        "gained 0.0 points (95 % −16.8 to 16.8): whether more labels would help cannot be told"
    )


def test_a_level_that_is_left_again_is_not_reached():
    text = curve_sentence("knn", POINTS[:3], last_gain=None, train_rows=2000)
    assert "with 500 labels; measured mean 0.9 or more from 200 labels on" in text
    assert "all" not in text


def test_a_rise_over_a_long_stretch_is_no_outlook():
    long = dataclasses.replace(gain(0.02, 0.011, 0.03), fewer=200)
    text = curve_sentence("knn", POINTS, last_gain=long, train_rows=2000)
    assert text.endswith("(95 % 1.1 to 3.0): a gain")


def test_a_level_reached_at_the_end_only_is_said_so():
    text = curve_sentence("knn", [POINTS[0], POINTS[4]], last_gain=None, train_rows=2000)
    assert text.endswith("2,000 labels; measured mean 0.95 or more with no fewer of those tried")


def test_a_loss_is_called_one():
    text = curve_sentence("knn", POINTS, last_gain=gain(-0.02, -0.03, -0.01), train_rows=2000)
    assert "it lost 2.0 points (95 % −3.0 to −1.0)" in text


def test_one_point_says_no_more_than_it_knows():
    assert curve_sentence("knn", POINTS[:1], last_gain=None, train_rows=2000) == (
        "knn: accuracy 0.880 (95 % 0.870 to 0.890) with 20 labels"
    )
    assert "could not be fitted" in curve_sentence("knn", [], last_gain=None, train_rows=2000)


# --- with views


@pytest.mark.parametrize("memory_bytes", [2**30, 40_000], ids=["held", "read"])
def test_heads_of_a_curve_learn_from_views(memory_bytes):
    plain = features_of(distance=0.3)
    rows = dict(plain.rows) | {"train": varied(plain["train"], views=3, spread=40.0)}
    views = Views(augmentation=Augmentation(), count=3)
    features = MemoryFeatures(
        rows, plain.class_names, recipe=dataclasses.replace(RECIPE, augmentation=views)
    )
    dense = DenseSettings(units=8, epochs=4, learning_rate=3e-3)
    options = CurveOptions(sizes=(30, 120), seeds=1, views=2, memory_bytes=memory_bytes)
    curve = learning_curve(features, [dense], options)
    assert "heads were trained on 2 stored views of each image" in curve.notes
    head = fit_head(dense, rows["train"], None, n_classes=2, options=TrainOptions(views=2))
    held = rows["validation"]
    expected = np.mean(head.predict_proba(held.features).argmax(axis=1) == held.labels)
    assert curve.curves[0].points[-1].by_seed == (expected,)
    assert curve.curves[0].skipped == ()


def test_a_curve_on_views_that_are_not_there_is_refused():
    with pytest.raises(InvalidInput, match="has no views"):
        learning_curve(features_of(), [LOGISTIC], CurveOptions(views="all"))
