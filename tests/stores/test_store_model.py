"""A store against a dict: whatever is written, in whatever pieces, is what is read."""

import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.stores import open_store
from featurestore.stores.contract import SplitLayout, StoreLayout
from featurestore.stores.hdf5_store import Hdf5Writer
from featurestore.stores.zarr_store import ZarrWriter

WRITERS = {
    "zarr": ZarrWriter,
    "zarr in shards": lambda path, layout: ZarrWriter(path, layout, shard_above=20),
    "hdf5": Hdf5Writer,
    "hdf5 with zstd": lambda path, layout: Hdf5Writer(path, layout, compression="zstd"),
}

# Bit patterns, so that NaN payloads, infinities and both zeros occur.
DTYPES = {"float16": np.uint16, "float32": np.uint32}

IDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(IDS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
NAMES = st.text("abcdefghijkl_é ", min_size=1, max_size=8)


@st.composite
def models(draw):
    """Return splits as dicts of columns, as a store should hold them."""
    names = draw(st.lists(st.sampled_from(["train", "validation", "test", "x-1"]), unique=True))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    model = {}
    for name in names:
        rows = draw(st.integers(0, 40) | st.integers(60, 140))
        random = np.random.default_rng(draw(st.integers(0, 99)))
        sparse = random.random((rows, *shape)) < draw(st.sampled_from([0.0, 0.2, 1.0]))
        bits = random.integers(0, np.iinfo(DTYPES[dtype]).max, (rows, *shape), DTYPES[dtype])
        few = draw(st.lists(IDS, max_size=min(rows, 5)))
        model[name] = {
            "features": (bits * sparse).astype(DTYPES[dtype]).view(dtype),
            "views": [
                random.permutation((bits * sparse).astype(DTYPES[dtype])).view(dtype)
                for _ in range(draw(st.sampled_from([0, 0, 1, 3])))
            ],
            "labels": random.integers(-(2**63), 2**63 - 1, rows),
            "sample_ids": [*few, *(f"{row}.jpg" for row in range(len(few), rows))],
            "sha256": random.integers(0, 256, (rows, 32), np.uint8),
        }
    return model


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), model=models(), attributes=st.dictionaries(NAMES, JSON, max_size=4))
def test_store_holds_what_the_dict_holds(writer, data, model, attributes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store")
        write(WRITERS[writer], path, model, attributes, data)
        with closing(open_store(path)) as reader:
            number = 2 if any(columns["views"] for columns in model.values()) else 1
            version = {"featurestore": {"format_version": number}}
            assert reader.attributes == {**attributes, **version}
            assert reader.splits == tuple(model)
            for name, columns in model.items():
                check(reader.split(name), columns, data)


def write(create, path, model, attributes, data):
    layouts = {
        name: SplitLayout(
            len(columns["labels"]),
            columns["features"].shape[1:],
            columns["features"].dtype.name,
            views=len(columns["views"]),
        )
        for name, columns in model.items()
    }
    writer = create(path, StoreLayout(splits=layouts, attributes=attributes))
    pieces = []
    for name, columns in model.items():
        rows, block = len(columns["labels"]), writer.block_rows(name)
        for view in (None, *range(len(columns["views"]))):
            start = 0
            while start < rows:
                stop = min(rows, start + block * data.draw(st.integers(1, 3)))
                pieces.append((name, view, start, stop))
                start = stop
        pieces.append((name, None, None, None))
    for name, view, start, stop in data.draw(st.permutations(pieces)):
        columns = model[name]
        if start is None:
            beside = {key: columns[key] for key in ("labels", "sample_ids", "sha256")}
            writer.write_rows(name, **beside)
        elif view is None:
            writer.write_features(name, start, columns["features"][start:stop])
        else:
            writer.write_views(name, view, start, columns["views"][view][start:stop])
    writer.close()


def check(split, columns, data):
    rows = len(columns["labels"])
    assert (split.rows, split.views) == (rows, len(columns["views"]))
    for _ in range(3):
        start = data.draw(st.integers(0, rows))
        stop = data.draw(st.integers(start, rows))
        reads = [(split.read(start, stop), columns["features"])]
        reads += [
            (split.read_view(view, start, stop), features)
            for view, features in enumerate(columns["views"])
        ]
        for read, whole in reads:
            expected = whole[start:stop]
            assert (read.dtype, read.shape) == (expected.dtype, expected.shape)
            assert read.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(split.labels(), columns["labels"])
    np.testing.assert_array_equal(split.sha256(), columns["sha256"])
    assert split.sample_ids().tolist() == columns["sample_ids"]
