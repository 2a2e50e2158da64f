from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import types

import numpy as np
import pytest

from featurestore.catalogue import MAPS, Catalogue
from featurestore.collect import find_garbage, remove_garbage
from featurestore.errors import IntegrityError
from featurestore.service.map_files import (
    DRAFT,
    POINTS,
    VECTORS,
    map_folder,
    read_array,
    write_array,
)
from featurestore.service.map_rows import MapRows
from featurestore.service.map_worker import make_map, make_map_apart, read_said
from featurestore.service.maps import READY, Maps
from featurestore.service.projection import (
    Layout,
    flat_points,
    neighbour_points,
    place_among,
    principal_scores,
    unit_vectors,
)
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import write_image_folder

QUICK = Layout(iterations=250, perplexity=5)
SETTLED = Layout(iterations=350, perplexity=5)  # after 250, clusters are let go of


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the process that makes maps: several, on small arrays, wait for each other."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def silent(step, done):
    del step, done


def blobs(rows=150, *, columns=24, kinds=3, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(kinds, columns)) * 8
    labels = np.arange(rows) % kinds
    vectors = np.abs(centres[labels] + rng.normal(size=(rows, columns)))
    return vectors.astype(np.float16), labels


@pytest.fixture
def record(tmp_path):
    """A set so small that no neighbours are laid out, which takes a second and more."""
    return embedded(tmp_path, train=3, test=2)


@pytest.fixture
def larger(tmp_path):
    return embedded(tmp_path, train=12, test=6)


def embedded(root, **splits):
    write_image_folder(root / "photos", splits=splits)
    TinyEmbedder(root / "photos", root / "cache")()
    return Catalogue(root / "cache").current()[0]


def until_ready(maps, record, *, seconds=60):
    ends = time.monotonic() + seconds
    steps = []
    while (found := maps.look(record)) != READY:
        assert found.step != "failed", found.reason
        assert time.monotonic() < ends, found
        steps.append(found.step)
        time.sleep(0.002)
    return steps


def until_failed(maps, record):
    ends = time.monotonic() + 30
    while (found := maps.look(record)).step != "failed":
        assert time.monotonic() < ends
        time.sleep(0.002)
    return found.reason


def no_thread(thread):
    raise RuntimeError("no thread to be had")


class TestVectors:
    def test_are_means_over_space_at_length_1(self):
        rows = np.random.default_rng(0).random((5, 3, 4, 7)).astype(np.float16)
        expected = rows.astype(np.float64).mean(axis=(1, 2))
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        found = unit_vectors(rows)
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, expected, rtol=1e-3)

    def test_of_pooled_features_are_these_at_length_1(self):
        found = unit_vectors(np.array([[3, 4], [0, 0]], np.float32))
        np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], rtol=1e-3)

    @pytest.mark.parametrize("size", [1e-30, 6e4, 3e38])
    def test_neither_overflow_nor_vanish(self, size):
        found = unit_vectors(np.array([[size, size]], np.float32))
        np.testing.assert_allclose(found, [[0.5**0.5] * 2], rtol=1e-3)


class TestComponents:
    def test_are_those_of_the_whole_matrix(self):
        vectors, _ = blobs(2500, columns=64)
        z = vectors.astype(np.float64)
        z = (z - z.mean(axis=0)) / z.std(axis=0)
        expected = np.linalg.svd(z, full_matrices=False)[1]
        found = principal_scores(vectors, tell=silent)
        assert found.shape == (2500, 50)
        np.testing.assert_allclose(
            np.linalg.norm(found[:, :3].astype(np.float64), axis=0), expected[:3], rtol=1e-3
        )

    def test_leave_out_a_constant_column(self):
        vectors, _ = blobs()
        vectors[:, 3] = np.float16(0.3337)
        without = principal_scores(np.delete(vectors, 3, axis=1), tell=silent)
        found = principal_scores(vectors, tell=silent)
        np.testing.assert_allclose(
            np.linalg.norm(found, axis=0)[:5], np.linalg.norm(without, axis=0)[:5], rtol=1e-3
        )

    @pytest.mark.parametrize("shape", [(1, 8), (2, 8), (3, 1), (7, 200)])
    def test_of_few_rows_or_columns(self, shape):
        vectors = np.random.default_rng(1).random(shape).astype(np.float16)
        points = flat_points(principal_scores(vectors, tell=silent))
        assert points.shape == (shape[0], 2)
        assert np.isfinite(points).all()
        assert np.abs(points).max() <= 1.0001


@pytest.fixture(scope="module")
def laid_out():
    """Blobs with their points, and how far their layout said it was."""
    vectors, labels = blobs(90)
    scores = principal_scores(vectors, tell=silent)
    told = []
    points = neighbour_points(scores, SETTLED, tell=lambda step, done: told.append(done))
    return types.SimpleNamespace(labels=labels, scores=scores, points=points, told=told)


class TestLayout:
    def test_keeps_blobs_apart(self, laid_out):
        points, labels = laid_out.points, laid_out.labels
        distances = np.linalg.norm(points[:, None] - points[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        assert (labels[distances.argmin(axis=1)] == labels).mean() == 1.0

    def test_is_the_same_again(self, laid_out):
        again = neighbour_points(laid_out.scores, SETTLED, tell=silent)
        np.testing.assert_array_equal(laid_out.points, again)

    def test_places_other_rows_among_their_neighbours(self):
        vectors, labels = blobs(600)
        few = Layout(landmarks=150, iterations=250, perplexity=5)
        steps = []
        points = neighbour_points(
            principal_scores(vectors, tell=silent),
            few,
            tell=lambda step, done: steps.append(step),
        )
        assert set(steps) == {"layout", "placing"}
        centres = np.stack([np.median(points[labels == kind], axis=0) for kind in range(3)])
        nearest = np.linalg.norm(points[:, None] - centres[None], axis=2).argmin(axis=1)
        assert (nearest == labels).mean() > 0.98

    def test_tells_how_far_it_is(self, laid_out):
        told = laid_out.told
        assert told == sorted(told)
        assert told[-1] == 1.0
        assert len(told) >= 5

    @pytest.mark.parametrize("rows", [1, 2, 11, 12, 40])
    def test_of_equal_rows_is_finite(self, rows):
        vectors = np.ones((rows, 8), np.float16)
        points = neighbour_points(principal_scores(vectors, tell=silent), QUICK, tell=silent)
        assert points.shape == (rows, 2)
        assert np.isfinite(points).all()

    def test_fills_its_frame(self, laid_out):
        assert np.abs(laid_out.points).max() == pytest.approx(1, abs=1e-5)


def test_a_place_lies_among_the_points_that_are_near():
    points = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(place_among(np.array([0.1, 0.1, 0.1]), points), [1 / 3, 1 / 3])
    np.testing.assert_allclose(place_among(np.array([0.3, 0.0, 0.2]), points), [1, 0], atol=1e-4)
    np.testing.assert_allclose(place_among(np.zeros(3), points), [1 / 3, 1 / 3])


class TestFiles:
    def test_come_back_as_written(self, tmp_path):
        rows = np.random.default_rng(0).random((10, 4)).astype(np.float16)
        write_array(tmp_path, VECTORS, [rows[:7], rows[7:]], shape=(10, 4), dtype="<f2")
        np.testing.assert_array_equal(read_array(tmp_path, VECTORS), rows)
        assert {path.name for path in tmp_path.iterdir()} == {
            "vectors-v1.npy",
            "vectors-v1.npy.sha256",
        }
        subprocess.run(["sha256sum", "-c", "vectors-v1.npy.sha256"], cwd=tmp_path, check=True)

    @pytest.mark.parametrize("damage", ["flip", "cut", "no list", "no array", "other list"])
    def test_that_are_damaged_are_missing(self, tmp_path, damage):
        write_array(tmp_path, POINTS, [np.ones((9, 2))], shape=(9, 2), dtype="<f4")
        path = tmp_path / "points-v1.npy"
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[-3] ^= 1
            path.write_bytes(content)
        elif damage == "cut":
            path.write_bytes(content[:-8])
        elif damage == "no list":
            path.with_name("points-v1.npy.sha256").unlink()
        elif damage == "no array":
            path.unlink()
        else:
            path.with_name("points-v1.npy.sha256").write_bytes(b"\xff\x00")
        assert read_array(tmp_path, POINTS) is None


class TestMaking:
    def test_goes_on_from_what_was_written(self, record, tmp_path, monkeypatch):
        folder = tmp_path / "map"
        make_map(record, folder, layout=QUICK, tell=silent, written=lambda name: None)
        points = np.array(read_array(folder, POINTS))
        (folder / "points-v1.npy").unlink()
        monkeypatch.setattr(
            "featurestore.service.map_worker.open_record",
            lambda record: pytest.fail("the features were read again"),
        )
        make_map(record, folder, layout=QUICK, tell=silent, written=lambda name: None)
        np.testing.assert_array_equal(read_array(folder, POINTS), points)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_refuses_rows_that_are_not_finite(self, record, tmp_path, value, monkeypatch):
        def with_one(block):
            block = block.copy()
            block[2, ..., 0] = value
            return unit_vectors(block)

        monkeypatch.setattr("featurestore.service.map_worker.unit_vectors", with_one)
        with pytest.raises(IntegrityError, match=r"split train .* rows 2\n"):
            make_map(record, tmp_path / "map", layout=QUICK, tell=silent, written=str)
        assert read_array(tmp_path / "map", VECTORS) is None

    def test_apart_gives_the_same_bytes(self, larger, tmp_path):
        make_map(larger, tmp_path / "here", layout=QUICK, tell=silent, written=str)
        child = make_map_apart(larger, tmp_path / "apart", QUICK)
        with child:
            said = list(read_said(child))
        assert [each["written"] for each in said if "written" in each] == [VECTORS, DRAFT, POINTS]
        for name in (VECTORS, DRAFT, POINTS):
            file = f"{name}-v1.npy"
            assert (tmp_path / "here" / file).read_bytes() == (
                tmp_path / "apart" / file
            ).read_bytes()

    def test_ends_with_whoever_asked_for_it(self, record, tmp_path):
        child = make_map_apart(record, tmp_path / "map", Layout(iterations=10**9))
        child.stdin.close()
        assert child.wait(30) != 0
        child.stdout.close()


class TestMaps:
    def test_are_made_once_for_all_who_ask(self, record):
        made = []

        def make(*given):
            made.append(given)
            return make_map_apart(*given)

        maps = Maps(record.path.parent.parent, layout=QUICK, make=make)
        try:
            assert maps.points(record) is None
            until_ready(maps, record)
            points, final = maps.points(record)
            assert final
            assert points.shape == (10, 2)
            assert maps.vectors(record).shape[0] == 10
            assert len(made) == 1
        finally:
            maps.close()
        again = Maps(record.path.parent.parent, layout=QUICK, make=make)
        assert again.look(record) == READY
        assert len(made) == 1

    def test_that_are_damaged_are_made_again(self, record):
        cache = record.path.parent.parent
        maps = Maps(cache, layout=QUICK)
        until_ready(maps, record)
        points = np.array(maps.points(record)[0])
        maps.close()
        path = map_folder(cache, record.fingerprint) / "points-v1.npy"
        path.write_bytes(b"\x00" * path.stat().st_size)
        again = Maps(cache, layout=QUICK)
        try:
            assert until_ready(again, record)
            np.testing.assert_array_equal(again.points(record)[0], points)
        finally:
            again.close()

    def test_say_why_they_cannot_be_made(self, record, tmp_path):
        now = [0.0]

        def make(record, folder, layout):
            line = json.dumps({"failed": "no room"})
            return subprocess.Popen(["echo", line], stdout=subprocess.PIPE, text=True)

        maps = Maps(tmp_path / "cache", make=make, clock=lambda: now[0])
        assert until_failed(maps, record) == "no room"
        assert maps.look(record).step == "failed"
        now[0] = 61.0
        assert maps.look(record).step != "failed"
        maps.close()

    def test_say_that_the_process_crashed(self, record, tmp_path, caplog):
        def make(record, folder, layout):
            return subprocess.Popen(
                ["sh", "-c", "echo it went wrong >&2; exit 3"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        maps = Maps(tmp_path / "cache", make=make)
        assert "code 3" in until_failed(maps, record)
        assert "it went wrong" in caplog.text
        maps.close()

    def test_that_cannot_be_begun_stop_no_other(self, record, monkeypatch):
        now = [0.0]
        broken = [ValueError("no such thing"), "[1]", "no JSON"]

        def make(*given):
            if not broken:
                return make_map_apart(*given)
            if isinstance(found := broken.pop(0), Exception):
                raise found
            return subprocess.Popen(["echo", found], stdout=subprocess.PIPE, text=True)

        maps = Maps(record.path.parent.parent, layout=QUICK, make=make, clock=lambda: now[0])
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            assert "no thread to be had" in maps.look(record).reason
        reasons = []
        while broken:
            now[0] += 61
            reasons.append(until_failed(maps, record))
        assert ["ValueError" in reasons[0], "TypeError" in reasons[1]] == [True, True]
        now[0] += 61
        until_ready(maps, record)
        maps.close()

    def test_are_kept_aside_where_there_is_no_room_for_them(self, record):
        cache = record.path.parent.parent
        (cache / MAPS).write_bytes(b"a file, where a folder should be")
        maps = Maps(cache, layout=QUICK)
        try:
            until_ready(maps, record)
            assert maps.points(record)[1]
        finally:
            maps.close()

    def test_closing_stops_the_process(self, larger):
        maps = Maps(larger.path.parent.parent, layout=Layout(iterations=10**9))
        maps.look(larger)
        ends = time.monotonic() + 60
        while maps.look(larger).step != "layout":
            assert time.monotonic() < ends
            time.sleep(0.002)
        began = time.monotonic()
        maps.close()
        assert time.monotonic() - began < 5
        assert maps.vectors(larger) is not None


def test_gc_removes_maps_of_sets_that_are_gone(record):
    cache = record.path.parent.parent
    for name in (record.fingerprint, "0" * 64):
        folder = map_folder(cache, name)
        folder.mkdir(parents=True)
        write_array(folder, POINTS, [np.ones((2, 2))], shape=(2, 2), dtype="<f4")
    litter = map_folder(cache, record.fingerprint) / ".tmp-1-abcd-points-v1.npy"
    litter.write_bytes(b"x")
    os.utime(litter, (0, 0))
    found = find_garbage(cache)
    assert {item.path.name for item in found} == {"0" * 64, litter.name}
    assert remove_garbage(cache, found) > 0
    assert [path.name for path in (cache / MAPS).iterdir()] == [record.fingerprint]
    assert not litter.exists()


def test_rows_are_found_by_split_position_and_bytes(record):
    rows = MapRows.read(record)
    assert len(rows) == 10
    assert rows.place(rows.position("test", 3)) == ("test", 3)
    assert rows.place(0) == ("train", 0)
    assert list(rows.of_bytes(rows.digests[7].tobytes())) == [7]
    assert list(rows.of_bytes(bytes(32))) == []
