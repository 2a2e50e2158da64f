"""Fine-tuning from the command line's side: from a run to a run, cached or streamed."""

import dataclasses
import json
import shlex
import shutil

import numpy as np
import pytest

from featurestore.augmentation import Augmentation
from featurestore.catalogue import Catalogue
from featurestore.embedding.on_demand import OnDemandOptions
from featurestore.errors import InvalidInput, NotFound
from featurestore.features import open_record
from featurestore.testing.images import write_image_folder
from featurestore.training.classify import classify_images
from featurestore.training.fine_tune import FineTuneRequest, fine_tune
from featurestore.training.reevaluate import reevaluate
from featurestore.training.runs import load_run
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.streamed import StreamOptions
from featurestore.training.train import TrainOptions, train
from featurestore_cli.main import run as fs

UNFREEZE = ("conv_pw_13*", "conv_dw_13*")
CUT = "conv_pw_12_relu"
EMBED = ["--backbone", "mobilenet", "--size", "32", "--weights", "random:0", "--dtype", "float32"]


@dataclasses.dataclass
class Place:
    """A cache with one embedded folder of photographs and a dense run on it."""

    cache: object
    photos: object
    start: object

    def fine_tune(self, *, options=None, streaming=None, start=None, **asked):
        """Return the run, and what was told."""
        told = []
        fields = {"unfreeze": UNFREEZE, "epochs": 2, "batch_size": 5, "learning_rate": 1e-3}
        run = fine_tune(
            start or self.start,
            FineTuneRequest(**{**fields, **asked}, tell=told.append),
            cache=self.cache,
            options=options or TrainOptions(seed=4),
            streaming=streaming or StreamOptions(),
        )
        return run, told

    def train(self, settings, **options):
        record = Catalogue(self.cache).find(self.start_fingerprint)
        with open_record(record) as features:
            return train(features, settings, cache=self.cache, options=TrainOptions(**options))

    @property
    def start_fingerprint(self):
        return next(
            record.fingerprint
            for record in Catalogue(self.cache).records()
            if record.recipe.layer == "conv_pw_13_relu"
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fine-tune")
    made = Place(folder / "cache", folder / "photos", None)
    write_image_folder(made.photos, splits={"train": 6, "validation": 4, "test": 4})
    chosen = ["--precision", "float32", "--cache", str(made.cache)]
    assert fs(["embed", str(made.photos), *EMBED, *chosen]) == 0
    made.start = made.train(DenseSettings(units=8, epochs=2, dropout=0.25), seed=1)
    return made


def weights(run):
    return run.load_head().model_.get_weights()


def assert_same_fit(one, other):
    assert one.history == other.history
    for mine, theirs in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(
            one.predictions(split).probabilities, other.predictions(split).probabilities
        )


def test_a_run_that_was_streamed_is_used_without_features_of_its_layer(place, tmp_path, capsys):
    # First in this module: nothing is embedded at the cut yet.
    run, _ = place.fine_tune(epochs=1)
    cache = shutil.copytree(place.cache, tmp_path / "cache")
    recorded = run.predictions("test")
    paths = [place.photos / str(name) for name in recorded.sample_ids]
    options = OnDemandOptions(online_bytes=0)
    found = list(classify_images(run, paths, cache=cache, options=options))
    assert {each.origin for each in found} == {"computed"}
    np.testing.assert_allclose(
        np.stack([each.probabilities for each in found]), recorded.probabilities, atol=1e-5
    )
    with pytest.raises(NotFound, match=f"of layer {CUT}") as caught:
        reevaluate(run, cache=cache, on=None, split="test")
    command = shlex.split(caught.value.next_step)
    assert command[:2] == ["fs", "embed"]
    assert fs([*command[1:], "--json"]) == 0
    embedded = json.loads(capsys.readouterr().out)
    again = reevaluate(run, cache=cache, on=None, split="test")
    assert again.fingerprint == embedded["fingerprint"] and again.reproduction.reproduced


def test_cached_and_streamed_are_one_fit(place, capsys):
    streamed, told = place.fine_tune()
    (sentence,) = told
    assert f"no features of layer {CUT}" in sentence
    command = shlex.split(sentence.partition("such training: ")[2])
    assert command[:2] == ["fs", "embed"]
    assert fs([*command[1:], "--json"]) == 0
    embedded = json.loads(capsys.readouterr().out)
    cached, told = place.fine_tune()
    assert embedded["feature_set"] in told[0] and "do not run" in told[0]
    # The command gave the very set that had been computed in passing.
    assert streamed.features == cached.features
    assert cached.features.fingerprint == embedded["fingerprint"]
    assert_same_fit(streamed, cached)
    assert cached.history["train_loss"][1] < cached.history["train_loss"][0]


def test_the_run_says_what_it_is(place):
    run, _ = place.fine_tune(epochs=1)
    run = load_run(run.path)
    assert (run.head, run.path_taken, run.started_from) == (
        "fine-tuned",
        "fine-tune",
        place.start.id,
    )
    assert run.features.recipe["layer"] == run.settings.cut == CUT
    assert run.features.comparable == place.start.features.comparable
    assert run.settings.unfreeze == UNFREEZE
    assert (run.settings.units, run.settings.dropout) == (8, 0.25)
    counts = run.parameters
    assert counts["base_total"] == 3_228_864  # MobileNet without its top
    # A pointwise convolution of 1,024 to 1,024 channels, a depthwise one, scales and offsets.
    assert counts["base_trainable"] == 1024 * 1024 + 9 * 1024 + 2 * 2 * 1024
    assert counts["trainable"] - counts["base_trainable"] == counts["trainable_before"]
    assert counts["total"] == counts["trainable"] + counts["non_trainable"]


def test_images_are_classified_through_the_cut(place):
    run, _ = place.fine_tune(epochs=1)
    recorded = run.predictions("test")
    paths = [place.photos / str(name) for name in recorded.sample_ids]
    found = classify_images(run, paths, cache=place.cache, options=OnDemandOptions())
    np.testing.assert_allclose(
        np.stack([each.probabilities for each in found]), recorded.probabilities, atol=1e-5
    )


def test_augmented_images_are_streamed(place):
    streaming = StreamOptions(augmentation=Augmentation(fill=7))
    first, told = place.fine_tune(streaming=streaming)
    again, _ = place.fine_tune(streaming=dataclasses.replace(streaming, workers=1, batch_size=3))
    clean, _ = place.fine_tune()
    assert "augmented" in told[0]
    assert first.augmentation == {**Augmentation(fill=7).to_dict(), "seed": 4}
    np.testing.assert_allclose(first.history["train_loss"], again.history["train_loss"], rtol=1e-5)
    assert abs(first.history["train_loss"][0] - clean.history["train_loss"][0]) > 1e-4


def test_a_training_that_stopped_goes_on(place):
    def stop(done, total, numbers):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.fine_tune(epochs=3, options=TrainOptions(seed=9, progress=stop))
    seen = []
    options = TrainOptions(seed=9, progress=lambda done, *_: seen.append(done))
    resumed, _ = place.fine_tune(epochs=3, options=options)
    undisturbed, _ = place.fine_tune(epochs=3, options=TrainOptions(seed=9))
    assert seen[-1] == 3 and len(seen) < 3 + 1
    assert_same_fit(resumed, undisturbed)


def test_early_stopping(place):
    run, _ = place.fine_tune(epochs=4, patience=1, learning_rate=1.0, options=TrainOptions(seed=2))
    assert run.chosen["epoch"] <= len(run.history["train_loss"]) <= 4


def test_shuffled_labels_are_refused(place):
    # The head that it starts from has learned the true labels: its scores are not those of chance.
    with pytest.raises(InvalidInput, match="no control") as caught:
        place.fine_tune(options=TrainOptions(shuffle_labels=True))
    assert "--shuffle-labels" in caught.value.next_step


def test_other_starts_are_refused(place):
    logistic = place.train(LogisticSettings())
    with pytest.raises(InvalidInput, match=r"expected a dense head.*logistic") as caught:
        place.fine_tune(start=logistic)
    assert "--head dense" in caught.value.next_step
    tuned, _ = place.fine_tune(epochs=1)
    with pytest.raises(InvalidInput, match="found fine-tuned"):
        place.fine_tune(start=tuned)
    control = place.train(DenseSettings(units=2, epochs=1), shuffle_labels=True)
    with pytest.raises(InvalidInput, match="control"):
        place.fine_tune(start=control)


def test_a_start_whose_set_is_gone_is_refused(place, tmp_path):
    request = FineTuneRequest(unfreeze=UNFREEZE)
    with pytest.raises(NotFound, match="feature set of run") as caught:
        fine_tune(
            place.start,
            request,
            cache=tmp_path,
            options=TrainOptions(),
            streaming=StreamOptions(),
        )
    assert "embed" in caught.value.next_step


def test_unknown_layers_are_refused(place):
    with pytest.raises(InvalidInput, match="closest: conv_pw_13"):
        place.fine_tune(unfreeze=("conv_pw13",))


def test_views_that_nobody_embedded_are_refused(place):
    with pytest.raises(NotFound, match=f"no views.*{CUT}") as caught:
        place.fine_tune(options=TrainOptions(views=2))
    assert caught.value.next_step.startswith("fs embed") and "--views 2" in caught.value.next_step
    both = StreamOptions(augmentation=Augmentation())
    with pytest.raises(InvalidInput, match="found both"):
        place.fine_tune(options=TrainOptions(views=2), streaming=both)


def test_stored_views_are_trained_on(place, capsys):
    # Last in this module: with the set that it embeds, trainings are no longer streamed.
    command = ["embed", str(place.photos), *EMBED, "--layer", CUT, "--precision", "float32"]
    for views in ([], ["--views", "2"]):  # no other test need have run before
        assert fs([*command, *views, "--cache", str(place.cache)]) == 0
    run, told = place.fine_tune(options=TrainOptions(seed=4, views=2))
    assert "do not run" in told[0]
    assert run.augmentation["views"] == 2
    clean, told = place.fine_tune()
    assert "views" not in told[0]
    assert run.history["train_loss"] != clean.history["train_loss"]
    recorded = run.predictions("test")
    paths = [place.photos / str(name) for name in recorded.sample_ids]
    found = classify_images(run, paths, cache=place.cache, options=OnDemandOptions())
    np.testing.assert_allclose(
        np.stack([each.probabilities for each in found]), recorded.probabilities, atol=1e-5
    )
