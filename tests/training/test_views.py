"""Stored views of training images: what an epoch shows, from memory and from disk."""

import dataclasses

import numpy as np
import pytest

from featurestore.augmentation import Augmentation
from featurestore.errors import InvalidInput
from featurestore.recipe import Views
from featurestore.testing.heads import RECIPE, MemoryFeatures, MemoryRows, blobs, varied
from featurestore.training import pools
from featurestore.training.contract import EpochRows, FitOptions
from featurestore.training.heads import create_head
from featurestore.training.pools import epoch_pools
from featurestore.training.rows import Loaded, Relabelled, RelabelledEpochs, Subset
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.sklearn_settings import SgdSettings
from featurestore.training.streaming import Residence, RowSource, plan_residence
from featurestore.training.train import TrainOptions, train
from featurestore.training.views import ViewRows, count_views

COUNT, VIEWS, SHAPE = 1500, 3, (2, 3)
ROW_BYTES = 24


def numbered(count=COUNT, views=VIEWS):
    """Rows whose values tell the row, and in views the view: row + (view + 1) / 10."""
    rows = np.arange(count, dtype=np.float32)[:, None, None] * np.ones(SHAPE, np.float32)
    versions = rows[None] + (np.arange(views, dtype=np.float32)[:, None, None, None] + 1) / 10
    return MemoryRows(rows, np.arange(count) % 4, versions=versions)


def told(features):
    """The row and the view of each of these features; the view of an image itself is -1."""
    values = features[:, 0, 0].astype(np.float64)
    rows = np.floor(values + 1e-3).astype(int)
    return rows, np.rint((values - rows) * 10).astype(int) - 1


def view_rows(rows=None, *, views=VIEWS, seed=5):
    return ViewRows(numbered() if rows is None else rows, views=views, seed=seed)


def epoch_of(rows, *, epoch, seed=0, held=True, ahead=False, piece_rows=100):
    source = RowSource(rows, held=held, ahead=ahead)
    pieces = list(source.epoch(np.random.default_rng(seed), piece_rows, epoch=epoch))
    return np.concatenate([f for f, _ in pieces]), np.concatenate([y for _, y in pieces])


@pytest.fixture
def small_pools(monkeypatch):
    """Two pools of 768 and 732 rows."""
    monkeypatch.setattr(pools, "_POOL_BYTES", 0)


def test_they_are_rows_that_differ_by_epoch():
    rows = view_rows()
    assert isinstance(rows, EpochRows)
    np.testing.assert_array_equal(rows.load()[0], numbered().features)
    np.testing.assert_array_equal(rows.read(3, 9), numbered().features[3:9])
    assert list(rows.sample_ids[:2]) == ["row/00000.jpg", "row/00001.jpg"]


def test_every_block_shows_one_view_and_each_once_in_so_many_epochs():
    for start in (1, 4, 301):
        by_row = np.full((COUNT, VIEWS), -9)
        for k in range(VIEWS):
            rows, views = told(epoch_of(view_rows(), epoch=start + k)[0])
            by_row[rows, k] = views
        np.testing.assert_array_equal(np.sort(by_row, axis=1), [[0, 1, 2]] * COUNT)
        for block in range(0, COUNT, 64):
            assert len(np.unique(by_row[block : block + 64], axis=0)) == 1


def test_draws_are_even_and_independent_between_blocks():
    rows = ViewRows(numbered(64 * 600), views=3, seed=1)
    first, second = rows.shown(1), rows.shown(4)
    for shown in (first, second):
        assert np.bincount(shown, minlength=3).min() > 160
    pairs = np.bincount(first[:-1] * 3 + first[1:], minlength=9)
    again = np.bincount(first * 3 + second, minlength=9)
    assert min(pairs.min(), again.min()) > 35  # 66.6 expected, deviation 7.7


def test_draws_follow_from_seed_and_epoch_alone():
    late = view_rows().shown(17)
    rows = view_rows()
    for epoch in range(1, 17):
        rows.shown(epoch)
    np.testing.assert_array_equal(rows.shown(17), late)
    assert (view_rows(seed=6).shown(17) != late).any()
    assert (view_rows().shown(20) != late).any(), "another three epochs have another order"


def test_order_of_rows_is_that_of_an_epoch_without_views(small_pools):
    rows, _ = told(epoch_of(view_rows(), epoch=2, seed=8)[0])
    drawn = epoch_pools(COUNT, row_values=6, rng=np.random.default_rng(8))
    np.testing.assert_array_equal(rows, np.concatenate([pool.rows for pool in drawn]))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("epoch", [1, 2, 5])
def test_held_and_read_are_equal(small_pools, ahead, epoch):
    held = epoch_of(view_rows(), epoch=epoch)
    read = epoch_of(view_rows(), epoch=epoch, held=False, ahead=ahead)
    for ours, theirs in zip(held, read, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(told(held[0])[0] % 4, held[1])


class Counting(MemoryRows):
    """Rows that note which views were read."""

    def read_view(self, view, start, stop):
        noted.append((view, start, stop))
        assert start % 64 == 0 and (stop % 64 == 0 or stop == COUNT)
        return super().read_view(view, start, stop)


noted = []


def test_an_epoch_reads_one_view_of_each_row_once():
    noted.clear()
    rows = Counting(**vars(numbered()))
    epoch_of(view_rows(rows), epoch=1, held=False)
    assert sum(stop - start for _, start, stop in noted) == COUNT
    assert {view for view, _, _ in noted} == {0, 1, 2}
    noted.clear()
    held = RowSource(view_rows(rows), held=True)
    for epoch in (1, 2):
        list(held.epoch(np.random.default_rng(0), 100, epoch=epoch))
    assert sum(stop - start for _, start, stop in noted) == VIEWS * COUNT, "held: read once"


def test_scale_is_of_the_images():
    source = RowSource(view_rows(), held=True)
    found = np.concatenate([f for f, _ in source.in_order(512)])
    np.testing.assert_array_equal(found, numbered().features)


@pytest.mark.parametrize(
    ("memory_rows", "residence"),
    [
        (4500, Residence(train=True, validation=True, ahead=False)),
        (4499, Residence(train=False, validation=True, ahead=True)),
        (1535, Residence(train=False, validation=False, ahead=False)),
    ],
)
def test_all_views_are_held_or_none(small_pools, memory_rows, residence):
    found = plan_residence(view_rows(), None, memory_bytes=memory_rows * ROW_BYTES, head="dense")
    assert found == residence


def test_rows_that_bound_their_own_memory_count_for_nothing():
    class Streamed(MemoryRows):
        def pieces(self, pools, *, epoch, piece_rows):
            yield self.features, self.labels

    rows = Streamed(**vars(numbered()))
    assert plan_residence(rows, numbered(), memory_bytes=10, head="dense") == Residence(
        train=False, validation=False, ahead=False
    )


@pytest.mark.parametrize("asked", [0, 4])
def test_views_that_are_not_there_are_a_callers_mistake(asked):
    with pytest.raises(ValueError, match=f"1 to 3 views, found {asked}"):
        view_rows(views=asked)
    with pytest.raises(ValueError, match="1 to 0 views"):
        ViewRows(blobs(20, n_classes=2), views=1, seed=0)


# Rows made of rows


def test_subset_has_the_views_of_its_rows():
    positions = np.sort(np.random.default_rng(0).choice(COUNT, 700, replace=False))
    subset = Subset(numbered(), positions)
    rows, views = told(subset.read_view(2, 100, 400))
    np.testing.assert_array_equal(rows, positions[100:400])
    assert set(views) == {2}
    rows, views = told(epoch_of(view_rows(subset), epoch=1, held=False)[0])
    assert sorted(rows) == positions.tolist() and set(views) == {0, 1, 2}


def test_loaded_rows_hold_the_views_asked_for():
    loaded = Loaded(numbered(), views=2)
    assert loaded.views == 2
    np.testing.assert_array_equal(loaded.read_view(1, 5, 9), numbered().read_view(1, 5, 9))
    assert Loaded(numbered()).views == 0


def test_views_follow_their_images_to_other_labels(small_pools):
    rows = numbered()
    labels = np.random.default_rng(3).permutation(rows.labels)
    for held in (False, True):
        features, found = epoch_of(view_rows(Relabelled(rows, labels)), epoch=2, held=held)
        seen, views = told(features)
        np.testing.assert_array_equal(found, labels[seen])
        assert set(views) == {0, 1, 2}


@pytest.mark.parametrize("ahead", [False, True])
def test_epochs_keep_their_versions_under_other_labels(small_pools, ahead):
    labels = np.random.default_rng(3).permutation(numbered().labels)
    rows = RelabelledEpochs(view_rows().settled(held=False, ahead=ahead), labels)
    features, found = epoch_of(rows, epoch=2, piece_rows=77)
    seen, views = told(features)
    np.testing.assert_array_equal(found, labels[seen])
    assert set(views) == {0, 1, 2}


# Runs

VIEWED = dataclasses.replace(
    RECIPE, augmentation=Views(augmentation=Augmentation(), seed=9, count=3)
)


def features(recipe=VIEWED):
    return MemoryFeatures(
        {"train": varied(blobs(66, n_classes=2), views=3), "validation": blobs(40, n_classes=2)},
        class_names=("cats", "dogs"),
        recipe=recipe,
    )


@pytest.mark.parametrize("settings", [LogisticSettings(), DenseSettings(epochs=2, units=8)])
def test_run_tells_its_views_and_what_it_may_be_compared_with(settings, tmp_path):
    run = train(features(), settings, cache=tmp_path, options=TrainOptions(views=2))
    assert run.augmentation == Augmentation().to_dict() | {"seed": 9, "views": 2}
    clean = train(features(RECIPE), settings, cache=tmp_path)
    assert clean.augmentation is None
    assert run.features.comparable == clean.features.comparable
    assert run.features.rows == {"train": 66, "validation": 40}


def test_without_asking_views_are_not_used(tmp_path):
    run = train(features(), LogisticSettings(), cache=tmp_path)
    other = train(features(RECIPE), LogisticSettings(), cache=tmp_path)
    assert run.augmentation is None
    assert run.metrics == other.metrics


def test_shuffled_labels_with_views_are_a_control(tmp_path):
    many = MemoryFeatures(
        {
            "train": varied(blobs(400, n_classes=2), views=3),
            "test": blobs(400, n_classes=2, seed=9),
        },
        class_names=("cats", "dogs"),
        recipe=VIEWED,
    )
    for settings in (LogisticSettings(), DenseSettings(epochs=3, units=8, learning_rate=1e-2)):
        options = TrainOptions(views=3, shuffle_labels=True)
        run = train(many, settings, cache=tmp_path, options=options)
        assert 0.3 < run.metrics["test"]["accuracy"] < 0.7


@pytest.mark.parametrize(
    ("recipe", "asked", "message"),
    [
        (RECIPE, 2, r"(?s)set blobs/\S+ has no views.*fs embed blobs --views 2"),
        (RECIPE, "all", r"(?s)has no views.*fs embed blobs --views 6"),
        (VIEWED, 4, r"(?s)has 3 views of each training image, 4 asked for.*--views 4"),
        (VIEWED, 0, "at least 1, found 0"),
    ],
)
def test_views_that_a_set_does_not_have_are_refused(recipe, asked, message):
    with pytest.raises(InvalidInput, match=message):
        count_views(features().name, recipe, asked)


def test_views_asked_for_are_counted():
    assert [count_views("a/b", VIEWED, asked) for asked in (1, 3, "all")] == [1, 3, 3]


def test_fits_are_equal_from_memory_and_disk(small_pools):
    count = 1500
    rows = varied(blobs(count, n_classes=3, distance=0.5), views=3)
    shown = ViewRows(rows, views=3, seed=2)
    row_bytes = rows.features[0].nbytes
    for settings in (DenseSettings(units=4, epochs=4, learning_rate=1e-3), SgdSettings(epochs=4)):
        fitted = [
            create_head(settings).fit(
                shown, None, options=FitOptions(n_classes=3, seed=2, memory_bytes=memory_bytes)
            )
            for memory_bytes in (3 * count * row_bytes, 2 * count * row_bytes, 900 * row_bytes)
        ]
        first, *others = (head.predict_proba(rows.features) for head in fitted)
        for other in others:
            np.testing.assert_array_equal(other, first)
