"""Runs in a cache with given probabilities, on a feature set that is committed there."""

import itertools

import numpy as np

from featurestore.catalogue import RUNS
from featurestore.training.evaluation import Predictions
from featurestore.training.runs import Run, TrainedOn, write_run
from featurestore.training.settings import LogisticSettings

_NUMBERS = itertools.count()


class _Model:
    suffix = ".skops"

    def save(self, path):
        path.write_bytes(b"x")


def run_on(record, cache, **changes) -> Run:
    """Write a run on `record`; later ones are newer."""
    number = next(_NUMBERS)
    run_id = f"logistic-{record.dataset}-20260101T000000-{number:04}"
    settings = LogisticSettings(c=0.5)
    scores = {"accuracy": 0.75, "log_loss": 0.5, "roc_auc": None}
    fields = {
        "id": run_id,
        "path": cache / RUNS / run_id,
        "created": f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}+00:00",
        "head": settings.head,
        "settings": settings,
        "seed": 0,
        "shuffled_labels": False,
        "features": TrainedOn(
            name=record.name,
            fingerprint=record.fingerprint,
            manifest_fingerprint=record.manifest_fingerprint,
            recipe_fingerprint=record.recipe.fingerprint,
            recipe=record.recipe.to_dict(),
            class_names=record.class_names,
            feature_shape=record.feature_shape,
            rows=record.rows,
            comparable=record.fingerprint,
        ),
        "metrics": {"train": scores, "validation": None, "test": scores},
        "history": {"train_loss": [0.5, 0.25], "validation_loss": [0.75, 0.5]},
        "chosen": {"c": 0.5},
        "notes": ("a note",),
        "versions": {"python": "3"},
        "seconds": {"fit": 2.0, "total": 3.0, "predict_per_row": 1e-5},
        "files": {},
    }
    predictions = Predictions(
        np.array(["a.jpg"]), np.zeros(1, np.int64), np.array([[0.9, 0.1]], np.float32)
    )
    return write_run(Run(**fields | changes), _Model(), {"test": predictions})
