"""Event files: read back as TensorBoard reads them, named after the run, there while it trains."""

import numpy as np
import pytest
import tensorflow as tf

from featurestore.errors import InvalidInput
from featurestore.testing.heads import MemoryFeatures, blobs
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.tensorboard import EventFiles
from featurestore.training.train import TrainOptions, train

SETTINGS = DenseSettings(units=8, epochs=3, learning_rate=3e-3)


def features(*, validation=True):
    rows = {"train": blobs(40, n_classes=2), "test": blobs(20, n_classes=2, seed=2)}
    if validation:
        rows["validation"] = blobs(20, n_classes=2, seed=1)
    return MemoryFeatures(rows, ("cat", "dog"))


def scalars(folder):
    """Return {tag: [(step, value), …]} of the one event file in a folder."""
    (path,) = folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    found = {}
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            found.setdefault(value.tag, []).append(
                (event.step, float(tf.make_ndarray(value.tensor)))
            )
    return found


def test_a_run_is_there_with_keras_tags(tmp_path):
    run = train(
        features(),
        SETTINGS,
        cache=tmp_path / "cache",
        options=TrainOptions(tensorboard=tmp_path / "logs"),
    )
    assert [path.name for path in (tmp_path / "logs").iterdir()] == [run.id]
    for split in ("train", "validation"):
        found = scalars(tmp_path / "logs" / run.id / split)
        assert set(found) == {"epoch_loss", "epoch_accuracy"}
        for metric in ("loss", "accuracy"):
            steps, values = zip(*found[f"epoch_{metric}"], strict=True)
            assert steps == (0, 1, 2)
            np.testing.assert_allclose(values, run.history[f"{split}_{metric}"], rtol=1e-6)


def test_epochs_are_there_while_training_goes_on(tmp_path):
    seen = []

    def look(done, total, numbers):
        (folder,) = tmp_path.joinpath("logs").iterdir()
        seen.append(len(scalars(folder / "train")["epoch_loss"]))

    options = TrainOptions(tensorboard=tmp_path / "logs", progress=look)
    train(features(validation=False), SETTINGS, cache=tmp_path / "cache", options=options)
    assert seen == [1, 2, 3]
    (folder,) = tmp_path.joinpath("logs").iterdir()
    assert [path.name for path in folder.iterdir()] == ["train"]


def test_a_head_without_epochs_is_refused_before_the_fit(tmp_path):
    options = TrainOptions(tensorboard=tmp_path / "logs")
    with pytest.raises(InvalidInput, match="logistic has no epochs"):
        train(features(), LogisticSettings(), cache=tmp_path / "cache", options=options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "logs").write_text("a file")
    with (
        EventFiles(tmp_path / "logs", "run") as files,
        pytest.raises(InvalidInput, match=r"cannot be written.*\n.*--tensorboard"),
    ):
        files(1, 2, {"train_loss": 0.5})
