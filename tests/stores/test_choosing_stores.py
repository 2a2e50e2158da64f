"""Formats are chosen by name, stores opened by what they are, libraries loaded when needed."""

import subprocess
import sys

import pytest

from featurestore.errors import InvalidInput, NotFound
from featurestore.stores import COMPRESSIONS, STORE_FORMATS, SUFFIXES, create_store, open_store
from featurestore.stores.contract import SplitLayout, StoreLayout
from featurestore.testing.store_rows import layout_of, read_contents, sparse_rows, write_splits

SPLITS = {"train": sparse_rows(3)}


@pytest.mark.parametrize("store_format", STORE_FORMATS)
def test_store_opens_under_any_name(tmp_path, store_format):
    """A store under construction has a temporary name, and is verified before it gets its own."""
    path = tmp_path / f".tmp-1{SUFFIXES[store_format]}.part"
    writer = create_store(store_format, path, layout_of(SPLITS))
    write_splits(writer, SPLITS)
    writer.close()
    assert read_contents(path)[1] == SPLITS


@pytest.mark.parametrize(
    ("store_format", "compression", "says"),
    [("zip", None, "zarr, hdf5"), ("zarr", "gzip", "zstd"), ("hdf5", "lzf", "gzip, zstd")],
)
def test_unknown_choice_names_the_known_ones(tmp_path, store_format, compression, says):
    with pytest.raises(InvalidInput, match=says):
        create_store(store_format, tmp_path / "x", layout_of(SPLITS), compression=compression)
    assert not (tmp_path / "x").exists()


def test_every_format_has_a_suffix_and_a_compression():
    assert set(SUFFIXES) == set(COMPRESSIONS) == set(STORE_FORMATS)


def test_absent_store_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="nowhere"):
        open_store(tmp_path / "nowhere.zarr")


@pytest.mark.parametrize(
    "layout", [(-1, (2,), "float16"), (1, (), "float16"), (1, (0,), "float16"), (1, (2,), "int8")]
)
def test_impossible_layout_is_refused(layout):
    with pytest.raises(ValueError, match=r"no split|stored as"):
        SplitLayout(*layout)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_split_that_cannot_be_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="split"):
        StoreLayout(splits={name: SplitLayout(1, (1,), "float16")}, attributes={})


@pytest.mark.parametrize(
    "attributes",
    [
        {"metadata_sha256": "x"},
        {"x": float("nan")},
        {"x": b""},
        {"x": "\ud800"},
        {"featurestore": 1},
        {"featurestore": {"format_version": 99}},
    ],
)
@pytest.mark.parametrize("store_format", STORE_FORMATS)
def test_attributes_that_no_store_holds_are_refused(tmp_path, store_format, attributes):
    with pytest.raises((ValueError, TypeError)):
        create_store(store_format, tmp_path / "x", layout_of(SPLITS, attributes))
    assert not (tmp_path / "x").exists()


def test_neither_library_is_loaded_before_it_is_needed():
    program = (
        "import sys, featurestore.stores, featurestore.stores.staging;"
        "print({'zarr', 'h5py', 'numcodecs', 'tensorflow'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
