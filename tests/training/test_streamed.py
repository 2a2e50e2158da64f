"""Features computed when they are read: the rows of the store, and a new version each epoch."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from streaming_sets import embed_photographs, tiny_network

from featurestore.augmentation import Augmentation
from featurestore.errors import Conflict, InvalidInput, NotFound, UnstorableFeatures
from featurestore.images import UnreadableImage
from featurestore.training.contract import EpochRows
from featurestore.training.pools import epoch_pools
from featurestore.training.streamed import (
    AugmentedRows,
    StreamOptions,
    open_pixels,
    stream_network,
)
from featurestore.training.streamed_features import StreamedFeatures

OPTIONS = StreamOptions(network=tiny_network, workers=2)
MEMORY = 2**30


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    with embed_photographs(tmp_path_factory.mktemp("streamed")) as features:
        yield features


def augmented(features, augmentation, *, seed=0, workers=2, memory_bytes=MEMORY):
    options = dataclasses.replace(OPTIONS, workers=workers)
    pixels = open_pixels(
        features, "train", features.recipe, options=options, memory_bytes=memory_bytes
    )
    network = stream_network(features, features.recipe, options)
    return AugmentedRows(features["train"], pixels, network, augmentation=augmentation, seed=seed)


def pieces(rows, *, epoch=1, piece_rows=10, seed=0):
    rng = np.random.default_rng(seed)
    pools = epoch_pools(len(rows), row_values=int(np.prod(rows.feature_shape)), rng=rng)
    return list(rows.pieces(pools, epoch=epoch, piece_rows=piece_rows))


def epoch_rows(rows, **options):
    found = pieces(rows, **options)
    return np.concatenate([features for features, _ in found])


def test_without_augmentation_rows_are_those_of_the_store(photos):
    found = pieces(augmented(photos, None), seed=3)
    order = np.random.default_rng(3).permutation(48)
    stored, labels = photos["train"].load()
    assert [len(piece) for piece, _ in found] == [10, 10, 10, 10, 8]
    features = np.concatenate([piece for piece, _ in found])
    assert features.dtype == stored.dtype
    assert np.array_equal(features, stored[order])
    assert np.array_equal(np.concatenate([each for _, each in found]), labels[order])


def test_each_epoch_shows_another_version(photos):
    rows = augmented(photos, Augmentation())
    assert isinstance(rows, EpochRows)
    first, again, second = (epoch_rows(rows, epoch=epoch) for epoch in (1, 1, 2))
    assert np.array_equal(first, again)
    clean = epoch_rows(augmented(photos, None))
    for one, other in ((first, second), (first, clean), (second, clean)):
        assert (one != other).any(axis=(1, 2, 3)).all()
    assert np.array_equal(rows.load()[0], photos["train"].load()[0])


def test_versions_do_not_depend_on_workers_memory_or_order(photos):
    one = epoch_rows(augmented(photos, Augmentation(), workers=1, memory_bytes=0))
    many = epoch_rows(augmented(photos, Augmentation(), workers=3))
    assert np.array_equal(one, many)
    other_order = epoch_rows(augmented(photos, Augmentation()), seed=5)
    back = np.empty_like(one)
    back[np.random.default_rng(5).permutation(48)] = other_order
    assert np.array_equal(back[np.random.default_rng(0).permutation(48)], one)
    other_seed = epoch_rows(augmented(photos, Augmentation(), seed=1))
    assert (one != other_seed).any(axis=(1, 2, 3)).all()


def test_several_pools_are_kept_apart(photos, monkeypatch):
    monkeypatch.setattr("featurestore.training.pools._POOL_BYTES", 0)
    monkeypatch.setattr("featurestore.training.pools._LEAST_BLOCKS", 1)
    monkeypatch.setattr("featurestore.training.pools.BLOCK_ROWS", 16)
    found = pieces(augmented(photos, None), piece_rows=10)
    assert [len(piece) for piece, _ in found] == [10, 6, 10, 6, 10, 6]
    features = np.concatenate([piece for piece, _ in found]).reshape(48, -1)
    stored = photos["train"].load()[0].reshape(48, -1)
    assert sorted(map(bytes, features)) == sorted(map(bytes, stored))


def test_watch_is_told_of_every_batch(photos):
    told = []
    options = dataclasses.replace(OPTIONS, watch=told.append)
    pixels = open_pixels(photos, "train", photos.recipe, options=options, memory_bytes=0)
    network = stream_network(photos, photos.recipe, options)
    rows = AugmentedRows(photos["train"], pixels, network, augmentation=None, seed=0)
    for _ in range(2):
        epoch_rows(rows)
    assert told == 2 * [8, 16, 24, 32, 40, 48]


def test_streamed_features_are_those_of_the_store(photos):
    network = tiny_network(photos.recipe)
    streamed = StreamedFeatures(
        photos, photos.recipe, network, options=OPTIONS, memory_bytes=MEMORY
    )
    for name in ("name", "fingerprint", "manifest_fingerprint", "class_names", "splits"):
        assert getattr(streamed, name) == getattr(photos, name)
    for split in photos.splits:
        mine, stored = streamed[split], photos[split]
        assert mine.read(0, 0).dtype == stored.dtype
        assert np.array_equal(mine.read(3, 11), stored.read(3, 11))
        assert np.array_equal(mine.load()[0], stored.load()[0])
        assert np.array_equal(mine.labels, stored.labels)
        assert np.array_equal(mine.sample_ids, stored.sample_ids)
        assert np.array_equal(mine.sha256, stored.sha256)
    assert network.images == 80  # each image once, however often it was read
    with pytest.raises(NotFound, match="no split 'other'"):
        streamed["other"]


def test_rows_beyond_the_memory_are_computed_again(photos):
    network = tiny_network(photos.recipe)
    row_bytes = 4 * 4 * 3 * 2
    streamed = StreamedFeatures(
        photos, photos.recipe, network, options=OPTIONS, memory_bytes=26 * row_bytes
    )
    for _ in range(2):  # the validation split's 16 rows are kept, and 10 of the training split's
        for split in ("train", "validation"):
            assert np.array_equal(streamed[split].load()[0], photos[split].load()[0])
    assert network.images == 48 + 16 + 38


def test_another_recipe_has_another_name_and_fingerprint(photos):
    recipe = dataclasses.replace(photos.recipe, dtype="float32")
    network = tiny_network(recipe)
    streamed = StreamedFeatures(photos, recipe, network, options=OPTIONS, memory_bytes=MEMORY)
    assert streamed.name == f"photos/{recipe.name}"
    assert streamed.fingerprint != photos.fingerprint
    assert streamed["train"].read(0, 2).dtype == np.float32
    assert np.allclose(streamed["train"].read(0, 2), photos["train"].read(0, 2), rtol=1e-3)


@pytest.fixture
def moved(tmp_path):
    """A feature set whose photographs have been moved to ``elsewhere``."""
    with embed_photographs(tmp_path, rows={"train": 4}) as features:
        shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
        yield features, tmp_path / "elsewhere"


def test_a_moved_dataset_is_named(moved):
    features, elsewhere = moved
    with pytest.raises(InvalidInput, match="no longer at") as caught:
        augmented(features, None)
    assert "--images" in caught.value.next_step
    options = dataclasses.replace(OPTIONS, images=elsewhere)
    pixels = open_pixels(features, "train", features.recipe, options=options, memory_bytes=0)
    assert len(next(pixels.batches(np.arange(4), batch_size=4))) == 4


def test_an_image_that_decodes_no_more_is_named(photos, monkeypatch):
    def unreadable(content, **options):
        raise UnreadableImage("truncated")

    monkeypatch.setattr("featurestore.pixels.decode_image", unreadable)
    sample_id = photos["train"].sample_ids[2]
    pixels = open_pixels(photos, "train", photos.recipe, options=OPTIONS, memory_bytes=0)
    with pytest.raises(UnreadableImage, match=f"^image {sample_id}: truncated"):
        next(pixels.batches(np.array([2]), batch_size=4))


@pytest.mark.parametrize("trouble", ["gone", "changed"])
def test_an_image_that_is_not_what_it_was_is_named(moved, trouble):
    features, elsewhere = moved
    options = dataclasses.replace(OPTIONS, images=elsewhere)
    sample_id = str(features["train"].sample_ids[2])
    if trouble == "gone":
        os.remove(elsewhere / sample_id)
        with pytest.raises(InvalidInput, match=f"{sample_id}: the file is gone") as caught:
            open_pixels(features, "train", features.recipe, options=options, memory_bytes=0)
    else:
        other = elsewhere / str(features["train"].sample_ids[3])
        shutil.copyfile(other, elsewhere / sample_id)
        pixels = open_pixels(features, "train", features.recipe, options=options, memory_bytes=0)
        rows = AugmentedRows(
            features["train"], pixels, tiny_network(features.recipe), augmentation=None, seed=0
        )
        with pytest.raises(InvalidInput, match=f"{sample_id}: the file has changed") as caught:
            epoch_rows(rows)
    assert "--images" in caught.value.next_step


def test_a_feature_that_cannot_be_stored_names_its_image(photos):
    class Overflowing(type(tiny_network(photos.recipe))):
        def embed(self, batch):
            if self.images == 16:
                raise UnstorableFeatures("too large", next_step="float32", rows=(5,))
            return super().embed(batch)

    options = dataclasses.replace(OPTIONS, network=lambda recipe: Overflowing(dtype="float16"))
    network = stream_network(photos, photos.recipe, options)
    pixels = open_pixels(photos, "train", photos.recipe, options=options, memory_bytes=0)
    rows = AugmentedRows(photos["train"], pixels, network, augmentation=None, seed=0)
    wrong = photos["train"].sample_ids[np.random.default_rng(0).permutation(48)[21]]
    with pytest.raises(InvalidInput, match=f"image {wrong}: too large"):
        epoch_rows(rows)


def test_images_of_another_decoder_are_refused(photos):
    recipe = dataclasses.replace(photos.recipe, decoder="another rule")
    with pytest.raises(Conflict, match="another rule"):
        stream_network(photos, recipe, OPTIONS)


def test_weights_that_are_nowhere_named_are_asked_for(photos, monkeypatch):
    monkeypatch.delitem(photos.record.provenance, "weights")
    with pytest.raises(NotFound, match="does not say where") as caught:
        stream_network(photos, photos.recipe, StreamOptions())
    assert "--weights" in caught.value.next_step
