"""Views of a committed set: read beside its rows, and carried by every export."""

import dataclasses
import json

import numpy as np
import pytest

import featurestore as fs
from featurestore.augmentation import REFERENCE
from featurestore.export import export_set
from featurestore.features import FeatureSet
from featurestore.recipe import Views
from featurestore.stores import SUFFIXES, create_store, open_store
from featurestore.stores.contract import SplitLayout, StoreLayout
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_class_folder
from featurestore.testing.store_rows import read_contents

VIEWS = 3


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp("views")
    write_class_folder(root / "photos", images=50)
    settings = fs.EmbedSettings(split="0.7,0.2,0.1")
    fs.embed(root / "photos", settings, cache=root / "cache", choose=TinyChoice)
    return root / "cache"


def shown(features, view):
    """Return what stands for a view in these tests: the rows the other way round, and scaled."""
    return features[::-1] * np.float16(view + 2)


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def features(request, cache, tmp_path_factory):
    """A set whose training images have three views, in either store format."""
    path = tmp_path_factory.mktemp("store") / f"set{SUFFIXES[request.param]}"
    with fs.open("photos", cache=cache) as clean:
        layout = StoreLayout(
            splits={
                name: SplitLayout(
                    *(len(clean[name]), clean[name].feature_shape, "float16"),
                    views=VIEWS if name == "train" else 0,
                )
                for name in clean.splits
            },
            attributes={},
        )
        writer = create_store(request.param, path, layout)
        for name in clean.splits:
            split = clean[name]
            writer.write_features(name, 0, split.load()[0])
            for view in range(layout.splits[name].views):
                writer.write_views(name, view, 0, shown(split.load()[0], view))
            writer.write_rows(
                name,
                labels=split.labels,
                sample_ids=split.sample_ids.tolist(),
                sha256=split.sha256,
            )
        writer.close()
        views = Views(augmentation=REFERENCE, seed=0, count=VIEWS)
        recipe = dataclasses.replace(clean.recipe, augmentation=views)
        record = dataclasses.replace(clean.record, recipe=recipe, store=path)
    with FeatureSet(record, open_store(path)) as features:
        yield features


def test_views_are_rows_beside_the_rows(features):
    train = features["train"]
    whole, labels = train.load()
    assert train.views == VIEWS
    assert repr(train) == f"<Split train: {len(train)} x (4, 4, 3) float16, 3 views>"
    for view in range(VIEWS):
        seen, same_labels = train.load_view(view)
        np.testing.assert_array_equal(seen, shown(whole, view))
        np.testing.assert_array_equal(same_labels, labels)
        np.testing.assert_array_equal(train.read_view(view, 5, 66), shown(whole, view)[5:66])


def test_a_split_without_views_says_how_to_get_them(features):
    validation = features["validation"]
    assert validation.views == 0
    assert "views" not in repr(validation)
    with pytest.raises(fs.InvalidInput, match="split validation: expected views") as caught:
        validation.read_view(0, 0, 1)
    assert "fs embed DATASET --views K" in caught.value.next_step


@pytest.mark.parametrize("view", [-1, VIEWS])
def test_a_view_that_is_not_there_is_an_index_error(features, view):
    with pytest.raises(IndexError, match=f"view {view} is not in split train, whose 3 views"):
        features["train"].load_view(view)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_store_in_either_format_carries_views(features, tmp_path, suffix):
    export_set(features, tmp_path / f"out{suffix}")
    attributes, splits = read_contents(tmp_path / f"out{suffix}")
    assert splits == read_contents(features.path)[1]
    assert splits["train"].views.shape == (VIEWS, *features["train"].shape)
    assert attributes["featurestore"] == {"format_version": 2}
    assert attributes["recipe"]["augmentation"]["views"] == VIEWS


def test_npz_carries_views(features, tmp_path):
    export_set(features, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert [name for name in arrays if name.endswith("_views")] == ["train_views"]
        for view in range(VIEWS):
            expected = features["train"].load_view(view)[0]
            np.testing.assert_array_equal(arrays["train_views"][view], expected)
        np.testing.assert_array_equal(arrays["train_features"], features["train"].load()[0])


def test_parquet_carries_views_of_the_rows_that_have_them(features, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export_set(features, tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    shape = json.loads(table.schema.metadata[b"featurestore"])["feature_shape"]
    assert len(table) == sum(len(features[name]) for name in features.splits)
    for name in features.splits:
        rows = [row for row in table.to_pylist() if row["split"] == name]
        if name != "train":
            assert {row["views"] for row in rows} == {None}
            continue
        stored = np.array([row["views"] for row in rows], np.float16)
        stored = stored.reshape(len(rows), VIEWS, *shape)
        for view in range(VIEWS):
            np.testing.assert_array_equal(stored[:, view], features[name].load_view(view)[0])


def test_exports_of_a_set_without_views_say_nothing_of_them(cache, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with fs.open("photos", cache=cache) as clean:
        for suffix in (".npz", ".parquet", ".zarr"):
            export_set(clean, tmp_path / f"out{suffix}")
    assert "views" not in parquet.read_table(tmp_path / "out.parquet").column_names
    with np.load(tmp_path / "out.npz") as arrays:
        assert not [name for name in arrays if "views" in name]
    assert read_contents(tmp_path / "out.zarr")[0]["featurestore"] == {"format_version": 1}
