"""A file read in pieces from elsewhere is, for HDF5, the file itself."""

from __future__ import annotations

import gc
import threading

import h5py
import numpy as np
import pytest

from featurestore.errors import IntegrityError, NotFound
from featurestore.stores.files import LocalFiles
from featurestore.stores.hdf5_ranges import Hdf5Ranges
from featurestore.stores.hdf5_reader import Hdf5Reader
from featurestore.stores.hdf5_store import Hdf5Writer
from featurestore.testing.store_kit import flipped
from featurestore.testing.store_rows import layout_of, sparse_rows, write_splits


class CountingFiles(LocalFiles):
    """Local files that note the ranges read, and fail when told to."""

    def __init__(self, path):
        super().__init__(path)
        self.ranges = []
        self.failing = None

    def read_range(self, name, start, length):
        if self.failing is not None:
            raise self.failing
        self.ranges.append(range(start, start + length))
        return super().read_range(name, start, length)


@pytest.fixture
def store(tmp_path):
    # Large rows, so that chunks take more than one block and the file megabytes.
    rows = sparse_rows(150, (10_000,), "float32", views=1)
    path = tmp_path / "store.h5"
    writer = Hdf5Writer(path, layout_of({"train": rows}))
    write_splits(writer, {"train": rows})
    writer.close()
    return path, rows


def opened(path, *, kept_bytes=2**26):
    files, within = CountingFiles(path), CountingFiles(path)
    return Hdf5Reader(Hdf5Ranges(files, within=within, kept_bytes=kept_bytes)), files, within


def read_bytes(files):
    return sum(map(len, files.ranges))


def test_a_few_rows_take_a_few_ranges(store):
    path, rows = store
    reader, files, within = opened(path)
    before = read_bytes(within)
    np.testing.assert_array_equal(reader.split("train").read(64, 80), rows.features[64:80])
    stored = path.stat().st_size
    assert read_bytes(within) == before  # the chunk's place was known: HDF5 found all in memory
    assert 0 < read_bytes(files) < stored / 10
    reader.close()


def test_what_is_kept_is_not_read_again(store):
    path, rows = store
    reader, files, within = opened(path)
    split = reader.split("train")
    split.read(0, 150)
    files.ranges.clear()
    within.ranges.clear()
    np.testing.assert_array_equal(split.read(0, 150), rows.features)
    assert files.ranges == within.ranges == []


@pytest.mark.parametrize("kept_bytes", [0, 2**21])
def test_what_is_kept_is_bounded(store, kept_bytes):
    path, rows = store
    reader, files, _ = opened(path, kept_bytes=kept_bytes)
    for _ in range(2):
        np.testing.assert_array_equal(reader.split("train").read(3, 149), rows.features[3:149])
        np.testing.assert_array_equal(reader.split("train").read_view(0, 1, 150), rows.views[0, 1:])
    kept = sum(map(len, reader._source._ranges._blocks.values()))
    assert kept <= max(kept_bytes, 2**20)
    assert read_bytes(files) > path.stat().st_size  # so it had to be read again


@pytest.mark.parametrize("ahead", [True, False], ids=["ahead", "within"])
def test_what_kept_bytes_away_is_told_with_the_rows(store, ahead):
    path, _ = store
    reader, files, within = opened(path, kept_bytes=0)
    split = reader.split("train")
    split.read(0, 150)  # little is kept, so labels would have to be read again
    (files if ahead else within).failing = NotFound("it was replaced", next_step="open it again")
    with pytest.raises(NotFound, match=r"split train, .*: it was replaced\n.*open it again"):
        split.read(0, 64) if ahead else split.labels()
    files.failing = within.failing = None
    split.read(0, 64)
    split.labels()


def test_opening_tells_what_kept_bytes_away(store):
    path, _ = store
    within = CountingFiles(path)
    within.failing = NotFound("it was replaced")
    with pytest.raises(NotFound, match="replaced"):
        Hdf5Reader(Hdf5Ranges(CountingFiles(path), within=within))


def test_a_shorter_file_is_damage(store):
    path, _ = store
    reader, _, _ = opened(path)
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size // 2)
    with pytest.raises(IntegrityError, match=r"split train, rows \d+ to \d+ of view 0"):
        reader.split("train").read_view(0, 0, 150)


def test_damage_is_damage(store):
    path, _ = store
    with h5py.File(path) as file:
        place = file["train/features"].id.get_chunk_info(3).byte_offset + 100
    with flipped(path, place, bit=3):
        reader, _, _ = opened(path)
        with pytest.raises(IntegrityError, match="rows 48 to 63 of features"):
            reader.split("train").read(0, 150)


def test_garbage_of_h5py_collected_by_a_reading_thread_hangs_nothing(store, tmp_path):
    """As h5py issue 2019: the collector, run in another thread, wants the lock a callback holds."""
    path, rows = store

    class Collecting(CountingFiles):
        def read_range(self, name, start, length):
            cycle = [h5py.File(tmp_path / f"{threading.get_ident()}-{start}.h5", "w")]
            cycle.append(cycle)
            del cycle
            gc.collect()
            return super().read_range(name, start, length)

    found = []

    def read():
        ranges = Hdf5Ranges(Collecting(path), within=Collecting(path), kept_bytes=0)
        found.append(Hdf5Reader(ranges).split("train").read(0, 150))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "reading hangs"
    np.testing.assert_array_equal(found[0], rows.features)
