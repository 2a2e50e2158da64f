"""What a written model is held to."""

import numpy as np
import pytest

from featurestore.errors import IntegrityError
from featurestore.shipping.check import check_model
from featurestore.shipping.settings import ShipOptions

RECORDED = np.array([[0.9, 0.1], [0.2, 0.8], [0.45, 0.55]], np.float32)
IMAGES = np.arange(3)


def batches(size=2):
    for start in range(0, 3, size):
        yield IMAGES[start : start + size], RECORDED[start : start + size]


def giving(probabilities):
    return lambda images: np.asarray(probabilities, np.float32)[images]


def moved(difference, row=2):
    found = RECORDED.copy()
    found[row] += [difference, -difference]
    return found


def test_differences_are_counted_over_all_batches():
    found = check_model(giving(moved(0.08)), giving(moved(0.079)), batches(), tolerance=0.1)
    assert found.images == 3
    assert found.largest_difference == pytest.approx(0.08, abs=1e-6)
    assert found.mean_difference == pytest.approx(0.16 / 6, abs=1e-6)
    assert found.conversion_difference == pytest.approx(0.001, abs=1e-6)
    assert found.classes_differ == 1  # 0.53 against 0.47, where 0.45 against 0.55 was recorded
    assert found.tolerance == 0.1


def flipped(rows, count=200):
    """Return recorded probabilities near a half, and such that fall on the other side for some."""
    recorded = np.full((count, 2), [0.48, 0.52], np.float32)
    shipped = recorded.copy()
    shipped[:rows] = shipped[:rows, ::-1]
    return recorded, shipped


def checked(rows, **limits):
    recorded, shipped = flipped(rows)
    images = np.arange(len(recorded))
    return check_model(giving(shipped), giving(shipped), [(images, recorded)], **limits)


def test_more_than_a_few_other_classes_are_refused_though_each_is_near():
    found = checked(4, tolerance=0.2, classes_differ=0.02)
    assert (found.classes_differ, found.classes_allowed) == (4, 4)
    with pytest.raises(IntegrityError, match=r"5 of 200 predicted classes differ.*at most 4") as no:
        checked(5, tolerance=0.2, classes_differ=0.02)
    assert "--tolerance 0.2" in no.value.next_step


def test_one_other_class_is_allowed_on_few_images():
    few = check_model(giving(moved(0.08)), giving(moved(0.08)), batches(), tolerance=0.2)
    assert (few.classes_differ, few.classes_allowed) == (1, 1)


def test_a_tolerance_that_is_named_alone_counts():
    assert ShipOptions().classes_differ == 0.02
    options = ShipOptions(tolerance=0.2)
    assert checked(150, tolerance=0.2, classes_differ=options.classes_differ).classes_differ == 150


@pytest.mark.parametrize("row", [0, 2])
def test_beyond_the_tolerance_is_refused_in_any_batch(row):
    written = giving(moved(-0.02, row))
    with pytest.raises(IntegrityError, match=r"differs by 0\.02, expected at most 0\.01") as raised:
        check_model(written, written, batches(), tolerance=0.01)
    assert "--tolerance" in raised.value.next_step


def test_no_tolerance_allows_a_file_that_computes_something_else():
    with pytest.raises(IntegrityError, match="does not compute what was written"):
        check_model(giving(moved(0.05)), giving(RECORDED), batches(), tolerance=1.0)


@pytest.mark.parametrize("broken", ["written", "reference"])
def test_not_a_number_is_never_near_enough(broken):
    bad = moved(np.nan)
    written = giving(bad if broken == "written" else RECORDED)
    reference = giving(bad if broken == "reference" else RECORDED)
    with pytest.raises(IntegrityError):
        check_model(written, reference, batches(), tolerance=1.0)


def test_another_number_of_classes_is_refused():
    written = giving(np.full((3, 3), 1 / 3))
    with pytest.raises(IntegrityError, match=r"\(3, 3\): expected \(3, 2\)"):
        check_model(written, written, batches(), tolerance=1.0)
