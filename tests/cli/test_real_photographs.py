"""A few hundred real photographs through a real pretrained network, from folder to classifier."""

import json
import os
import shutil
from pathlib import Path

import pytest

from featurestore_cli.main import run

DATA = Path(os.environ.get("FS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
WEIGHTS = DATA / "weights" / "vgg16_notop.weights.h5"
PHOTOS = DATA / "dogs_vs_cats_small"
IMAGES = {"train": 100, "test": 50}  # of each class

pytestmark = pytest.mark.skipif(
    not (WEIGHTS.exists() and PHOTOS.exists()),
    reason=f"no real photographs and weights in {DATA} (FS_TEST_DATA names another place)",
)


def fs_json(capsys, *arguments):
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_cats_and_dogs_are_told_apart_from_the_cache(tmp_path, capsys):
    for split, count in IMAGES.items():
        for label in ("cats", "dogs"):
            target = tmp_path / "photos" / split / label
            target.mkdir(parents=True)
            for path in sorted((PHOTOS / split / label).iterdir())[:count]:
                shutil.copyfile(path, target / path.name)
    cache = ["--cache", str(tmp_path / "cache")]
    arguments = ["embed", str(tmp_path / "photos"), "--size", "150", "--weights", str(WEIGHTS)]
    code, found = fs_json(capsys, *arguments, *cache)
    assert (code, found["computed"]) == (0, 300)
    _, shown = fs_json(capsys, "show", "photos", *cache)
    assert shown["feature_shape"] == [4, 4, 512]
    _, trained = fs_json(capsys, "train", "photos", "--head", "logistic", *cache)
    # All 2,000 training photographs give 0.968 on 1,000; chance is 0.5.
    assert trained["metrics"]["test"]["accuracy"] >= 0.9
    exact = trained["metrics"]["test"]["accuracy"]
    for head in ("linear-svm", "sgd", "knn", "nearest-centroid"):
        _, other = fs_json(capsys, "train", "photos", "--head", head, *cache)
        accuracy = other["metrics"]["test"]["accuracy"]
        assert accuracy >= (exact - 0.03 if head in ("linear-svm", "sgd") else 0.85), head
