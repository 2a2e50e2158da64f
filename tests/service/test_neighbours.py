from __future__ import annotations

import numpy as np
import pytest

from featurestore.service.neighbours import find_nearest

NONE = np.empty(0, np.int64)


def brute(vectors, query, count, *, same=(), without=None):
    v, q = vectors.astype(np.float64), query.astype(np.float64)
    lengths = np.linalg.norm(v, axis=1) * np.linalg.norm(q)
    with np.errstate(invalid="ignore", divide="ignore"):
        distances = np.where(lengths > 0, 1 - (v @ q) / lengths, 1.0)
    distances = np.clip(distances, 0, 2)
    distances[list(same)] = 0
    order = [row for row in np.lexsort((np.arange(len(v)), distances)) if row != without][:count]
    return order, distances[order]


@pytest.mark.parametrize("rows", [1, 5, 4096, 9001])
@pytest.mark.parametrize("count", [1, 12, 200])
def test_are_those_of_brute_force(rows, count):
    rng = np.random.default_rng(rows)
    vectors = np.abs(rng.normal(size=(rows, 32))).astype(np.float16)
    for query in (vectors[rows // 2], np.abs(rng.normal(size=32)).astype(np.float16)):
        found = find_nearest(vectors, query, count=count, same=NONE, without=None)
        expected, distances = brute(vectors, query, count)
        np.testing.assert_array_equal(found.rows, expected)
        np.testing.assert_allclose(found.distances, distances, atol=1e-12)


def test_leave_out_the_row_itself():
    vectors = np.random.default_rng(0).random((50, 8)).astype(np.float16)
    found = find_nearest(vectors, vectors[7], count=100, same=np.array([7]), without=7)
    assert len(found.rows) == 49
    assert 7 not in found.rows
    expected, _ = brute(vectors, vectors[7], 100, without=7)
    np.testing.assert_array_equal(found.rows, expected)


def test_the_same_bytes_are_at_distance_0():
    vectors = np.random.default_rng(0).random((50, 8)).astype(np.float16)
    same = np.array([3, 31])
    found = find_nearest(vectors, vectors[3], count=2, same=same, without=3)
    assert (found.rows[0], found.distances[0]) == (31, 0.0)
    assert found.distances[1] > 0


def test_nearly_equal_rows_are_told_apart():
    vectors = np.full((5000, 16), 0.25, np.float32)
    rng = np.random.default_rng(0)
    vectors += rng.normal(scale=1e-5, size=vectors.shape).astype(np.float32)
    found = find_nearest(vectors, vectors[0], count=20, same=NONE, without=0)
    expected, _ = brute(vectors, vectors[0], 20, without=0)
    np.testing.assert_array_equal(found.rows, expected)


def test_more_equal_rows_than_asked_for_come_in_order():
    vectors = np.ones((9000, 4), np.float16)
    found = find_nearest(vectors, vectors[0], count=3, same=NONE, without=1)
    np.testing.assert_array_equal(found.rows, [0, 2, 3])
    np.testing.assert_array_equal(found.distances, 0)


def test_rows_of_zeros_are_at_distance_1():
    vectors = np.zeros((3, 4), np.float16)
    vectors[1] = 1
    found = find_nearest(vectors, vectors[1], count=3, same=NONE, without=None)
    np.testing.assert_array_equal(found.rows, [1, 0, 2])
    np.testing.assert_allclose(found.distances, [0, 1, 1], atol=1e-12)


def test_a_lone_row_has_no_neighbour():
    vectors = np.ones((1, 4), np.float16)
    assert len(find_nearest(vectors, vectors[0], count=5, same=NONE, without=0).rows) == 0
