"""What training sees is the same, streamed or cached, for a backbone of every family."""

import functools

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow")

from featurestore.backbones.table import get_spec
from featurestore.embedding.backbone import network_of
from featurestore.embedding.embed import embed
from featurestore.embedding.settings import EmbedSettings
from featurestore.features import open_features
from featurestore.training.fine_tune import FineTuneRequest, fine_tune
from featurestore.training.pools import epoch_pools
from featurestore.training.runs import find_run
from featurestore.training.settings import DenseSettings
from featurestore.training.streamed import AugmentedRows, StreamOptions, open_pixels
from featurestore.training.train import TrainOptions, train

WEIGHTS = "random:0"
IMAGES = {"train": 4, "validation": 1, "test": 1}  # of each of two classes
# The last block of each, as `--unfreeze` takes it.
LAST_BLOCK = {
    "mobilenet": "conv_pw_13",
    "vgg16": "block5",
    "vgg19": "block5",
    "xception": "block14",
    "inception_v3": "conv2d_93",
    "inception_resnet_v2": "conv_7b",
    "mobilenet_v2": "block_16",
    "mobilenet_v3_small": "expanded_conv_10",
    "resnet50": "conv5_block3",
    "resnet50_v2": "conv5_block3",
    "densenet121": "conv5_block16",
    "nasnet_mobile": "*_normal_*_12",
    "efficientnet_b0": "block7a",
    "efficientnet_v2_b0": "block6h",
    "convnext_tiny": "convnext_tiny_stage_3_block_2",
}
FAST = "mobilenet"
SHOWN = (FAST, "resnet50", "convnext_tiny")


def marks(name):
    if name == FAST:
        return []
    return [pytest.mark.slow] if name in SHOWN else [pytest.mark.slow, pytest.mark.rare]


EVERY = [pytest.param(name, marks=marks(name)) for name in LAST_BLOCK]
# One of each shape of layer graph: each builds and compiles its network several times. All families
# have passed this; the features of all are compared above.
SHAPES = ("vgg16", "inception_v3", "mobilenet", "mobilenet_v2", "resnet50", "convnext_tiny")
FINE_TUNED = [each for each in EVERY if each.values[0] in SHAPES]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Coarse random blocks: noise alone would give every image much the same features."""
    folder = tmp_path_factory.mktemp("families") / "blocks"
    random = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for label in ("one", "two"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                blocks = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
                image = Image.fromarray(blocks).resize((96, 80), Image.Resampling.NEAREST)
                image.save(folder / split / label / f"{number}.png")
    return folder


@pytest.fixture
def cache(photographs, backbone):
    """One for both tests of a backbone, since the slow part of either is building networks."""
    return photographs.parent / "caches" / backbone


@pytest.fixture(scope="module")
def embedded_once(photographs):
    """Embeds for both tests of a backbone: to find what is there already builds a network too."""
    return functools.cache(functools.partial(embedded, photographs))


def embedded(photographs, backbone, *, cache, **fields):
    side = get_spec(backbone).minimum_size
    settings = EmbedSettings(
        backbone=backbone, weights=WEIGHTS, size=(side, side), precision="float32", **fields
    )
    return embed(photographs, settings, cache=cache).fingerprint


def one_epoch(rows):
    """Return an epoch's features and labels, and the rows of the split that they are of."""

    def pools():
        values = int(np.prod(rows.feature_shape))
        return epoch_pools(len(rows), row_values=values, rng=np.random.default_rng(1))

    pieces = list(rows.pieces(pools(), epoch=1, piece_rows=3))
    order = np.concatenate([pool.rows for pool in pools()])
    return *map(np.concatenate, zip(*pieces, strict=True)), order


@pytest.mark.parametrize("backbone", EVERY)
def test_streamed_features_are_the_cached_ones(embedded_once, cache, backbone):
    with open_features(embedded_once(backbone, cache=cache), cache=cache) as found:
        pixels = open_pixels(
            found, "train", found.recipe, options=StreamOptions(workers=2), memory_bytes=0
        )
        network = network_of(found.recipe, weights=WEIGHTS)
        rows = AugmentedRows(found["train"], pixels, network, augmentation=None, seed=0)
        features, labels, order = one_epoch(rows)
        cached, cached_labels = found["train"].load()
    assert len(np.unique(cached.reshape(len(cached), -1), axis=0)) == len(cached)
    assert features.dtype == cached.dtype
    # Not within a tolerance: the same compiled pass gives the same bits.
    assert np.array_equal(features, cached[order])
    assert np.array_equal(labels, cached_labels[order])


@pytest.mark.parametrize("backbone", FINE_TUNED)
def test_fine_tuning_from_images_is_that_from_cached_features(
    photographs, embedded_once, cache, backbone
):
    with open_features(embedded_once(backbone, cache=cache), cache=cache) as found:
        start = train(found, DenseSettings(units=4, epochs=1), cache=cache)

    told = []

    def tuned():
        # Two steps, of 5 and 3 rows. The rate is large, so that weights move.
        request = FineTuneRequest(
            unfreeze=(LAST_BLOCK[backbone],),
            epochs=1,
            batch_size=5,
            learning_rate=1e-3,
            tell=told.append,
        )
        return fine_tune(
            start, request, cache=cache, options=TrainOptions(), streaming=StreamOptions(workers=2)
        )

    streamed = tuned()
    embedded(photographs, backbone, cache=cache, layer=streamed.settings.cut)
    cached = tuned()
    assert "images run through the frozen layers" in told[0]
    assert "training from the features of" in told[1]
    before, after = (run.predictions("train").probabilities for run in (start, streamed))
    assert np.abs(before - after).max() > 1e-3
    assert streamed.history == cached.history
    for split in ("train", "validation", "test"):
        ours, theirs = streamed.predictions(split), cached.predictions(split)
        assert np.array_equal(ours.probabilities, theirs.probabilities), split
    again = find_run(streamed.id, cache=cache)
    with open_features(cached.features.fingerprint, cache=cache) as found:
        features, _ = found["test"].load()
    probabilities = again.load_head().predict_proba(features)
    recorded = streamed.predictions("test").probabilities
    np.testing.assert_allclose(probabilities, recorded, rtol=0, atol=1e-6)
