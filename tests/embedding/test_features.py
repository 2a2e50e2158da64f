"""Reading a committed set: lazy slices, shuffled batches, names and prefixes."""

import dataclasses

import numpy as np
import pytest

import featurestore as fs
from featurestore.catalogue import Catalogue, dataset_name
from featurestore.stores import durable
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_class_folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    write_class_folder(root / "photos", images=110)
    fs.embed(
        root / "photos",
        fs.EmbedSettings(split="0.8,0.1,0.1"),
        cache=root / "cache",
        choose=TinyChoice,
    )
    return root / "cache"


@pytest.fixture
def train(cache):
    with fs.open("photos", cache=cache) as features:
        yield features["train"]


def test_slices_and_indices_are_rows_of_the_whole(train):
    whole, labels = train.load()
    assert whole.shape == train.shape
    assert labels.dtype == np.int64
    for rows in (slice(None), slice(3, 70), slice(70, 3), slice(5, 150, 7), slice(None, None, -1)):
        np.testing.assert_array_equal(train[rows], whole[rows])
    picked = np.array([100, 2, 2, -1, 65])
    np.testing.assert_array_equal(train[picked], whole[picked])
    np.testing.assert_array_equal(train[7], whole[7])
    np.testing.assert_array_equal(train[labels == 1], whole[labels == 1])


def test_a_row_outside_is_an_error(train):
    with pytest.raises(IndexError, match="outside split train"):
        train[len(train)]


@pytest.mark.parametrize("batch_size", [1, 20, 64, 1000])
def test_shuffled_batches_hold_every_row_once_with_its_label(train, batch_size):
    whole, labels = train.load()
    batches = list(train.batches(batch_size, shuffle=True, seed=3))
    assert all(len(X) == batch_size for X, _ in batches[:-1])
    X = np.concatenate([X for X, _ in batches]).reshape(len(train), -1)
    y = np.concatenate([y for _, y in batches])
    expected = {row.tobytes(): label for row, label in zip(whole, labels, strict=True)}
    assert len(X) == len(expected) == len(train)
    assert {row.tobytes(): label for row, label in zip(X, y, strict=True)} == expected
    assert not np.array_equal(X, whole.reshape(len(train), -1))


def test_the_order_depends_on_the_seed_alone(train):
    def order(seed):
        return np.concatenate([y for _, y in train.batches(7, shuffle=True, seed=seed)]).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_batches_in_order_are_the_split(train):
    X = np.concatenate([X for X, _ in train.batches(33)])
    np.testing.assert_array_equal(X, train.load()[0])


def test_a_split_that_is_not_there_is_named(cache):
    with fs.open("photos", cache=cache) as features, pytest.raises(fs.NotFound, match="holdout"):
        features["holdout"]


def test_names_and_fingerprints_are_found_by_prefix(cache):
    record = Catalogue(cache).find("pho")
    assert Catalogue(cache).find(record.name) == record
    assert Catalogue(cache).find(record.fingerprint[:6]) == record


@pytest.mark.parametrize("name", ["", "x", "photos/vgg16"])
def test_what_is_not_there_is_not_found(cache, name):
    with pytest.raises(fs.NotFound, match="it holds photos/tiny"):
        Catalogue(cache).find(name)


def test_an_ambiguous_prefix_lists_what_it_could_mean(cache):
    record = Catalogue(cache).find("photos")
    other = dataclasses.replace(record, name="phonemes/tiny")
    twin = record.path.with_name("twin.zarr.json")
    durable.replace_file(twin, other.to_json())
    try:
        with pytest.raises(fs.InvalidInput, match=r"phonemes/tiny, photos/tiny"):
            Catalogue(cache).find("pho")
    finally:
        twin.unlink()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("my photos", "my_photos"),
        ("Füße 猫", "Füße_猫"),
        ("a/b:c", "a_b_c"),
        (".hidden", "hidden"),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
    ],
)
def test_dataset_names_of_any_script_are_file_names(text, name):
    assert dataset_name(text) == name


@pytest.mark.parametrize("text", ["", "...", "runs"])
def test_names_that_the_cache_keeps_are_refused(text):
    with pytest.raises(fs.InvalidInput, match="dataset name"):
        dataset_name(text)
