"""Rows are gathered by digest from any number of sources, in the order asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.embedding.rows import Rows


class Source:
    """Rows whose feature is their digest's number; counts what is read."""

    def __init__(self, numbers, block_rows=4):
        self.numbers = np.array(numbers, np.int64)
        self.digests = digests(numbers)
        self.block_rows = block_rows
        self.read_rows = 0

    def read(self, start, stop):
        self.read_rows += stop - start
        return np.repeat(self.numbers[start:stop, None], 3, axis=1).astype(np.float32)


def digests(numbers):
    out = np.zeros((len(numbers), 32), np.uint8)
    for row, number in enumerate(numbers):
        out[row, :2] = number % 256, number // 256  # the rest are zeros, as a digest's end may be
    return out


@given(
    parts=st.lists(st.lists(st.integers(0, 500), max_size=20), min_size=1, max_size=4),
    data=st.data(),
)
def test_gather_gives_each_digest_its_features(parts, data):
    numbers = [number for part in parts for number in part]
    rows = Rows([Source(part) for part in parts])
    assert len(rows.digests) == len(numbers)
    if numbers:
        wanted = data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=30))
        np.testing.assert_array_equal(rows.gather(digests(wanted))[:, 0], wanted)


def test_a_digest_without_features_is_named():
    with pytest.raises(KeyError, match="0300"):
        Rows([Source([1, 2])]).gather(digests([1, 3]))


def test_rows_in_order_are_read_once():
    source = Source(list(range(100)))
    rows = Rows([source])
    for start in range(0, 100, 10):
        rows.gather(digests(range(start, start + 10)))
    assert source.read_rows == 100


def test_what_is_kept_is_used_before_it_is_dropped(monkeypatch):
    monkeypatch.setattr("featurestore.embedding.rows._KEPT_BYTES", 1)  # the last block alone
    sources = [Source(list(range(at, at + 4))) for at in (8, 0, 4)]
    rows = Rows(sources)
    for wanted in ([0, 1, 2], [3, 4], [5, 8], [9, 10, 11]):
        rows.gather(digests(wanted))
    assert [source.read_rows for source in sources] == [4, 4, 4]
