"""Rows that are computed when they are read: what of them is in memory."""

import tracemalloc

import numpy as np
import pytest

from featurestore.training.streamed_features import StreamedRows

COUNT, COLUMNS, BATCH = 1000, 2048, 50
SPLIT_BYTES = COUNT * COLUMNS * 4


class Stored:
    labels = np.arange(COUNT) % 2
    sample_ids = np.arange(COUNT).astype(str)
    sha256 = np.zeros((COUNT, 32), np.uint8)

    def __len__(self):
        return COUNT


class Pixels:
    def batches(self, rows, *, batch_size):
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]


class Network:
    batch_size = BATCH
    feature_shape = (COLUMNS,)

    def embed_stream(self, batches):
        for rows in batches:
            yield np.repeat(rows.astype(np.float32)[:, None], COLUMNS, axis=1)


def streamed(kept_rows):
    return StreamedRows(Stored(), Pixels(), Network(), dtype="float32", kept_rows=kept_rows)


def peak_of(action):
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kept", [1.0, 0.5, 0.0])
def test_rows_are_in_memory_once_where_they_are_kept(kept):
    made = []

    def load_twice():
        made.append(streamed(round(COUNT * kept)))
        for _ in range(2):
            features, _ = made[0].load()
            assert np.array_equal(features[:, 7], np.arange(COUNT))
            del features

    # What is returned, and beside it what is kept where that is not all.
    expected = SPLIT_BYTES * (1 if kept == 1.0 else 1 + kept)
    assert peak_of(load_twice) < expected + 0.2 * SPLIT_BYTES


def test_kept_rows_are_lent_not_given():
    rows = streamed(COUNT)
    first = rows.read(3, 9)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    assert rows.load()[0][8, 0] == 8
    assert np.array_equal(rows.read(-2, COUNT)[:, 0], [COUNT - 2, COUNT - 1])
    assert len(rows.read(9, 3)) == 0
