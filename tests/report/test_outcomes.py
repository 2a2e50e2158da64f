"""The numbers behind the pictures, held to scikit-learn's and to the metrics of a run."""

import numpy as np
import pytest
from comparisons import comparison
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from featurestore.report.curves_plot import smoothed
from featurestore.report.figures import spread_out
from featurestore.report.gallery import choose_exhibits
from featurestore.report.outcomes import (
    Outcome,
    calibration_bins,
    confusion_counts,
    mean_curve,
    outcomes_of_comparison,
    roc_curves,
)
from featurestore.report.text import bytes_text, points_text, shown
from featurestore.training.evaluation import calibration_error


def outcome(n_classes=3, rows=200):
    names = [f"class {k}" for k in range(n_classes)]
    (found,) = outcomes_of_comparison(comparison(1, rows=rows, class_names=names, seeds=1))
    return found


def made(labels, probabilities):
    return Outcome(
        label="made",
        class_names=tuple("abcdefgh"[: len(probabilities[0])]),
        labels=np.array(labels),
        probabilities=np.array(probabilities, dtype=np.float32),
    )


def test_counts_are_those_of_scikit_learn():
    found = outcome()
    expected = confusion_matrix(found.labels, found.answers)
    np.testing.assert_array_equal(confusion_counts(found), expected)


def test_a_class_that_nobody_names_keeps_its_row_and_column():
    assert confusion_counts(made([0, 0], [[0.9, 0.1, 0.0]] * 2)).tolist() == [
        [2, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_two_classes_have_the_curve_of_the_second():
    found = outcome(2)
    (curve,) = roc_curves(found)
    expected = roc_curve(found.labels, found.probabilities[:, 1])
    np.testing.assert_array_equal(curve.false_positive, expected[0])
    np.testing.assert_array_equal(curve.true_positive, expected[1])
    assert curve.area == roc_auc_score(found.labels, found.probabilities[:, 1])


def test_the_mean_curve_has_the_area_of_the_run_metric():
    found = outcome(4)
    mean = mean_curve(roc_curves(found), title="mean")
    expected = roc_auc_score(found.labels, found.probabilities, multi_class="ovr")
    assert mean.area == pytest.approx(expected, abs=1e-6)
    # The drawn line runs through the curves' points, and bounds the same area but for its steps.
    drawn = np.trapezoid(mean.true_positive, mean.false_positive)
    assert drawn == pytest.approx(expected, abs=0.02)
    assert np.all(np.diff(mean.true_positive) >= -1e-12)
    assert (mean.true_positive[0], mean.true_positive[-1]) == (0, 1)


def test_classes_without_rows_have_no_curve():
    found = made([0, 1, 1], [[0.5, 0.3, 0.2]] * 3)
    assert [curve.title for curve in roc_curves(found)] == ["a", "b"]
    assert roc_curves(made([0, 0], [[0.5, 0.5]] * 2)) == []


def test_bins_add_up_to_the_calibration_error():
    found = outcome()
    bins = [each for each in calibration_bins(found) if each is not None]
    rows = sum(each.rows for each in bins)
    error = sum(each.rows * abs(each.confidence - each.accuracy) for each in bins) / rows
    assert rows == len(found.labels)
    assert error == pytest.approx(calibration_error(found.labels, found.probabilities), abs=1e-9)
    assert all(each.interval.low <= each.accuracy <= each.interval.high for each in bins)


def test_smoothing_is_the_stated_recurrence():
    assert smoothed([1.0, 2.0, 4.0], 0.75) == [1.0, 0.75 * 1 + 0.25 * 2, 0.75 * 1.25 + 0.25 * 4]
    assert smoothed([1.0, 2.0, 4.0], 0.0) == [1.0, 2.0, 4.0]
    assert smoothed([], 0.5) == []


@given(st.lists(st.floats(-10, 10), max_size=12), st.floats(0.01, 2))
def test_places_lie_apart_in_order_and_move_only_where_needed(positions, least):
    places = spread_out(positions, least=least)
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    gaps = np.diff([places[i] for i in order])
    assert np.all(gaps >= least - 1e-9)
    if np.all(np.diff([positions[i] for i in order]) >= least):
        assert places == pytest.approx(positions)
    assert np.mean(places) == pytest.approx(np.mean(positions), abs=1e-9) if positions else True


def test_exhibits_are_told_apart_and_come_most_telling_first():
    first = made([0, 0, 0, 0, 0], [[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.7, 0.3], [0.9, 0.1]])
    second = made([0, 0, 0, 0, 0], [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    gallery = choose_exhibits([first, second])
    assert [exhibit.row for exhibit in gallery.all_wrong] == [2, 1]
    assert [exhibit.row for exhibit in gallery.disagreed] == [4, 3]
    assert (gallery.all_wrong_count, gallery.disagreed_count) == (2, 2)
    told, untold = gallery.disagreed[0].answers
    assert (told.answer, told.right, told.probability) == (0, True, pytest.approx(0.9))
    assert (untold.answer, untold.right, untold.probability) == (1, False, pytest.approx(0.9))


def test_only_the_first_exhibits_are_kept_and_all_are_counted():
    heads = outcomes_of_comparison(comparison(3, rows=2000, class_names=list("abcdef"), seeds=1))
    gallery = choose_exhibits(heads, most=5)
    whole = choose_exhibits(heads, most=10**6)
    assert gallery.all_wrong == whole.all_wrong[:5]
    assert gallery.disagreed == whole.disagreed[:5]
    right = np.stack([head.answers == head.labels for head in heads])
    assert gallery.all_wrong_count == len(whole.all_wrong) == int((~right.any(axis=0)).sum())
    assert gallery.disagreed_count == len(whole.disagreed) > 5


def test_names_are_shown_on_one_line_and_as_they_stand():
    assert shown("a\nb\x1b[31m\u202etxt.exe\ud800") == "a\ufffdb\ufffd[31m\ufffdtxt.exe\ufffd"
    assert shown("Katze 猫 🐈") == "Katze 猫 🐈"
    assert shown("abcdefghij", 7) == "abc…hij"[:7]
    assert len(shown("x" * 99, 20)) == 20


def test_points_have_a_sign_but_for_nothing():
    assert [points_text(value) for value in (0.0123, -0.0123, 0.0, -0.0001)] == [
        "+1.2",
        "−1.2",
        "0.0",
        "0.0",
    ]


def test_sizes_are_in_the_largest_unit_that_keeps_them_above_one():
    sizes = (0, 1023, 1024, 1.5 * 2**20, 2**30, 3 * 2**40, 2**51)
    assert [bytes_text(size) for size in sizes] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "1.0 GiB",
        "3.0 TiB",
        "2048.0 TiB",
    ]
