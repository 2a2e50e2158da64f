"""What is particular to Zarr: any Zarr reader opens the store, and no chunk is ever guessed."""

import json
import shutil

import numpy as np
import pytest
import zarr

from featurestore.errors import IntegrityError
from featurestore.stores import open_store
from featurestore.stores.contract import SplitLayout
from featurestore.stores.zarr_format import (
    SHARD_ABOVE,
    array_formats,
    group_document,
    root_metadata,
)
from featurestore.stores.zarr_store import ZarrWriter
from featurestore.testing.store_rows import layout_of, read_contents, sparse_rows, write_splits

ATTRIBUTES = {"class_names": ["Katze", "犬"], "recipe": {"size": [150, 150]}}


@pytest.fixture
def splits():
    return {
        "train": sparse_rows(1500, views=2),
        "test": sparse_rows(70, seed=1, views=3),
        "none": sparse_rows(0, views=1),
        "bare": sparse_rows(70, seed=2),
    }


@pytest.fixture
def store(tmp_path, splits):
    """A store whose train split is sharded and whose others are not."""
    path = tmp_path / "set.zarr"
    writer = ZarrWriter(path, layout_of(splits, ATTRIBUTES), shard_above=100)
    write_splits(writer, splits)
    writer.close()
    return path


def assert_stock_reader_agrees(group, splits):
    assert set(group.group_keys()) == set(splits)
    for name, rows in splits.items():
        np.testing.assert_array_equal(group[name]["features"][:], rows.features)
        np.testing.assert_array_equal(group[name]["labels"][:], rows.labels)
        np.testing.assert_array_equal(group[name]["sha256"][:], rows.sha256)
        assert ("views" in group[name]) == (rows.views is not None)
        if rows.views is not None:
            np.testing.assert_array_equal(group[name]["views/features"][:], rows.views)
        assert tuple(group[name]["sample_ids"][:].tolist()) == rows.sample_ids


@pytest.mark.parametrize("use_consolidated", [True, False])
def test_stock_zarr_reads_everything(store, splits, use_consolidated):
    group = zarr.open_group(store, mode="r", use_consolidated=use_consolidated)
    assert_stock_reader_agrees(group, splits)
    assert group.attrs["class_names"] == ["Katze", "犬"]
    assert group.attrs["featurestore"] == {"format_version": 2}


def test_stock_zarr_sees_the_documented_layout(store):
    train = zarr.open(store)["train/features"]
    assert (train.chunks, train.shards) == ((64, 2, 3, 8), (1024, 2, 3, 8))
    test = zarr.open(store)["test/features"]
    assert (test.chunks, test.shards) == ((64, 2, 3, 8), None)
    assert test.metadata.dimension_names == ("row", "height", "width", "channel")
    views = zarr.open(store)["train/views/features"]
    assert (views.chunks, views.shards) == ((1, 64, 2, 3, 8), (1, 1024, 2, 3, 8))
    views = zarr.open(store)["test/views/features"]
    assert (views.chunks, views.shards) == ((1, 64, 2, 3, 8), None)
    assert views.metadata.dimension_names == ("view", "row", "height", "width", "channel")
    assert views.metadata.codecs == test.metadata.codecs
    codecs = [codec.to_dict() for codec in test.metadata.codecs]
    assert [codec["name"] for codec in codecs] == ["bytes", "zstd", "crc32c"]
    assert codecs[1]["configuration"] == {"level": 1, "checksum": False}


def test_rows_that_stock_zarr_writes_are_read(store, splits):
    """The other direction: replace every chunk by what zarr-python makes of the same rows."""
    group = zarr.open_group(store, mode="r+")
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, rows in splits.items():
            for part in store.glob(f"{name}/**/c.*"):
                part.unlink()
            group[name]["features"][:] = rows.features
            if rows.views is not None:
                group[name]["views/features"][:] = rows.views
            group[name]["labels"][:] = rows.labels
            group[name]["sample_ids"][:] = np.array(rows.sample_ids, dtype=np.dtypes.StringDType())
            group[name]["sha256"][:] = rows.sha256
    assert read_contents(store)[1] == splits


def test_features_are_sharded_above_the_documented_threshold():
    at = array_formats(SplitLayout(SHARD_ABOVE, (4, 4, 512), "float16"), shard_above=SHARD_ABOVE)
    over = array_formats(
        SplitLayout(SHARD_ABOVE + 1, (4, 4, 512), "float16"), shard_above=SHARD_ABOVE
    )
    assert SHARD_ABOVE == 100_000
    assert (at["features"].chunk_rows, at["features"].shard_rows) == (64, 64)
    assert (over["features"].chunk_rows, over["features"].shard_rows) == (64, 1024)


@pytest.mark.parametrize(("rows", "shard_rows"), [(SHARD_ABOVE, 64), (SHARD_ABOVE + 1, 1024)])
def test_views_are_cut_as_features_are(rows, shard_rows):
    arrays = array_formats(
        SplitLayout(rows, (4, 4, 512), "float16", views=6), shard_above=SHARD_ABOVE
    )
    assert (arrays["features"].chunk_rows, arrays["features"].shard_rows) == (64, shard_rows)
    views = arrays["views/features"]
    assert (views.chunk_rows, views.shard_rows) == (64, shard_rows)
    assert views.shape == (6, rows, 4, 4, 512)


def test_chunk_files_lie_flat(store):
    """One file per chunk or shard and no folders between: a sync of a store is few operations."""
    names = {path.name for path in (store / "test" / "features").iterdir()}
    assert names == {"zarr.json", "c.0.0.0.0", "c.1.0.0.0"}
    names = {path.name for path in (store / "train" / "features").iterdir()}
    assert names == {"zarr.json", "c.0.0.0.0", "c.1.0.0.0"}
    names = {path.name for path in (store / "train" / "views" / "features").iterdir()}
    assert names == {
        "zarr.json",
        *(f"c.{view}.{shard}.0.0.0" for view in (0, 1) for shard in (0, 1)),
    }


@pytest.mark.parametrize(
    ("split", "file", "rows"),
    [("test", "c.1.0.0.0", "rows 64 to 69"), ("train", "c.1.0.0.0", "rows 1024 to 1087")],
)
@pytest.mark.parametrize("empty", [False, True])
def test_missing_chunk_is_not_zeros(store, split, file, rows, empty):
    """zarr-python would return the fill value for a file that is gone."""
    path = store / split / "features" / file
    path.unlink()
    if empty:
        path.touch()
    part = open_store(store).split(split)
    with pytest.raises(IntegrityError, match=rows):
        part.read(0, part.rows)
    part.read(0, 64)


@pytest.mark.parametrize(
    ("split", "file", "rows"),
    [
        ("test", "c.2.1.0.0.0", "split test, rows 64 to 69 of view 2: "),
        ("train", "c.1.1.0.0.0", "split train, rows 1024 to 1087 of view 1: "),
    ],
)
@pytest.mark.parametrize("left", [None, 0, 40])
def test_missing_or_truncated_chunk_of_a_view_is_named(store, split, file, rows, left):
    """`left` is how many bytes are left of the file; None where it is gone."""
    path = store / split / "views" / "features" / file
    stored = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(stored[:left])
    part = open_store(store).split(split)
    view = int(file[2])
    with pytest.raises(IntegrityError, match=rows):
        part.read_view(view, 0, part.rows)
    part.read_view(view, 0, 64)
    part.read_view(0, 0, part.rows)
    part.read(0, part.rows)


@pytest.mark.parametrize("change", ["shape", "chunks", "gone"])
def test_views_that_do_not_fit_their_features_are_an_error(tmp_path, splits, change):
    """Signed metadata of another writer: views of other rows, or cut otherwise."""
    arrays = array_formats(splits["test"].layout(), shard_above=SHARD_ABOVE)
    documents = {f"test/{name}": array.document() for name, array in arrays.items()}
    views = documents["test/views/features"]
    if change == "shape":
        views["shape"][1] += 1
    elif change == "chunks":
        views["chunk_grid"]["configuration"]["chunk_shape"][1] = 32
    else:
        del views["shape"]
    attributes = {"featurestore": {"format_version": 2}}
    members = {"test": group_document({}), "test/views": group_document({}), **documents}
    (tmp_path / "set.zarr").mkdir()
    (tmp_path / "set.zarr" / "zarr.json").write_bytes(root_metadata(attributes, members))
    with pytest.raises(IntegrityError, match="features of split test"):
        open_store(tmp_path / "set.zarr")


@pytest.mark.parametrize("array", ["labels", "sample_ids", "sha256"])
def test_missing_column_is_an_error(store, array):
    (chunk,) = (store / "test" / array).glob("c.*")
    chunk.unlink()
    with pytest.raises(IntegrityError, match=f"{array}.*missing"):
        getattr(open_store(store).split("test"), array)()


def test_chunk_of_another_array_is_an_error(store):
    """A valid chunk of another size in the wrong place passes its checksum, not the size."""
    shutil.copy(store / "test" / "labels" / "c.0", store / "test" / "features" / "c.0.0.0.0")
    with pytest.raises(IntegrityError, match="rows 0 to 63"):
        open_store(store).split("test").read(0, 1)


def test_edited_metadata_is_an_error(store):
    """Attributes are part of what was committed."""
    root = store / "zarr.json"
    document = json.loads(root.read_bytes())
    document["attributes"]["class_names"].reverse()
    root.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="metadata_sha256"):
        open_store(store)


@pytest.mark.parametrize("text", [None, b"", b"{", b"[]", b"{}", b'{"attributes": {}}', b"\xff"])
def test_folder_that_is_no_store_is_an_error(tmp_path, text):
    path = tmp_path / "set.zarr"
    path.mkdir()
    if text is not None:
        (path / "zarr.json").write_bytes(text)
    with pytest.raises(IntegrityError, match=r"set\.zarr"):
        open_store(path)


def test_stock_zarr_group_without_our_signature_is_an_error(tmp_path):
    zarr.create_group(tmp_path / "set.zarr")
    with pytest.raises(IntegrityError, match=r"set\.zarr"):
        open_store(tmp_path / "set.zarr")
