"""A fine-tuned run as one network from images: the frozen part and the tail, stitched together."""

import json

import keras
import numpy as np
import pytest

from featurestore.images import decode_image
from featurestore.testing.images import write_image_folder
from featurestore.training.runs import read_runs
from featurestore_cli.main import run as fs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with photographs, and a cache with a run fine-tuned on streamed images."""
    folder = tmp_path_factory.mktemp("fine-tuned")
    write_image_folder(folder / "photos", splits={"train": 6, "test": 4})
    cache = ["--cache", str(folder / "cache")]
    chosen = ["--backbone", "mobilenet", "--size", "32", "--weights", "random:0"]
    embed = ["embed", str(folder / "photos"), *chosen, "--precision", "float32"]
    assert fs([*embed, "--pooling", "avg", *cache]) == 0
    assert fs(["train", "photos", "--head", "dense", "--units", "8", "--epochs", "2", *cache]) == 0
    fine_tune = ["--path", "fine-tune", "--from", "dense", "--unfreeze", "conv_pw_13"]
    assert fs(["train", "photos", *fine_tune, "--epochs", "2", *cache]) == 0
    return folder


def fine_tuned(place):
    return next(run for run in read_runs(place / "cache").runs if run.head == "fine-tuned")


@pytest.mark.parametrize("name", ["model.keras", "model"])
def test_the_stitched_network_gives_the_runs_probabilities(place, name, capsys):
    target = place / name
    capsys.readouterr()
    command = ["export-model", "fine-tuned", str(target), "--cache", str(place / "cache")]
    assert fs([*command, "--json"]) == 0
    check = json.loads(capsys.readouterr().out)["check"]
    assert check["images"] == 20
    assert check["classes_differ"] == 0
    assert check["largest_difference"] < 1e-4


def test_it_needs_keras_alone(place):
    target = place / "alone.keras"
    assert fs(["export-model", "fine-tuned", str(target), "--cache", str(place / "cache")]) == 0
    run = fine_tuned(place)
    recorded = run.predictions("test")
    images = [
        decode_image(
            (place / "photos" / str(name)).read_bytes(), size=(32, 32), interpolation="bilinear"
        )
        for name in recorded.sample_ids
    ]
    found = keras.saving.load_model(target).predict(np.stack(images), verbose=0)
    np.testing.assert_allclose(found, recorded.probabilities, atol=1e-4)
    assert np.ptp(recorded.probabilities[:, 0]) > 1e-3  # not one number for all


def test_the_card_says_what_was_trained(place):
    target = place / "told.keras"
    command = ["export-model", "fine-tuned", str(target), "--no-check"]
    assert fs([*command, "--cache", str(place / "cache")]) == 0
    run = fine_tuned(place)
    card = (place / "told.keras.md").read_text()
    assert "`conv_pw_13_relu`, fine-tuned in `conv_pw_13`, then a dense head" in card
    assert f"started from run `{run.started_from}`" in card
    assert "1,048,576 of the backbone's 3,228,864 weights" in card
    made_of = json.loads((place / "told.keras.json").read_text())["made_of"]
    assert made_of["path"] == "fine-tune"
    assert made_of["parameters"]["base_trainable"] == 1_048_576
