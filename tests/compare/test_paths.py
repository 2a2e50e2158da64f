"""Runs of all paths side by side: who is one contender, what it is called, what is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
from made_runs import (
    NADAM,
    answers,
    changed,
    end_to_end,
    fine_tuned,
    made_run,
    trained_on,
    tuned_settings,
    with_views,
)

from featurestore.augmentation import REFERENCE, Augmentation
from featurestore.compare.comparison import compare
from featurestore.compare.grouping import group_runs
from featurestore.errors import Conflict
from featurestore.testing.heads import RECIPE
from featurestore.training.methods import (
    method_labels,
    pixels_text,
    ranges_text,
    seeded_labels,
    trained_weights,
)
from featurestore.training.settings import DenseSettings, LogisticSettings

LABELS = np.arange(60) % 2
RIGHT = answers(LABELS, np.arange(60) % 7 > 0)


@pytest.fixture
def made(tmp_path):
    """Make runs in one cache: `made(end_to_end, seed=1)`."""
    return lambda maker=made_run, **changes: maker(tmp_path, LABELS, RIGHT, **changes)


def labels(*runs):
    return [group.label for group in group_runs(runs)[0]]


def test_every_path_is_set_beside_the_others(made):
    dense = made()
    runs = [dense, made(with_views), made(end_to_end), made(fine_tuned, start=dense)]
    found = compare(runs, resamples=200)
    assert [each.label for each in found.contenders] == [
        "dense",
        "dense, 6 views",
        "end-to-end dense",
        "fine-tuned block5",
    ]
    assert len(found.pairs) == 6
    # Whatever comes first, the features that all are judged on are named.
    backwards = compare(runs[::-1], resamples=200)
    assert (found.feature_set, found.fingerprint) == ("photos/vgg16", "f" * 64)
    assert (backwards.feature_set, backwards.fingerprint) == ("photos/vgg16", "f" * 64)
    alone = compare([runs[3]], resamples=200)
    assert (alone.feature_set, alone.fingerprint) == ("photos/vgg16", "f" * 64)


def test_seeds_of_every_path_are_one_contender(made):
    first, second = made(seed=1), made(seed=2)
    runs = [
        *(first, second),
        *(made(end_to_end, seed=seed) for seed in (0, 1)),  # their images are drawn by it too
        *(made(with_views, seed=seed) for seed in (0, 1)),
        *(made(fine_tuned, start=start, seed=0) for start in (first, second)),
        made(fine_tuned, start=first, seed=1),
    ]
    groups, notes = group_runs(runs)
    assert [len(group.runs) for group in groups] == [2, 2, 2, 3]
    assert notes == ()


def test_a_run_made_twice_counts_once(made):
    dense = made()
    older, newer = made(fine_tuned, start=dense), made(fine_tuned, start=dense)
    groups, notes = group_runs([older, newer])
    assert [group.runs for group in groups] == [(newer,)]
    assert older.id in notes[0]


@pytest.mark.parametrize(
    ("maker", "one", "other", "named"),
    [
        (end_to_end, {}, {"augmentation": None},
         ["end-to-end dense", "end-to-end dense, not augmented"]),
        (end_to_end, {}, {"augmentation": REFERENCE},
         ["end-to-end dense (default ranges)", "end-to-end dense (shear 0.2)"]),
        (end_to_end, {}, {"settings": dataclasses.replace(NADAM, learning_rate=1e-4)},
         ["end-to-end dense:learning_rate=2e-05", "end-to-end dense:learning_rate=0.0001"]),
        (with_views, {}, {"count": 1}, ["dense, 6 views", "dense, 1 view"]),
        (with_views, {}, {"view_seed": 3},
         ["dense, 6 views (seed 0)", "dense, 6 views (seed 3)"]),
        (with_views, {}, {"settings": LogisticSettings()}, ["dense, 6 views", "logistic, 6 views"]),
        (with_views, {}, {"settings": DenseSettings(units=8)},
         ["dense, 6 views", "dense:units=8, 6 views"]),
        (with_views, {}, {"shuffled_labels": True},
         ["dense, 6 views", "dense, 6 views (shuffled labels)"]),
    ],
)  # fmt: skip
def test_what_sets_runs_of_one_path_apart(made, maker, one, other, named):
    assert labels(made(maker, **one), made(maker, **other)) == named


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"settings": tuned_settings(unfreeze=("block4", "block5"))},
         ["fine-tuned block5", "fine-tuned block4, block5"]),
        ({"settings": tuned_settings(learning_rate=1e-4)},
         ["fine-tuned block5:learning_rate=1e-05", "fine-tuned block5:learning_rate=0.0001"]),
        ({"augmentation": Augmentation().to_dict() | {"seed": 0}},
         ["fine-tuned block5", "fine-tuned block5, augmented"]),
        ({"augmentation": Augmentation().to_dict() | {"seed": 0, "views": 4}},
         ["fine-tuned block5", "fine-tuned block5, 4 views"]),
    ],
)  # fmt: skip
def test_what_sets_fine_tunings_apart(made, other, named):
    start = made()
    assert labels(made(fine_tuned, start=start), made(fine_tuned, start=start, **other)) == named


def test_fine_tunings_of_other_starts_are_other_contenders(made):
    cached, streamed = made(), made(end_to_end)
    runs = [made(fine_tuned, start=start) for start in (cached, streamed)]
    assert labels(*runs) == [
        "fine-tuned block5 from dense",
        "fine-tuned block5 from end-to-end dense",
    ]
    assert labels(runs[1]) == ["fine-tuned block5"]
    wide = made(fine_tuned, start=made(settings=DenseSettings(units=8)))
    assert labels(runs[0], wide) == [
        "fine-tuned block5 from dense",
        "fine-tuned block5 from dense:units=8",
    ]
    shutil.rmtree(cached.path)  # what it was is not known any more, and that it is another
    assert labels(*runs)[0] == f"fine-tuned block5 from {cached.id}"
    compare(runs, resamples=200)


def test_other_features_are_refused_through_the_start_of_a_fine_tuning(made):
    dense = made()
    recipe = dataclasses.replace(RECIPE, layer="block4_pool")
    elsewhere = trained_on(
        recipe=recipe.to_dict(), recipe_fingerprint=recipe.fingerprint, fingerprint="9" * 64
    )
    other_dense = made(features=elsewhere)
    tuned = made(fine_tuned, start=other_dense)
    with pytest.raises(Conflict, match="recipe, layer is block5_pool and block4_pool"):
        compare([dense, other_dense])
    with pytest.raises(Conflict, match="recipe, layer is block5_pool and block4_pool") as caught:
        compare([dense, tuned])
    assert f"{tuned.id} (started from {other_dense.id})" in str(caught.value)
    compare([other_dense, tuned], resamples=200)
    shutil.rmtree(other_dense.path)
    with pytest.raises(Conflict, match="comparable is ffffffffffff and 999999999999"):
        compare([dense, tuned])


def test_a_fine_tuning_at_another_precision_is_refused_when_its_start_is_gone(made):
    dense = made()
    tuned = made(fine_tuned, start=dense)
    recipe = dict(tuned.features.recipe) | {"precision": "bfloat16"}
    tuned = dataclasses.replace(changed(tuned, recipe=recipe), started_from="gone")
    with pytest.raises(Conflict, match="recipe, precision is float32 and bfloat16"):
        compare([dense, tuned])


def test_views_do_not_make_features_others(made):
    clean, six, four = made(), made(with_views), made(with_views, count=4)
    found = compare([six, four, clean], resamples=200)
    assert found.fingerprint == clean.features.fingerprint
    other = changed(six, comparable="9" * 64)
    with pytest.raises(Conflict, match="comparable is"):
        compare([clean, other])


def timing_notes(*runs):
    return [note for note in compare(runs, resamples=200).notes if "time of one image" in note]


def test_times_of_a_fine_tuning_are_said_to_hold_more(made):
    dense = made()
    tuned = made(fine_tuned, start=dense)
    (note,) = timing_notes(dense, tuned)
    assert "of fine-tuned block5 the layers after the last frozen one are in it" in note
    assert timing_notes(tuned) == []


def test_a_fine_tuning_that_validation_stopped_is_told_of(made):
    tuned = made(fine_tuned, start=made(), chosen={"epoch": 3}, splits=["validation"])
    notes = compare([tuned], split="validation", resamples=200).notes
    assert notes[0].startswith("fine-tuned block5: early stopping chose the epoch")


def test_runs_of_one_method_are_told_apart_by_seed_and_then_by_id(made):
    runs = [made(end_to_end, seed=0), made(end_to_end, seed=1), made()]
    assert seeded_labels(runs) == ["end-to-end dense, seed 0", "end-to-end dense, seed 1", "dense"]
    again = made()
    assert seeded_labels([*runs, again])[2:] == [runs[2].id, again.id]
    assert method_labels([runs[2], again]) == ["dense", "dense"]


def test_weights_that_a_fit_moved(made):
    # The reference's: VGG16 at 150 pixels, two classes.
    run = made(features=trained_on(feature_shape=(4, 4, 512)))
    assert trained_weights(run) == 2_097_665
    three = trained_on(feature_shape=(4,), class_names=("a", "b", "c"))
    assert (
        trained_weights(made(features=three, settings=DenseSettings(units=2))) == 2 * 5 + 2 * 3 + 3
    )
    assert trained_weights(made(settings=LogisticSettings())) is None


def test_what_was_done_with_the_pixels(made):
    dense = made(features=trained_on(feature_shape=(4, 4, 512)))
    tuned = made(fine_tuned, start=dense)
    moved = f"({ranges_text(Augmentation().to_dict())})"
    assert pixels_text(dense).endswith(
        "the head was trained on those features. Weights trained: 2,097,665."
    )
    assert f"The images and, for training, 6 random versions of each {moved} went" in pixels_text(
        made(with_views)
    )
    assert f"shown anew at random {moved}, and" in pixels_text(made(end_to_end))
    assert "shown as they are, and" in pixels_text(made(end_to_end, augmentation=None))
    text = pixels_text(tuned)
    assert text.startswith(f"block5 of the network and the head were trained, from run {dense.id}.")
    assert "features of block4_pool, the last frozen layer." in text
    assert text.endswith("Weights trained: 400 of 1,000 (before: 100).")
    views = Augmentation().to_dict() | {"seed": 0, "views": 1}
    text = pixels_text(dataclasses.replace(tuned, augmentation=views))
    assert "the features of one random version of each training image" in text
    drawn = pixels_text(dataclasses.replace(tuned, augmentation=Augmentation().to_dict()))
    assert f"shown anew at random {moved}, and" in drawn
    logistic = pixels_text(made(settings=LogisticSettings()))
    assert "Weights" not in logistic


def test_ranges_in_words():
    assert ranges_text(Augmentation().to_dict()) == (
        "turned by up to 40°, shifted by up to 20 %, sheared by up to 10°, zoomed by up to 20 %, "
        "mirrored half of the time"
    )
    still = Augmentation(rotation=0, shift=0, shear=0, zoom=0, flip=False)
    assert ranges_text(still.to_dict()) == "not moved at all"
