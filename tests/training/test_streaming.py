"""Rows held or read from disk: the same pieces, within the stated memory."""

import numpy as np
import pytest

from featurestore.errors import InvalidInput
from featurestore.testing.heads import MemoryRows, blobs
from featurestore.training import pools
from featurestore.training.streaming import Residence, RowSource, plan_residence

ROWS = blobs(2500, n_classes=3, feature_shape=(2, 3))
ROW_BYTES = 12


class Counted:
    """Rows that count what is read, and refuse to be loaded whole."""

    def __init__(self, rows):
        self.rows, self.read_rows, self.longest = rows, 0, 0
        self.feature_shape, self.labels = rows.feature_shape, rows.labels

    def __len__(self):
        return len(self.rows)

    def read(self, start, stop):
        self.read_rows += stop - start
        self.longest = max(self.longest, stop - start)
        return self.rows.read(start, stop)

    def load(self):
        raise AssertionError("these rows do not fit")


@pytest.fixture
def small_pools(monkeypatch):
    """Three pools of about 833 rows."""
    monkeypatch.setattr(pools, "_POOL_BYTES", 0)


def plan(memory_rows, *, validation=300):
    held_out = None if validation is None else MemoryRows(*(a[:validation] for a in ROWS.load()))
    return plan_residence(ROWS, held_out, memory_bytes=memory_rows * ROW_BYTES, head="dense")


@pytest.mark.parametrize(
    ("memory_rows", "train", "validation", "ahead"),
    [
        (2800, True, True, False),
        (2799, True, False, False),
        (2500, True, False, False),
        (2499, False, True, True),
        (2092, False, True, True),
        (2091, False, False, True),
        (1792, False, False, True),
        (1791, False, False, False),
        (896, False, False, False),
    ],
)
def test_what_is_held(small_pools, memory_rows, train, validation, ahead):
    assert plan(memory_rows) == Residence(train=train, validation=validation, ahead=ahead)


def test_without_validation_rows(small_pools):
    assert plan(2500, validation=None) == Residence(train=True, validation=True, ahead=False)
    assert plan(2500, validation=0).train


def test_memory_for_less_than_a_pool_is_refused(small_pools):
    with pytest.raises(InvalidInput, match=r"896 rows at once, 1MiB, found 0MiB\n.*--memory 1MiB"):
        plan(895)


def test_rows_of_one_pool_cannot_be_read_from_disk():
    # They are permuted as a whole, which needs all of them.
    with pytest.raises(InvalidInput, match="2500 rows"):
        plan(2499)


@pytest.mark.parametrize("ahead", [False, True])
def test_an_epoch_from_disk_is_one_from_memory(small_pools, ahead):
    counted = Counted(ROWS)
    held = RowSource(ROWS, held=True)
    read = RowSource(counted, held=False, ahead=ahead)
    generators = [np.random.default_rng(5) for _ in range(2)]
    counted.read_rows = 0
    for _ in range(2):
        pairs = zip(
            held.epoch(generators[0], 100, epoch=1),
            read.epoch(generators[1], 100, epoch=1),
            strict=True,
        )
        seen = []
        for ours, theirs in pairs:
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
            seen.append(len(ours[1]))
    assert sum(seen) == 2500
    # 833 rows are eight pieces of 100 and one of about 33: no piece has rows of two pools.
    assert sum(size < 100 for size in seen) == 3
    assert counted.read_rows == 2 * 2500, "each row is read once an epoch"


@pytest.mark.parametrize("held", [True, False])
def test_rows_in_order(held):
    source = RowSource(ROWS if held else Counted(ROWS), held=held)
    pieces = list(source.in_order(999))
    assert [len(labels) for _, labels in pieces] == [999, 999, 502]
    np.testing.assert_array_equal(np.concatenate([f for f, _ in pieces]), ROWS.features)
    np.testing.assert_array_equal(np.concatenate([y for _, y in pieces]), ROWS.labels)


def test_a_failed_read_ahead_is_the_readers_error(small_pools):
    class Failing(Counted):
        def read(self, start, stop):
            if stop > 1280:
                raise OSError("chunk 20 is gone")
            return super().read(start, stop)

    source = RowSource(Failing(ROWS), held=False, ahead=True)
    with pytest.raises(OSError, match="chunk 20"):
        list(source.epoch(np.random.default_rng(0), 100, epoch=1))


def test_an_epoch_left_half_way_ends_its_thread(small_pools):
    import threading

    epoch = RowSource(Counted(ROWS), held=False, ahead=True).epoch(
        np.random.default_rng(0), 100, epoch=1
    )
    next(epoch)
    epoch.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("pool")]
