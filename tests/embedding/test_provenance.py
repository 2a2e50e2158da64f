"""Which machines computed the rows of a set."""

import time

import numpy as np

from featurestore.embedding.provenance import computed_on
from featurestore.embedding.rows import StagedRows
from featurestore.stores.staging import StagedShard


def shards(keys, rows):
    return [
        StagedRows(StagedShard(None, keys[start : start + rows], {}, (1,), np.dtype("f2"), 0))
        for start in range(0, len(keys), rows)
    ]


def seconds(keys, sources):
    start = time.perf_counter()
    found = computed_on(keys, sources, device="test")
    assert [each["device"] for each in found] == ["test"]
    return time.perf_counter() - start


def test_many_shards_cost_one_sort_of_the_keys():
    keys = np.random.default_rng(0).integers(0, 256, (100_000, 32), np.uint8)
    few, many = shards(keys, 100_000), shards(keys, 256)
    seconds(keys, few)
    one = min(seconds(keys, few) for _ in range(3))
    assert seconds(keys, many) < 10 * one  # a sort for each of them: 130 times


def test_a_shard_of_other_rows_does_not_count():
    keys = np.random.default_rng(0).integers(0, 256, (20, 32), np.uint8)
    assert computed_on(keys[:10], shards(keys[10:], 5), device="test") == []
    assert computed_on(keys[:10], [], device="test") == []
    assert computed_on(keys[:0], shards(keys, 5), device="test") == []
