"""Runs on disk with given probabilities, without fitting anything."""

import dataclasses
import itertools

import numpy as np

from featurestore.augmentation import Augmentation
from featurestore.catalogue import RUNS
from featurestore.recipe import Views
from featurestore.testing.heads import RECIPE
from featurestore.training.evaluation import Predictions
from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.runs import Run, TrainedOn, write_run
from featurestore.training.settings import DenseSettings

_NUMBERS = itertools.count()
RANGES = Augmentation()
NADAM = DenseSettings(optimizer="nadam")


def tuned_settings(**changes):
    fields = {
        "backbone": "vgg16",
        "size": (150, 150),
        "layer": "block5_pool",
        "pooling": "none",
        "precision": "float32",
        "cut": "block4_pool",
        "unfreeze": ("block5",),
        "statistics": False,
        "units": 256,
        "dropout": 0.0,
        "scaled": True,
        "epochs": 30,
        "batch_size": 20,
        "optimizer": "rmsprop",
        "learning_rate": 1e-5,
        "patience": None,
        "class_weight": "none",
    }
    return FineTuneSettings(**fields | changes)


class _Model:
    suffix = ".skops"

    def save(self, path):
        path.write_bytes(b"x" * 100)


def trained_on(**changes):
    fields = {
        "name": "photos/vgg16",
        "fingerprint": "f" * 64,
        "manifest_fingerprint": "e" * 64,
        "recipe_fingerprint": RECIPE.fingerprint,
        "recipe": RECIPE.to_dict(),
        "class_names": ("cats", "dogs"),
        "feature_shape": (2, 2, 8),
        "rows": {"train": 10, "test": 100},
    } | changes
    return TrainedOn(**{"comparable": fields["fingerprint"]} | fields)


def made_run(cache, labels, probabilities, *, settings=None, seed=0, **changes) -> Run:
    """Write a run whose `splits`, the test split alone unless told, have these probabilities."""
    settings = settings or DenseSettings()
    number = next(_NUMBERS)
    run_id = f"{settings.head}-photos-20260101T000000-{number:04}"
    fields = {
        "id": run_id,
        "path": cache / RUNS / run_id,
        "created": "2026-01-01T00:00:00+00:00",
        "head": settings.head,
        "settings": settings,
        "seed": seed,
        "shuffled_labels": False,
        "features": trained_on(),
        "metrics": {"train": None, "validation": None, "test": None},
        "history": {},
        "chosen": {},
        "notes": (),
        "versions": {},
        "seconds": {"fit": 2.0, "total": 3.0, "predict_per_row": 1e-5},
        "files": {},
    }
    ids = changes.pop("sample_ids", [f"test/{i:04}.jpg" for i in range(len(labels))])
    predictions = Predictions(
        np.array(ids), np.asarray(labels, np.int64), np.asarray(probabilities, np.float32)
    )
    splits = changes.pop("splits", ["test"])
    return write_run(Run(**fields | changes), _Model(), dict.fromkeys(splits, predictions))


def end_to_end(cache, labels, probabilities, *, seed=0, augmentation=RANGES, **changes):
    """Write a run of images that went through the frozen network in every epoch."""
    drawn = None if augmentation is None else {**augmentation.to_dict(), "seed": seed}
    fields = {"settings": NADAM, "path_taken": "end-to-end", "augmentation": drawn} | changes
    return made_run(cache, labels, probabilities, seed=seed, **fields)


def with_views(cache, labels, probabilities, *, count=6, view_seed=0, **changes):
    """Write a run on stored views."""
    views = Views(augmentation=RANGES, seed=view_seed, count=count)
    recipe = dataclasses.replace(RECIPE, augmentation=views)
    features = trained_on(
        name="photos/vgg16-views",
        fingerprint=f"{count}{view_seed}".ljust(64, "a"),
        recipe=recipe.to_dict(),
        recipe_fingerprint=recipe.fingerprint,
        comparable="f" * 64,
    )
    return made_run(
        cache, labels, probabilities,
        **{"features": features, "augmentation": views.to_dict()} | changes,
    )  # fmt: skip


def fine_tuned(cache, labels, probabilities, *, start, **changes):
    """Write a run that went on from another with the last block's layers."""
    recipe = dataclasses.replace(RECIPE, layer="block4_pool", weights_sha256="4" * 64)
    features = trained_on(
        name="photos/vgg16-block4_pool",
        fingerprint="4" * 64,
        recipe=recipe.to_dict(),
        recipe_fingerprint=recipe.fingerprint,
        feature_shape=(4, 4, 8),
        comparable=start.features.comparable,
    )
    fields = {
        "settings": tuned_settings(),
        "path_taken": "fine-tune",
        "started_from": start.id,
        "parameters": {"total": 1000, "trainable_before": 100, "trainable": 400},
        "features": features,
    }
    return made_run(cache, labels, probabilities, **fields | changes)


def answers(labels, right, *, sure=0.9):
    """Return two-class probabilities that get the rows of `right`, (N,) bool, right."""
    predicted = np.where(right, labels, 1 - np.asarray(labels))
    other = 1 - predicted
    probabilities = np.empty((len(labels), 2), np.float32)
    rows = np.arange(len(labels))
    probabilities[rows, predicted] = sure
    probabilities[rows, other] = 1 - sure
    return probabilities


def noisy(labels, *, n_classes, seed, skill=2.0):
    """Return softmax probabilities that lean to the labels by `skill`."""
    scores = np.random.default_rng(seed).normal(size=(len(labels), n_classes))
    scores[np.arange(len(labels)), labels] += skill
    shares = np.exp(scores)
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def changed(run, **changes):
    """Return the run under another feature set, say."""
    return dataclasses.replace(run, features=dataclasses.replace(run.features, **changes))
