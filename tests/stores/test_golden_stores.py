"""Stores of every format version stay readable; `golden_stores.py` wrote them."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from golden_stores import main

from featurestore.stores import open_store
from featurestore.stores.version import NEWEST_VERSION
from featurestore.testing.store_rows import file_bytes

GOLDEN = Path(__file__).parent / "golden"
STORES = sorted(path for version in GOLDEN.iterdir() for path in version.iterdir())


def test_every_format_version_has_golden_stores():
    assert [path.relative_to(GOLDEN).as_posix() for path in STORES] == [
        f"format-{version}/{name}"
        for version in range(1, NEWEST_VERSION + 1)
        for name in ("gzip.h5", "sharded.zarr", "unsharded.zarr")
    ]


@pytest.mark.parametrize("path", STORES, ids=lambda path: "/".join(path.parts[-2:]))
def test_golden_store_reads_as_written(path):
    with closing(open_store(path)) as reader:
        assert reader.splits == ("train", "validation", "test")
        assert reader.attributes == {
            "class_names": ["cat", "犬"],
            "recipe": {"backbone": "tiny", "size": [8, 8]},
            "note": "golden",
            "featurestore": {"format_version": int(path.parent.name.removeprefix("format-"))},
        }
        train, validation, test = map(reader.split, reader.splits)
        assert (train.rows, train.feature_shape, train.dtype) == (70, (1, 2, 3), np.float16)
        assert train.read(68, 70).tolist() == [
            [[[68, 0, 68.5], [0, 68.25, 0]]],
            [[[0, 69.25, 0], [69, 0, 69.5]]],
        ]
        assert train.labels().tolist() == [0, 1] * 35
        assert train.sample_ids()[69] == "train/Bild 69 犬.jpg"
        assert train.sha256()[69].tobytes() == b"\x45" * 32
        assert validation.rows == 0
        assert validation.read(0, 0).shape == (0, 1, 2, 3)
        assert test.read(0, 1).view(np.uint16).tolist() == [
            [[[0x3C00, 0, 0x3800], [0, 0x8000, 0x7BFF]]]
        ]
        assert test.sample_ids().tolist() == ["test/Bild 0 犬.jpg"]
        assert (validation.views, test.views) == (0, 0)


@pytest.mark.parametrize("path", STORES, ids=lambda path: "/".join(path.parts[-2:]))
def test_golden_views_read_as_written(path):
    """Format 2 brought views; a store of format 1 has none."""
    with closing(open_store(path)) as reader:
        train = reader.split("train")
        if path.parent.name == "format-1":
            assert train.views == 0
            return
        assert train.views == 2
        assert train.read_view(0, 69, 70).tolist() == [[[[0, 169.25, 0], [169, 0, 169.5]]]]
        assert train.read_view(1, 63, 64).tolist() == [[[[0, 263.25, 0], [263, 0, 263.5]]]]
        assert train.read_view(1, 64, 65).tolist() == [[[[264, 0, 264.5], [0, 264.25, 0]]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    main(folder)
    return folder


@pytest.mark.parametrize("path", STORES, ids=lambda path: "/".join(path.parts[-2:]))
def test_todays_writer_writes_the_golden_bytes(written, path):
    """Fails on a change of format: give it a new version, and new golden stores beside these.

    A store without views thus stays what it was before there were views.
    """
    golden, today = file_bytes(path), file_bytes(written / path.relative_to(GOLDEN))
    assert today.keys() == golden.keys()
    for file in golden:
        if file.endswith("zarr.json"):
            assert today[file] == golden[file]
    if sum(map(len, today.values())) != sum(map(len, golden.values())):
        pytest.skip("compressed by another release of zstd or zlib")
    assert today == golden
