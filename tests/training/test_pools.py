"""The order of an epoch: each row once, the same for every budget, and well mixed."""

import tracemalloc

import numpy as np
import pytest

from featurestore.testing.heads import MemoryRows, blobs
from featurestore.training import pools
from featurestore.training.pools import BLOCK_ROWS, epoch_pools, largest_pool, pool_rows, read_pool

WIDE = 2**17  # values of a row: the smallest pool, 16 blocks


def taken(count, *, row_values=WIDE, seed=0):
    rng = np.random.default_rng(seed)
    return list(epoch_pools(count, row_values=row_values, rng=rng))


@pytest.mark.parametrize("count", [1, 63, 1024, 1025, 1088, 2048, 5000, 10_001])
def test_every_row_comes_once_and_no_pool_is_larger_than_stated(count):
    epoch = taken(count)
    visited = np.concatenate([pool.rows for pool in epoch])
    assert sorted(visited.tolist()) == list(range(count))
    largest = largest_pool(count, row_values=WIDE)
    assert max(len(pool) for pool in epoch) <= largest <= pool_rows(WIDE) == 1024
    assert largest < max(len(pool) for pool in epoch) + BLOCK_ROWS


def test_no_rows_no_pools():
    assert taken(0) == []
    assert largest_pool(0, row_values=WIDE) == 0


def test_pools_of_one_epoch_are_about_equal():
    # 1,025 rows are not 1,024 and a last pool, and so a last batch, of one row.
    assert [len(pool) for pool in taken(1025)] in ([513, 512], [576, 449])


def test_rows_that_fit_one_pool_are_fully_permuted():
    (pool,) = taken(1000, seed=3)
    np.testing.assert_array_equal(pool.rows, np.random.default_rng(3).permutation(1000))


def test_size_of_a_pool():
    assert pool_rows(8192) == 16_384
    assert pool_rows(512) == 262_144
    assert pool_rows(3) % BLOCK_ROWS == 0
    assert pool_rows(10**9) == 16 * BLOCK_ROWS


def test_blocks_are_whole_ascending_and_merged():
    for pool in taken(5000):
        edges = [edge for block in pool.blocks for edge in block]
        assert edges == sorted(set(edges))
        assert all(edge % BLOCK_ROWS == 0 or edge == 5000 for edge in edges)


def test_same_generator_same_order_and_epochs_differ():
    first, again, other = taken(5000), taken(5000), taken(5000, seed=1)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
        assert a.blocks == b.blocks
        assert not np.array_equal(a.rows, c.rows)
    rng = np.random.default_rng(0)
    epochs = [list(epoch_pools(5000, row_values=WIDE, rng=rng)) for _ in range(2)]
    assert epochs[0][0].blocks != epochs[1][0].blocks


def test_classes_that_lie_apart_are_mixed():
    # Rows sorted by class, as manifests are: 20 blocks of one, 60 of the other. A pool of 16 blocks
    # drawn at random has about 4 of the first; 16 neighbouring blocks would have 16 or none.
    labels = np.repeat([0, 1], [20 * BLOCK_ROWS, 60 * BLOCK_ROWS])
    shares = [
        np.mean(labels[pool.rows] == 0) for seed in range(40) for pool in taken(5120, seed=seed)
    ]
    assert np.mean(shares) == pytest.approx(0.25)
    # Hypergeometric: 16 of 80 blocks, 20 of them of the class.
    assert np.std(shares) == pytest.approx(np.sqrt(0.25 * 0.75 / 16 * 64 / 79), rel=0.2)
    # Within a pool, batches of 32 rows are as mixed as rows drawn one by one.
    batches = []
    for seed in range(40):
        pool = taken(5120, seed=seed)[0]
        share = np.mean(labels[pool.rows] == 0)
        found = (labels[pool.rows] == 0).reshape(-1, 32).mean(axis=1)
        batches.append(np.var(found) / (share * (1 - share) / 32))
    assert np.mean(batches) == pytest.approx(1, abs=0.15)


def test_a_row_moves_over_the_whole_epoch():
    # Place of row 0 in the epoch, over 300 epochs: uniform in [0, 1) has mean 1/2, variance 1/12.
    places = []
    for seed in range(300):
        visited = np.concatenate([pool.rows for pool in taken(4096, seed=seed)])
        places.append(np.flatnonzero(visited == 0)[0] / 4096)
    assert np.mean(places) == pytest.approx(0.5, abs=0.07)
    assert np.var(places) == pytest.approx(1 / 12, rel=0.2)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_pool_is_read_as_its_rows(dtype, monkeypatch):
    monkeypatch.setattr(pools, "_POOL_BYTES", 0)
    rows = blobs(2100, n_classes=3, feature_shape=(2, 3), dtype=dtype)
    for pool in taken(2100, row_values=6):
        features, labels = read_pool(rows, pool)
        assert features.dtype == dtype
        np.testing.assert_array_equal(features[pool.order], rows.features[pool.rows])
        np.testing.assert_array_equal(labels[pool.order], rows.labels[pool.rows])


def test_reading_holds_little_more_than_the_pool():
    class Generated(MemoryRows):
        def __len__(self):
            return 64_000

        @property
        def feature_shape(self):
            return (2048,)

        def read(self, start, stop):
            return np.full((stop - start, 2048), start, np.float16)

    rows = Generated(np.empty(0), np.zeros(64_000, np.int64))
    pool = next(epoch_pools(64_000, row_values=2**17, rng=np.random.default_rng(0)))
    tracemalloc.start()
    features, _ = read_pool(rows, pool)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert features.nbytes == 1024 * 4096
    assert peak < 1.5 * features.nbytes
