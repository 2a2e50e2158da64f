"""What is particular to HDF5: plain readers, no unguarded bytes, and a library that fails badly."""

import builtins
import json
import subprocess
import sys
import time
from subprocess import PIPE

import h5py
import numpy as np
import pytest

from featurestore.errors import Conflict, IntegrityError, MissingDependency, NotFound
from featurestore.stores import create_store, hdf5_format, open_store
from featurestore.stores.hdf5_store import Hdf5Writer
from featurestore.testing.store_rows import (
    SplitRows,
    layout_of,
    read_contents,
    sparse_rows,
    write_splits,
)

ATTRIBUTES = {
    "class_names": [f"Klasse {number} ü" for number in range(9000)],
    "recipe": {"size": [150, 150]},
    "fingerprint": "ab" * 32,
    "rows": 73,
}


def write(path, splits, attributes=ATTRIBUTES, compression="gzip"):
    writer = Hdf5Writer(path, layout_of(splits, attributes), compression=compression)
    write_splits(writer, splits)
    writer.close()
    return path


@pytest.fixture
def splits():
    return {
        "train": sparse_rows(70, views=2),
        "test": sparse_rows(3, seed=1),
        "none": sparse_rows(0, views=1),
    }


@pytest.fixture
def store(tmp_path, splits):
    return write(tmp_path / "set.h5", splits)


def test_plain_h5py_reads_everything(store, splits):
    with h5py.File(store) as file:
        assert set(file) == set(splits)
        for name, rows in splits.items():
            np.testing.assert_array_equal(file[name]["features"][:], rows.features)
            assert ("views" in file[name]) == (rows.views is not None)
            if rows.views is not None:
                np.testing.assert_array_equal(file[name]["views/features"][:], rows.views)
            np.testing.assert_array_equal(file[name]["labels"][:], rows.labels)
            np.testing.assert_array_equal(file[name]["sha256"][:], rows.sha256)
            assert tuple(file[name]["sample_ids"].asstr()[:]) == rows.sample_ids
        assert json.loads(file.attrs["class_names"]) == ATTRIBUTES["class_names"]
        assert json.loads(file.attrs["recipe"]) == ATTRIBUTES["recipe"]
        assert file.attrs["fingerprint"].decode() == "ab" * 32
        assert file.attrs["rows"] == 73


def test_layout_is_the_documented_one(store):
    assert store.read_bytes()[8] == 3  # superblock of HDF5 1.10
    with h5py.File(store) as file:
        features = file["train/features"]
        assert features.chunks == (16, 2, 3, 8)
        assert features.compression == "gzip"
        assert features.compression_opts == 1
        assert file["train/labels"].chunks == (70,)
        views = file["train/views/features"]
        assert views.chunks == (1, 16, 2, 3, 8)
        assert (views.compression, views.compression_opts) == ("gzip", 1)


def test_zstd_comes_with_fletcher32(tmp_path, splits):
    path = write(tmp_path / "set.h5", splits, compression="zstd")
    with h5py.File(path) as file:
        assert hdf5_format.filters(file["train/features"]) == (32015, 3)
        assert hdf5_format.filters(file["train/views/features"]) == (32015, 3)
        assert hdf5_format.filters(file["train/labels"]) == (1,)
    assert open_store(path).storage()["compression"] == "zstd-1 + fletcher32"


def test_no_text_is_of_variable_length(store):
    """Such texts lie in HDF5's global heap, where one flipped bit hangs HDF5 1.14 for ever."""
    assert b"GCOL" not in store.read_bytes()


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_chunks_that_do_not_shrink_are_filtered_all_the_same(tmp_path, compression):
    """HDF5 would store them bare, checksum and all left out, if the filters were optional."""
    base = sparse_rows(70)
    noise = np.random.default_rng(0).integers(0, 0x7BFF, base.features.shape, dtype=np.uint16)
    features = noise.view(np.float16)
    views = np.stack([features[::-1], features])
    rows = SplitRows(features, base.labels, base.sample_ids, base.sha256, views)
    path = write(tmp_path / "set.h5", {"train": rows}, compression=compression)
    with h5py.File(path) as file:
        for name in ("features", "sha256", "views/features"):
            dataset = file["train"][name].id
            for chunk in range(dataset.get_num_chunks()):
                assert dataset.get_chunk_info(chunk).filter_mask == 0
    assert read_contents(path)[1] == {"train": rows}


def test_long_ids_do_not_need_large_chunks(tmp_path):
    base = sparse_rows(600, (2,))
    ids = ("x" * 4000, *base.sample_ids[1:])
    rows = SplitRows(base.features, base.labels, ids, base.sha256)
    path = write(tmp_path / "set.h5", {"train": rows})
    assert read_contents(path)[1] == {"train": rows}
    with h5py.File(path) as file:
        assert file["train/sample_ids"].chunks[0] * 4000 <= 2**20


def test_chunk_that_was_never_written_is_not_zeros(store):
    """HDF5 returns the fill value for a chunk that is not there."""
    with h5py.File(store, "r+") as file:
        features = file["train/features"]
        del file["train/features"]
        lacking = file["train"].create_dataset(
            "features", features.shape, features.dtype, chunks=features.chunks
        )
        lacking[:16] = 1
    with pytest.raises(IntegrityError, match="lack chunks"):
        open_store(store)


@pytest.mark.parametrize("damage", ["lacks chunks", "other rows", "other type", "no array"])
def test_views_that_are_not_those_of_the_features_are_an_error(store, damage):
    with h5py.File(store, "r+") as file:
        views = file["train/views/features"]
        shape, chunks = views.shape, views.chunks
        del file["train/views/features"]
        dtype = np.float32 if damage == "other type" else np.float16
        shape = (2, 64, *shape[2:]) if damage == "other rows" else shape
        if damage != "no array":
            made = file["train/views"].create_dataset("features", shape, dtype, chunks=chunks)
            made[: 1 if damage == "lacks chunks" else 2] = 1
    with pytest.raises(IntegrityError, match=r"set\.h5"):
        open_store(store)


@pytest.mark.parametrize("content", [b"", b"\x89HDF", b"not a store " * 100])
def test_file_that_is_no_store_is_an_error(tmp_path, content):
    path = tmp_path / "set.h5"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"set\.h5"):
        open_store(path)


def test_foreign_hdf5_file_is_an_error(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(IntegrityError, match=r"set\.h5"):
        open_store(tmp_path / "set.h5")


def test_changed_attribute_is_an_error(store):
    with h5py.File(store, "r+") as file:
        file.attrs["rows"] = 74
    with pytest.raises(IntegrityError, match="metadata_sha256"):
        open_store(store)


def test_absent_store_is_not_damage(tmp_path):
    with pytest.raises(NotFound):
        open_store(tmp_path / "set.h5")


def test_zstd_without_its_package_says_what_to_install(tmp_path, splits, monkeypatch):
    import_module = builtins.__import__

    def without_plugin(name, *rest):
        if name == "hdf5plugin":
            raise ImportError(name)
        return import_module(name, *rest)

    monkeypatch.setattr(hdf5_format.h5z, "filter_avail", lambda code: False)
    monkeypatch.setattr(builtins, "__import__", without_plugin)
    path = tmp_path / "set.h5"
    with pytest.raises(MissingDependency, match=r"featurestore\[hdf5-zstd\]"):
        create_store("hdf5", path, layout_of(splits), compression="zstd")
    assert not path.exists()


def test_store_and_plain_h5py_have_the_file_open_at_once(store, splits):
    """HDF5 lets a process open a file twice only with the same locking both times."""
    with h5py.File(store) as plain:
        reader = open_store(store)
        assert plain["train/labels"].shape == (70,)
    with h5py.File(store) as plain:
        assert plain["train/features"][0].tobytes() == splits["train"].features[0].tobytes()
    reader.close()


def test_store_open_for_writing_is_a_conflict(store):
    """Another program that appends to a store is the reader's to stop."""
    program = (
        "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, store], stdin=PIPE, stdout=PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(Conflict, match="open for writing"):
            open_store(store)
        other.communicate("\n")


def test_closed_store_is_not_damage(store):
    reader = open_store(store)
    split = reader.split("train")
    reader.close()
    reads = (lambda: split.read(0, 1), lambda: split.read_view(0, 0, 1))
    for read in (*reads, split.labels, split.sample_ids):
        with pytest.raises(ValueError, match="closed"):
            read()


def test_bytes_do_not_depend_on_the_time(tmp_path, splits):
    """HDF5 would put the second of creation into each group."""
    one = write(tmp_path / "one.h5", splits)
    time.sleep(1.1)
    other = write(tmp_path / "other.h5", splits)
    assert one.read_bytes() == other.read_bytes()
