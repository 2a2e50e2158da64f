"""Near duplicates: every pair, whatever the blocks, in the memory that was allowed."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.audit.near import (
    BlockSizes,
    Known,
    Search,
    find_near,
    fit_blocks,
    plan_blocks,
)
from featurestore.errors import InvalidInput
from featurestore.testing.heads import MemoryRows


def known_of(rows, *, labels=None, digests=None):
    total = sum(rows.values())
    return Known(
        splits=np.repeat(np.arange(len(rows)), list(rows.values())),
        labels=np.zeros(total, np.int64) if labels is None else labels,
        digests=np.arange(total) if digests is None else digests,
    )


def search(features, rows, *, sizes, threshold=0.9, keep=10_000, **columns):
    splits, first = {}, 0
    for name, count in rows.items():
        part = features[first : first + count]
        splits[name] = MemoryRows(part, np.zeros(count, np.int64))
        first += count
    return find_near(
        splits,
        known_of(rows, **columns),
        Search(threshold, keep),
        panels=plan_blocks(rows, sizes),
    )


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    panel_rows=st.integers(1, 100),
    strip_rows=st.integers(1, 40),
)
def test_every_pair_is_looked_at_once(rows, panel_rows, strip_rows):
    counts = {f"split{i}": count for i, count in enumerate(rows)}
    seen = np.zeros((sum(rows), sum(rows)), np.int64)
    panels = plan_blocks(counts, BlockSizes(panel_rows, strip_rows))
    for panel in panels:
        assert panel.rows <= max(panel_rows, strip_rows)
        begin = panel.held[0].first
        for strip in panel.held:
            seen[begin : strip.last, strip.first : strip.last] += 1
        for strip in panel.passing:
            seen[begin : begin + panel.rows, strip.first : strip.last] += 1
    np.testing.assert_array_equal(np.triu(seen, 1), np.triu(np.ones_like(seen), 1))
    held = [strip for panel in panels for strip in panel.held]
    assert [(s.split, row) for s in held for row in range(s.start, s.stop)] == [
        (name, row) for name, count in counts.items() for row in range(count)
    ]


@st.composite
def clustered(draw):
    """Rows around a few directions, some zero, some copies, of any scale."""
    counts = draw(st.lists(st.integers(1, 25), min_size=1, max_size=3))
    total = sum(counts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    centres = np.maximum(rng.normal(size=(4, 12)), 0) + 0.05
    noise = rng.normal(size=(total, 12)) * draw(st.sampled_from([0.0, 0.05, 0.3]))
    features = centres[rng.integers(0, 4, total)] + noise
    features *= 10.0 ** rng.uniform(-2, 3, (total, 1))
    features[rng.random(total) < 0.1] = 0
    return {f"split{i}": count for i, count in enumerate(counts)}, features.astype(np.float32), rng


@settings(max_examples=80, deadline=None)
@given(
    made=clustered(),
    panel_rows=st.integers(1, 80),
    strip_rows=st.integers(1, 30),
    threshold=st.sampled_from([0.5, 0.9, 0.99, 1.0]),
)
def test_pairs_are_those_of_all_pairs(made, panel_rows, strip_rows, threshold):
    rows, features, rng = made
    total = len(features)
    labels, digests = rng.integers(0, 3, total), rng.integers(0, total, total)
    sizes = BlockSizes(panel_rows, strip_rows)
    found = search(features, rows, sizes=sizes, threshold=threshold, labels=labels, digests=digests)

    exact = features.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    exact /= np.where(lengths == 0, 1, lengths)
    cosines = exact @ exact.T
    i, j = np.triu_indices(total, 1)
    known = known_of(rows)
    near = (cosines[i, j] >= threshold - 2e-6) & (digests[i] != digests[j])
    unsure = np.abs(cosines[i, j] - (threshold - 2e-6)) < 1e-6
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs >= set(zip(i[near & ~unsure].tolist(), j[near & ~unsure].tolist(), strict=True))
    assert pairs <= set(zip(i[near | unsure].tolist(), j[near | unsure].tolist(), strict=True))
    assert len(pairs) == len(found.first) == found.across + found.within

    apart = known.splits[found.first] != known.splits[found.second]
    assert found.across == apart.sum()
    assert (np.diff(apart.astype(int)) <= 0).all(), "pairs across splits come first"
    assert (np.diff(found.similarity[apart]) <= 0).all()
    assert (np.diff(found.similarity[~apart]) <= 0).all()
    np.testing.assert_allclose(found.similarity, cosines[found.first, found.second], atol=2e-6)
    assert found.disagreeing == np.sum(labels[found.first] != labels[found.second])
    assert set(np.flatnonzero(found.leaking)) == set(found.first[apart])
    assert found.zero_rows == np.sum(lengths == 0)
    below = cosines[i, j][cosines[i, j] < threshold - 2e-6]
    if unsure.any() or not len(below):
        return
    assert found.next_similarity == pytest.approx(below.max(), abs=2e-6)


def test_only_the_first_pairs_are_kept_but_all_are_counted():
    features = np.repeat(np.eye(4, dtype=np.float32), [300, 200, 1, 1], axis=0)
    rng = np.random.default_rng(0)
    features = features[rng.permutation(len(features))]
    rows = {"train": 300, "test": 202}
    found = search(features, rows, sizes=BlockSizes(90, 17), keep=5)
    assert len(found.first) == 5
    kinds = features.argmax(axis=1)
    same = np.triu(kinds[:, None] == kinds[None, :], 1)
    assert found.across == same[:300, 300:].sum()
    assert found.across + found.within == same.sum()
    assert (found.first < 300).all() and (found.second >= 300).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_very_small_and_very_large_values_keep_their_direction(scale):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2, 50))
    features = np.stack([base[0], base[0] * 3, base[1]]).astype(np.float32) * np.float32(scale)
    found = search(features, {"train": 2, "test": 1}, sizes=BlockSizes(8, 8), threshold=1.0)
    assert (found.first.tolist(), found.second.tolist()) == ([0], [1])


def test_one_row_has_no_pair():
    found = search(np.ones((1, 3), np.float16), {"train": 1}, sizes=BlockSizes(8, 8))
    assert (found.across, found.within, found.next_similarity) == (0, 0, None)


@pytest.mark.parametrize("memory_bytes", [40_000, 4 * 2**20, 2**30])
@pytest.mark.parametrize("columns", [1, 1000])
def test_blocks_fit_the_memory(columns, memory_bytes):
    sizes = fit_blocks(columns, memory_bytes=memory_bytes)
    assert sizes.panel_rows >= sizes.strip_rows >= 1
    used = 4 * columns * sizes.panel_rows + 12 * columns * sizes.strip_rows
    used += 5 * sizes.panel_rows * sizes.strip_rows
    assert used <= memory_bytes


def test_no_memory_for_two_rows_is_refused():
    with pytest.raises(InvalidInput, match=r"16005 bytes, found 16000\n.*--memory"):
        fit_blocks(1000, memory_bytes=16_000)


class Lazy:
    """Rows made when they are read."""

    feature_shape = (2000,)

    def __init__(self, count):
        self.count = count
        self.reads = 0

    def __len__(self):
        return self.count

    def read(self, start, stop):
        self.reads += stop - start
        rng = np.random.default_rng(start)
        return np.maximum(rng.normal(size=(stop - start, 2000)), 0).astype(np.float16)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows():
    budget = 4 * 2**20  # the rows take 48 MB in float32
    rows = {"train": 4000, "test": 2000}
    splits = {name: Lazy(count) for name, count in rows.items()}
    panels = plan_blocks(rows, fit_blocks(2000, memory_bytes=budget))
    assert len(panels) > 10
    tracemalloc.start()
    try:
        find_near(splits, known_of(rows), Search(0.95, 20), panels=panels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # `Lazy` makes its rows in float64; beside the budget there are a few bytes a row.
    assert peak < budget + 64 * 2000 * 8 * 2 + 2**20
    assert sum(part.reads for part in splits.values()) < 6000 * (len(panels) / 2 + 1.5)


def test_many_copies_take_no_memory_of_their_own():
    features = np.ones((1500, 4), np.float16)  # 1.1 million pairs
    tracemalloc.start()
    try:
        found = search(features, {"train": 1000, "test": 500}, sizes=BlockSizes(64, 64), keep=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found.across, found.within) == (500_000, 999 * 500 + 499 * 250)
    assert peak < 2**21
