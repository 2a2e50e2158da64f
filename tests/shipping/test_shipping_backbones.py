"""Backbones of several families in every format, and real photographs through a real network."""

import json
import os
import shutil
from pathlib import Path

import pytest

from featurestore.testing.images import write_image_folder
from featurestore_cli.main import run

DATA = Path(os.environ.get("FS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
WEIGHTS = DATA / "weights" / "vgg16_notop.weights.h5"
PHOTOS = DATA / "dogs_vs_cats_small"

pytestmark = pytest.mark.slow


def checked(capsys, *arguments):
    capsys.readouterr()
    assert run(["export-model", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["check"]


# One of each preprocessing, and of each thing that a format has stumbled over: padding before the
# first convolution, branches, Normalization within the network, activations made of operations.
@pytest.mark.parametrize(
    "backbone",
    [
        "mobilenet_v2",
        "mobilenet_v3_small",
        *(
            pytest.param(name, marks=pytest.mark.rare)
            for name in ("resnet50", "densenet121", "efficientnet_b0")
        ),
    ],
)
def test_every_format_gives_the_runs_probabilities(tmp_path, capsys, backbone):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    cache = ["--cache", str(tmp_path / "cache")]
    write_image_folder(tmp_path / "photos", splits={"train": 8, "test": 4})
    arguments = ["--backbone", backbone, "--size", "32", "--weights", "random:0"]
    chosen = ["--pooling", "avg", "--precision", "float32"]
    assert run(["embed", str(tmp_path / "photos"), *arguments, *chosen, *cache]) == 0
    assert run(["train", "photos", "--head", "logistic", *cache]) == 0
    for name in ("model.keras", "model", "model.onnx"):
        check = checked(capsys, "logistic", str(tmp_path / name), *cache)
        assert check["images"] == 24
        assert check["classes_differ"] == 0
        assert check["largest_difference"] < 1e-3


@pytest.mark.skipif(
    not (WEIGHTS.exists() and PHOTOS.exists()),
    reason=f"no real photographs and weights in {DATA} (FS_TEST_DATA names another place)",
)
def test_cats_and_dogs_in_one_file(tmp_path, capsys):
    for split, count in {"train": 30, "test": 10}.items():
        for label in ("cats", "dogs"):
            target = tmp_path / "photos" / split / label
            target.mkdir(parents=True)
            for path in sorted((PHOTOS / split / label).iterdir())[:count]:
                shutil.copyfile(path, target / path.name)
    cache = ["--cache", str(tmp_path / "cache")]
    chosen = ["--size", "150", "--weights", str(WEIGHTS), "--precision", "float32"]
    assert run(["embed", str(tmp_path / "photos"), *chosen, *cache]) == 0
    assert run(["train", "photos", "--head", "dense", "--epochs", "3", *cache]) == 0
    check = checked(capsys, "dense", str(tmp_path / "m.keras"), "--check", "40", *cache)
    assert check["images"] == 40
    assert check["classes_differ"] == 0
    assert check["largest_difference"] < 1e-3
