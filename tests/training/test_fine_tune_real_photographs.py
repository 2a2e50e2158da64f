"""Fine-tuning block5 of a real VGG16 on real photographs: cached and streamed are one fit."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from featurestore.training.fine_tune import FineTuneRequest, fine_tune
from featurestore.training.runs import find_run
from featurestore.training.streamed import StreamOptions
from featurestore.training.train import TrainOptions
from featurestore_cli.main import run as fs

DATA = Path(os.environ.get("FS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
WEIGHTS = DATA / "weights" / "vgg16_notop.weights.h5"
PHOTOS = DATA / "dogs_vs_cats_small"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (WEIGHTS.exists() and PHOTOS.exists()),
        reason=f"no real photographs and weights in {DATA} (FS_TEST_DATA names another place)",
    ),
]


def test_cached_and_streamed_block5_are_one_fit(tmp_path):
    for split, count in {"train": 15, "validation": 5, "test": 5}.items():
        for label in ("cats", "dogs"):
            target = tmp_path / "photos" / split / label
            target.mkdir(parents=True)
            for path in sorted((PHOTOS / split / label).iterdir())[:count]:
                shutil.copyfile(path, target / path.name)
    cache = tmp_path / "cache"
    embed = ["embed", str(tmp_path / "photos"), "--size", "150", "--weights", str(WEIGHTS)]
    assert fs([*embed, "--cache", str(cache)]) == 0
    assert fs(["train", "photos", "--head", "dense", "--epochs", "3", "--cache", str(cache)]) == 0
    told = []

    def tuned():
        return fine_tune(
            find_run("dense", cache=cache),
            FineTuneRequest(unfreeze=("block5",), epochs=2, tell=told.append),
            cache=cache,
            options=TrainOptions(seed=1),
            streaming=StreamOptions(),
        )

    streamed = tuned()
    assert fs([*embed, "--layer", "block4_pool", "--cache", str(cache)]) == 0
    cached = tuned()
    assert ["do not run" in sentence for sentence in told] == [False, True]
    assert streamed.history == cached.history
    assert streamed.parameters["base_trainable"] == 7_079_424
    for split in ("validation", "test"):
        np.testing.assert_array_equal(
            streamed.predictions(split).probabilities, cached.predictions(split).probabilities
        )
