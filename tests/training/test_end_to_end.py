"""The end-to-end path: a dense head on images that are augmented anew in every epoch."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from streaming_sets import embed_photographs, tiny_network

import featurestore as fs
from featurestore.augmentation import Augmentation
from featurestore.catalogue import Catalogue
from featurestore.errors import InvalidInput
from featurestore.features import open_record
from featurestore.testing.embedding import TinyChoice
from featurestore.training.checkpoints import Resumption, find_unfinished
from featurestore.training.end_to_end import end_to_end_settings, train_end_to_end
from featurestore.training.evaluation import predict
from featurestore.training.runs import load_run
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.streamed import StreamOptions
from featurestore.training.train import TrainOptions, train

SETTINGS = end_to_end_settings({"units": 8, "epochs": 3, "batch_size": 7, "learning_rate": 1e-3})
STREAMING = StreamOptions(augmentation=Augmentation(), network=tiny_network, workers=2)
CLEAN = dataclasses.replace(STREAMING, augmentation=None)

DATA = Path(os.environ.get("FS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
WEIGHTS = DATA / "weights" / "vgg16_notop.weights.h5"
PHOTOS = DATA / "dogs_vs_cats_small"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    with embed_photographs(tmp_path_factory.mktemp("photos")) as features:
        yield features


def end_to_end(features, cache, *, settings=SETTINGS, streaming=STREAMING, **options):
    options = TrainOptions(**options)
    return train_end_to_end(features, settings, cache=cache, options=options, streaming=streaming)


def assert_same_run(found, expected):
    assert found.history == expected.history
    assert found.metrics == expected.metrics
    weights = (run.load_head().model_.get_weights() for run in (found, expected))
    assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))


def test_defaults_are_those_of_the_reference():
    assert end_to_end_settings({}) == DenseSettings(
        optimizer="nadam", learning_rate=2e-5, batch_size=20, epochs=30
    )
    assert end_to_end_settings({"optimizer": "adam"}).optimizer == "adam"
    with pytest.raises(InvalidInput, match="trees"):
        end_to_end_settings({"trees": 3})


def test_without_augmentation_it_is_the_cached_fit_to_the_bit(photos, tmp_path):
    streamed = end_to_end(photos, tmp_path, streaming=CLEAN, seed=4)
    cached = train(photos, SETTINGS, cache=tmp_path, options=TrainOptions(seed=4))
    assert_same_run(streamed, cached)
    assert (streamed.path_taken, streamed.augmentation) == ("end-to-end", None)


def test_the_run_says_what_it_saw_and_its_head_reads_cached_features(photos, tmp_path):
    run = end_to_end(photos, tmp_path, seed=4)
    found = load_run(run.path)
    assert found == run
    assert (found.head, found.path_taken, found.started_from) == ("dense", "end-to-end", None)
    assert found.augmentation == {**Augmentation().to_dict(), "seed": 4}
    assert found.features.comparable == photos.fingerprint
    assert len(found.history["train_loss"]) == len(found.history["validation_loss"]) == 3
    recorded = found.predictions("test").probabilities
    assert np.array_equal(predict(found.load_head(), photos["test"]).probabilities, recorded)
    clean = end_to_end(photos, tmp_path, streaming=CLEAN, seed=4)
    assert clean.history["train_loss"] != found.history["train_loss"]
    assert find_unfinished(tmp_path) == []


def test_workers_and_memory_decide_nothing(photos, tmp_path):
    one = dataclasses.replace(STREAMING, workers=1)
    expected = end_to_end(photos, tmp_path, streaming=one)
    three = dataclasses.replace(STREAMING, workers=3)
    assert_same_run(end_to_end(photos, tmp_path, streaming=three, memory_bytes=10_000), expected)


def test_shuffled_labels_and_balanced_classes(photos, tmp_path):
    settings = dataclasses.replace(SETTINGS, class_weight="balanced")
    streamed = end_to_end(
        photos, tmp_path, settings=settings, streaming=CLEAN, shuffle_labels=True, seed=2
    )
    options = TrainOptions(seed=2, shuffle_labels=True)
    assert_same_run(streamed, train(photos, settings, cache=tmp_path, options=options))


def test_a_stopped_training_ends_as_an_undisturbed_one(photos, tmp_path):
    expected = end_to_end(photos, tmp_path / "whole")

    def stop_in_second(epoch, total, numbers):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        end_to_end(photos, tmp_path, progress=stop_in_second)
    assert [each.epoch for each in find_unfinished(tmp_path)] == [1]
    resumed = []
    streaming = dataclasses.replace(STREAMING, resumption=Resumption(resumed=resumed.append))
    found = end_to_end(photos, tmp_path, streaming=streaming, memory_bytes=2**29)
    assert resumed == [1]
    assert_same_run(found, expected)
    assert find_unfinished(tmp_path) == []


def test_a_stopped_training_goes_on_from_a_set_of_the_same_images_with_views(photos, tmp_path):
    def stop_in_second(epoch, total, numbers):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        end_to_end(photos, tmp_path, progress=stop_in_second)
    cache = photos.path.parent.parent
    views = fs.EmbedSettings(views=2)
    fs.embed(cache.parent / "photos", views, cache=cache, choose=TinyChoice)
    resumed = []
    streaming = dataclasses.replace(STREAMING, resumption=Resumption(resumed=resumed.append))
    with open_record(Catalogue(cache).find("photos", with_views=True)) as viewed:
        assert viewed.fingerprint != photos.fingerprint
        found = end_to_end(viewed, tmp_path, streaming=streaming)
    assert resumed == [1]
    assert_same_run(found, end_to_end(photos, tmp_path / "whole"))


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"settings": dataclasses.replace(SETTINGS, units=9)}, {}),
        ({"streaming": dataclasses.replace(STREAMING, augmentation=Augmentation(zoom=0.1))}, {}),
        ({}, {"seed": 1}),
        ({}, {"shuffle_labels": True}),
    ],
)
def test_another_training_does_not_go_on_from_it(photos, tmp_path, change, options):
    def stop(epoch, total, numbers):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        end_to_end(photos, tmp_path, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        end_to_end(photos, tmp_path, progress=stop, **change, **options)
    assert [each.epoch for each in find_unfinished(tmp_path)] == [1, 1]


def test_stored_views_are_refused(photos, tmp_path):
    with pytest.raises(InvalidInput, match="found 2 stored views") as caught:
        end_to_end(photos, tmp_path, views=2)
    assert "augmentation" in caught.value.next_step


def test_other_heads_are_refused(photos, tmp_path):
    with pytest.raises(InvalidInput, match="expected head dense, found logistic") as caught:
        end_to_end(photos, tmp_path, settings=LogisticSettings())
    assert "--views" in caught.value.next_step


@pytest.mark.slow
@pytest.mark.skipif(
    not (WEIGHTS.exists() and PHOTOS.exists()),
    reason=f"no real photographs and weights in {DATA} (FS_TEST_DATA names another place)",
)
def test_real_photographs_streamed_without_augmentation_equal_cached_ones(tmp_path):
    for split, count in {"train": 20, "validation": 8}.items():
        for label in ("cats", "dogs"):
            target = tmp_path / "photos" / split / label
            target.mkdir(parents=True)
            for path in sorted((PHOTOS / split / label).iterdir())[:count]:
                shutil.copyfile(path, target / path.name)
    settings = fs.EmbedSettings(weights=str(WEIGHTS), size=(150, 150))
    fs.embed(tmp_path / "photos", settings, cache=tmp_path)
    with fs.open("photos", cache=tmp_path) as features:
        streaming = StreamOptions()  # weights and images are where the set says
        head = dataclasses.replace(SETTINGS, epochs=2)
        streamed = end_to_end(features, tmp_path, settings=head, streaming=streaming)
        cached = train(features, head, cache=tmp_path)
    assert_same_run(streamed, cached)
