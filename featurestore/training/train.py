"""Training one head on one feature set, and recording it as a run."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import numpy as np

from featurestore.backbones.quiet import quiet_startup
from featurestore.catalogue import RUNS, set_fingerprint
from featurestore.errors import InvalidInput
from featurestore.features import FeatureSet
from featurestore.manifest import SPLITS
from featurestore.training.contract import (
    DEFAULT_MEMORY_BYTES,
    Checkpoint,
    Checkpoints,
    Features,
    FitOptions,
    Head,
    HeadSettings,
    Progress,
    SampleRows,
)
from featurestore.training.evaluation import predict, score, seconds_per_row
from featurestore.training.heads import create_head, has_epochs
from featurestore.training.rows import relabelled
from featurestore.training.run_record import CACHED
from featurestore.training.runs import Run, TrainedOn, new_run_id, write_run
from featurestore.training.views import ViewRows, count_views

_SECONDS = "seconds"  # in the state of a checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a head is trained, beside its settings.

    Parameters
    ----------
    memory_bytes
        As `FitOptions.memory_bytes`; not part of what decides the run.
    shuffle_labels
        Permute the labels of the training rows first, by `seed`: a control, whose score on other
        splits is that of chance.
    progress
        Told after each epoch.
    checkpoints
        As `FitOptions.checkpoints`.
    views
        Train on so many of the stored views of each image: a head with epochs sees one in each,
        another all of them and the image, as one image. None: on the images as they are.
    tensorboard
        `train` writes TensorBoard's event files to ``<folder>/<run-id>/{train,validation}``, each
        epoch as it ends. Only for heads with epochs.
    """

    seed: int = 0
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    shuffle_labels: bool = False
    progress: Progress | None = None
    tensorboard: Path | None = None
    checkpoints: Checkpoints | None = None
    views: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passage:
    """How images become what a fit sees, where that is not the rows of a feature set.

    Parameters
    ----------
    path
        One of `featurestore.training.runs.PATHS`.
    head
        The unfitted head; None is the one that its settings name.
    train
        The training rows as the fit sees them; None is the feature set's.
    augmentation, started_from, parameters, comparable
        As `Run` and `TrainedOn` have them; `comparable` None is the set's own.
    """

    path: str = CACHED
    head: Head | None = None
    train: SampleRows | None = None
    augmentation: Mapping[str, object] | None = None
    started_from: str | None = None
    parameters: Mapping[str, int] = dataclasses.field(default_factory=dict)
    comparable: str | None = None


def fit_head(
    settings: HeadSettings,
    train: SampleRows,
    validation: SampleRows | None,
    *,
    n_classes: int,
    options: TrainOptions,
    head: Head | None = None,
) -> Head:
    """Return a head fitted to rows of which every class has at least one."""
    if options.shuffle_labels:
        train = relabelled(train, np.random.default_rng(options.seed).permutation(train.labels))
    if options.views is not None:
        train = ViewRows(train, views=options.views, seed=options.seed)
    return (head or create_head(settings)).fit(
        train,
        validation,
        options=FitOptions(
            n_classes=n_classes,
            seed=options.seed,
            memory_bytes=options.memory_bytes,
            progress=options.progress,
            checkpoints=options.checkpoints,
        ),
    )


def train(
    features: Features,
    settings: HeadSettings,
    *,
    cache: Path,
    options: TrainOptions = TrainOptions(),  # frozen
    passage: Passage = Passage(),  # frozen
) -> Run:
    """Fit a head to the training split, evaluate it on every split, and write the run.

    The fit is given the training and validation splits and no way to the test split, which is read
    afterwards, for the run's metrics and probabilities.

    Returns
    -------
    The run, durable below ``cache/runs``.

    Raises
    ------
    InvalidInput
        There is no training split, fewer than two classes, or a class without a training row; the
        set has fewer views than asked for; the fit failed on these features; the cache or the event
        files cannot be written, or the head has no epochs to write there.
    """
    present = {split: features[split] for split in features.splits if len(features[split])}
    check_trainable(features, present)
    views = views_seen(features, options)
    created = datetime.now(UTC)
    run_id = new_run_id(
        settings.head,
        features.name.partition("/")[0],
        created=created,
        suffix=secrets.token_hex(2),
    )
    if passage.head is None:
        create_head(settings)  # loads its library, seconds that are no part of the fit
    with _watched(settings, options, run_id) as watched:
        began = time.perf_counter()
        kept = watched.checkpoints
        timed = None if kept is None else _TimedCheckpoints(kept, began=began)
        head = fit_head(
            settings,
            passage.train or present["train"],
            present.get("validation"),
            n_classes=len(features.class_names),
            options=dataclasses.replace(watched, checkpoints=timed),
            head=passage.head,
        )
        fitted = time.perf_counter()
    predictions = {split: predict(head, rows) for split, rows in present.items()}
    ended = time.perf_counter()
    earlier = 0.0 if timed is None else timed.earlier
    run = Run(
        id=run_id,
        path=cache / RUNS / run_id,
        created=created.isoformat(timespec="seconds"),
        head=settings.head,
        settings=settings,
        seed=options.seed,
        shuffled_labels=options.shuffle_labels,
        path_taken=passage.path,
        augmentation=passage.augmentation or views,
        started_from=passage.started_from,
        parameters=passage.parameters,
        features=_trained_on(features, present, passage),
        metrics={
            split: score(predictions[split]) if split in predictions else None for split in SPLITS
        },
        history=head.history_,
        chosen=head.chosen_,
        notes=(*_control_notes(options), *head.notes_, *_missing_notes(features, present)),
        versions=_versions(head),
        seconds={
            "fit": earlier + fitted - began,
            "total": earlier + ended - began,
            "predict_per_row": seconds_per_row(head, present["train"]),
        },
        files={},
    )
    return write_run(run, head, predictions)


class _TimedCheckpoints:
    """Checkpoints that keep the seconds of a fit, of all the processes that were at it.

    `earlier` are those before the latest checkpoint, once it was taken up.
    """

    def __init__(self, checkpoints: Checkpoints, *, began: float) -> None:
        self._checkpoints = checkpoints
        self._began = began
        self.earlier = 0.0

    def latest(self) -> Checkpoint | None:
        found = self._checkpoints.latest()
        if found is not None:
            self.earlier = float(cast(float, found.state[_SECONDS]))
        return found

    def save(self, checkpoint: Checkpoint) -> None:
        seconds = self.earlier + time.perf_counter() - self._began
        state = {**checkpoint.state, _SECONDS: seconds}
        self._checkpoints.save(dataclasses.replace(checkpoint, state=state))


@contextmanager
def _watched(settings: HeadSettings, options: TrainOptions, run_id: str) -> Iterator[TrainOptions]:
    """Yield options whose `progress` also writes event files, where they are asked for."""
    if options.tensorboard is None:
        yield options
        return
    if not has_epochs(settings.head):
        raise InvalidInput(
            f"head {settings.head} has no epochs: nothing to write to {options.tensorboard}",
            next_step="leave out --tensorboard",
        )
    with quiet_startup():
        from featurestore.training.tensorboard import EventFiles  # TensorFlow

    with EventFiles(options.tensorboard, run_id) as files:

        def progress(done: int, total: int, numbers: Mapping[str, float]) -> None:
            files(done, total, numbers)
            if options.progress is not None:
                options.progress(done, total, numbers)

        yield dataclasses.replace(options, progress=progress)


def check_trainable(features: Features, present: Mapping[str, SampleRows]) -> None:
    """Refuse features that no head can be fitted to; `present` are the splits that have rows.

    Raises
    ------
    InvalidInput
        There is no training split, fewer than two classes, or a class without a training row.
    """
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


def views_seen(features: Features, options: TrainOptions) -> Mapping[str, object] | None:
    """Return what the views that are asked for are, as `Run.augmentation` has it."""
    stored = features.recipe.augmentation
    if options.views is None:
        return None
    record = features.record if isinstance(features, FeatureSet) else None
    count = count_views(features.name, features.recipe, options.views, record=record)
    return None if stored is None else dataclasses.replace(stored, count=count).to_dict()


def _trained_on(
    features: Features, present: Mapping[str, SampleRows], passage: Passage
) -> TrainedOn:
    clean = set_fingerprint(features.manifest_fingerprint, features.recipe.clean)
    return TrainedOn(
        name=features.name,
        fingerprint=features.fingerprint,
        manifest_fingerprint=features.manifest_fingerprint,
        recipe_fingerprint=features.recipe.fingerprint,
        recipe=features.recipe.to_dict(),
        class_names=features.class_names,
        feature_shape=present["train"].feature_shape,
        rows={split: len(rows) for split, rows in present.items()},
        comparable=passage.comparable or clean,
    )


def _control_notes(options: TrainOptions) -> list[str]:
    if not options.shuffle_labels:
        return []
    return ["a control: the labels of the training rows were shuffled before the fit"]


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
