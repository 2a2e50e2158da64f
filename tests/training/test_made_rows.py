"""Rows made of other rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.testing.heads import blobs
from featurestore.training.rows import Loaded, Subset, stored_bytes

ROWS = blobs(3000, n_classes=3, feature_shape=(2, 2))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32), count=st.integers(0, 400), cut=st.floats(0, 1), end=st.floats(0, 1)
)
def test_a_subset_is_the_rows_at_its_positions(seed, count, cut, end):
    positions = np.sort(np.random.default_rng(seed).choice(3000, count, replace=False))
    subset = Subset(ROWS, positions)
    assert (len(subset), subset.feature_shape) == (count, (2, 2))
    np.testing.assert_array_equal(subset.labels, ROWS.labels[positions])
    np.testing.assert_array_equal(subset.sample_ids, ROWS.sample_ids[positions])
    features, labels = subset.load()
    assert features.dtype == ROWS.features.dtype
    np.testing.assert_array_equal(features, ROWS.features[positions])
    np.testing.assert_array_equal(labels, subset.labels)
    start, stop = sorted((int(cut * count), int(end * count)))
    np.testing.assert_array_equal(subset.read(start, stop), features[start:stop])


class Counting:
    def __init__(self, rows):
        self.rows, self.read_rows, self.longest = rows, 0, 0

    def __getattr__(self, name):
        return getattr(self.rows, name)

    def __len__(self):
        return len(self.rows)

    def read(self, start, stop):
        self.read_rows += stop - start
        self.longest = max(self.longest, stop - start)
        return self.rows.read(start, stop)


def test_a_subset_reads_little_more_than_its_rows():
    few = Counting(ROWS)
    Subset(few, np.array([0, 10, 1500, 1564, 2999])).load()
    assert few.read_rows == 11 + 65 + 1
    every_other = Counting(ROWS)
    Subset(every_other, np.arange(0, 3000, 2)).load()
    assert every_other.read_rows <= 3000 and every_other.longest <= 1024


@pytest.mark.parametrize("positions", [[-1, 0], [0, 3000], [2, 1], [1, 1]])
def test_positions_that_are_no_rows_are_refused(positions):
    with pytest.raises(ValueError, match="ascend within 3000 rows"):
        Subset(ROWS, np.array(positions))


def test_loaded_rows_are_the_same_and_need_no_more_reads():
    counting = Counting(ROWS)
    loaded = Loaded(counting)
    counting.read = None
    np.testing.assert_array_equal(loaded.load()[0], ROWS.features)
    np.testing.assert_array_equal(loaded.read(5, 9), ROWS.features[5:9])
    np.testing.assert_array_equal(loaded.labels, ROWS.labels)
    np.testing.assert_array_equal(loaded.sample_ids, ROWS.sample_ids)
    assert (len(loaded), loaded.feature_shape) == (3000, (2, 2))
    assert stored_bytes(ROWS) == stored_bytes(loaded) == ROWS.features.nbytes
    assert stored_bytes(Subset(ROWS, np.array([], np.int64))) == 0
