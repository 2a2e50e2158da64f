"""Training one head on one feature set, and recording it as a run."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from featurestore.catalogue import RUNS
from featurestore.errors import InvalidInput
from featurestore.training.contract import (
    Features,
    Head,
    HeadSettings,
    Progress,
    SampleRows,
)
from featurestore.training.heads import create_head
from featurestore.training.runs import (
    Metrics,
    Predictions,
    Run,
    TrainedOn,
    new_run_id,
    write_run,
)

SPLITS = ("train", "validation", "test")
_BLOCK_BYTES = 64 * 2**20  # of features read at once while evaluating


def train(
    features: Features,
    settings: HeadSettings,
    *,
    cache: Path,
    seed: int = 0,
    progress: Progress | None = None,
) -> Run:
    """Fit a head to the training split, evaluate it on every split, and write the run.

    The head sees the training and validation splits. The test split is read once, after the fit.

    Returns
    -------
    The run, durable below ``cache/runs``.

    Raises
    ------
    InvalidInput
        There is no training split, fewer than two classes, or a class without a training row; the
        fit failed on these features; the cache cannot be written.
    """
    present = {split: features[split] for split in features.splits if len(features[split])}
    _check_trainable(features, present)
    head = create_head(settings)
    began = time.perf_counter()
    head.fit(
        present["train"],
        present.get("validation"),
        n_classes=len(features.class_names),
        seed=seed,
        progress=progress,
    )
    fitted = time.perf_counter()
    predictions = {split: _predict(head, rows) for split, rows in present.items()}
    ended = time.perf_counter()
    created = datetime.now(UTC)
    run_id = new_run_id(
        settings.head,
        features.name.partition("/")[0],
        created=created,
        suffix=secrets.token_hex(2),
    )
    run = Run(
        id=run_id,
        path=cache / RUNS / run_id,
        created=created.isoformat(timespec="seconds"),
        head=settings.head,
        settings=settings,
        seed=seed,
        features=_trained_on(features, present),
        metrics={
            split: score(predictions[split]) if split in predictions else None for split in SPLITS
        },
        history=head.history_,
        notes=(*head.notes_, *_missing_notes(features, present)),
        versions=_versions(head),
        seconds={"fit": fitted - began, "total": ended - began},
        files={},
    )
    return write_run(run, head, predictions)


def score(predictions: Predictions) -> Metrics:
    """Return accuracy and log loss of one split.

    The log loss is the mean over rows of -ln p(label), with p no less than float32's epsilon, as
    scikit-learn's `log_loss` clips it. Of equal probabilities the first class is the prediction.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    least = float(np.finfo(np.float32).eps)
    return {
        "accuracy": float(np.mean(probabilities.argmax(axis=1) == labels)),
        "log_loss": float(-np.log(np.clip(given, least, 1 - least)).mean()),
    }


def _check_trainable(features: Features, present: Mapping[str, SampleRows]) -> None:
    if "train" not in present:
        raise InvalidInput(
            f"feature set {features.name} has no rows in a train split: "
            f"it has {', '.join(present) or 'no rows at all'}",
            next_step="embed a dataset with a train split, or with --split 0.7,0.15,0.15",
        )
    names = features.class_names
    if len(names) < 2:
        raise InvalidInput(
            f"feature set {features.name}: expected at least two classes, "
            f"found {len(names)}: {', '.join(names)}",
            next_step="embed a dataset with one folder for each of two or more classes",
        )
    counts = np.bincount(present["train"].labels, minlength=len(names))
    missing = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if missing:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if missing[8:] else "")
        raise InvalidInput(
            f"feature set {features.name}: no training row of class {shown}",
            next_step=f"add training images of it, or see what was quarantined: "
            f"fs show {features.name}",
        )


def _predict(head: Head, rows: SampleRows) -> Predictions:
    row_bytes = 4 * int(np.prod(rows.feature_shape))
    block = max(1, _BLOCK_BYTES // row_bytes)
    probabilities = [
        head.predict_proba(rows.read(start, min(start + block, len(rows))))
        for start in range(0, len(rows), block)
    ]
    return Predictions(rows.sample_ids, rows.labels, np.concatenate(probabilities))


def _trained_on(features: Features, present: Mapping[str, SampleRows]) -> TrainedOn:
    return TrainedOn(
        name=features.name,
        fingerprint=features.fingerprint,
        manifest_fingerprint=features.manifest_fingerprint,
        recipe_fingerprint=features.recipe.fingerprint,
        recipe=features.recipe.to_dict(),
        class_names=features.class_names,
        feature_shape=present["train"].feature_shape,
        rows={split: len(rows) for split, rows in present.items()},
    )


def _missing_notes(features: Features, present: Mapping[str, SampleRows]) -> list[str]:
    return [
        f"feature set {features.name} has no {split} rows: no {split} metrics"
        for split in SPLITS
        if split not in present
    ]


def _versions(head: Head) -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "featurestore": _own_version(),
        "numpy": np.__version__,
        **head.versions(),
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version("featurestore")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"
