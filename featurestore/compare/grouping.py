"""Which runs may be compared, and which of them are one contender with several seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from featurestore.compare.sentences import count_text
from featurestore.errors import Conflict, InvalidInput
from featurestore.training.evaluation import Predictions
from featurestore.training.methods import method_key, method_labels
from featurestore.training.runs import Run, TrainedOn

_SHOWN = 12
# What may differ in the recipes of features that were not augmented, as far as they are compared.
_FREE = ("augmentation", "version")
# And where a fine-tuning's start is gone, so that its own features, of the cut, stand for it.
_FREE_OF_THE_CUT = (*_FREE, "layer", "weights_sha256", "pooling", "dtype")
_TRAIN_ON_ONE = "compare runs of one feature set: fs compare FEATURE_SET --heads a,b trains them"


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds only, ordered by them."""

    label: str
    runs: tuple[Run, ...]


def check_same_features(runs: Sequence[Run]) -> None:
    """Refuse runs that were not all trained on the same rows under the same rule.

    The path may differ, and with it what the training images were varied by. A fine-tuning reads
    features of an earlier layer; what counts is what the run that it started from was trained on.

    Raises
    ------
    Conflict
        A part of what they were trained on differs: the manifest's rows, a field of the recipe, or
        the classes. It is named, with both values.
    """
    first = runs[0]
    for other in runs[1:]:
        differing = list(_differences(first, other))
        if differing:
            raise Conflict(
                f"runs {_origin_text(first)} and {_origin_text(other)} were trained on different "
                f"features: {'; '.join(differing)}",
                next_step=_TRAIN_ON_ONE,
            )


def judged_on(run: Run) -> TrainedOn:
    """Return the features that decide what a run may be compared with.

    Its own; of a fine-tuning those of the run it started from, while that run can be read.
    """
    start = run.load_start()
    if start is None or start.features.comparable != run.features.comparable:
        return run.features
    return start.features


def _origin_text(run: Run) -> str:
    return run.id if run.started_from is None else f"{run.id} (started from {run.started_from})"


def _differences(first: Run, other: Run) -> Iterator[str]:
    ours, theirs = judged_on(first), judged_on(other)
    if ours.manifest_fingerprint != theirs.manifest_fingerprint:
        yield _differs(
            "manifest_fingerprint",
            ours.manifest_fingerprint[:_SHOWN],
            theirs.manifest_fingerprint[:_SHOWN],
        )
        if dict(ours.rows) != dict(theirs.rows):
            yield _differs("rows", _rows_text(ours.rows), _rows_text(theirs.rows))
    if ours.class_names != theirs.class_names:
        yield _differs(
            "class_names", ", ".join(ours.class_names[:8]), ", ".join(theirs.class_names[:8])
        )
    cut = any(run.started_from and judged_on(run) is run.features for run in (first, other))
    free = _FREE_OF_THE_CUT if cut else _FREE
    for field in dict.fromkeys([*ours.recipe, *theirs.recipe]):
        if field not in free and ours.recipe.get(field) != theirs.recipe.get(field):
            yield _differs(f"recipe, {field}", ours.recipe.get(field), theirs.recipe.get(field))
    if ours.comparable != theirs.comparable:
        yield _differs("comparable", ours.comparable[:_SHOWN], theirs.comparable[:_SHOWN])


def _differs(field: str, ours: object, theirs: object) -> str:
    return f"{field} is {ours} and {theirs}"


def _rows_text(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in rows.items())


def read_predictions(runs: Sequence[Run], split: str) -> dict[str, Predictions]:
    """Return each run's predictions of a split, by run id; all have the same rows and labels.

    Raises
    ------
    NotFound
        A run has no rows of that split.
    Conflict
        Sample ids, labels or the number of classes of two runs differ.
    InvalidInput
        The split has one row: nothing can be said of its sampling error.
    IntegrityError
        A run's file is damaged.
    """
    found = {run.id: run.predictions(split) for run in runs}
    first_id, first = next(iter(found.items()))
    if len(first.labels) < 2:
        raise InvalidInput(
            f"split {split}: expected at least two rows to compare on, found {len(first.labels)}",
            next_step="embed a dataset with more images in that split",
        )
    for run_id, other in found.items():
        for field in ("sample_ids", "labels"):
            _check_equal(
                getattr(first, field),
                getattr(other, field),
                where=f"split {split}, {field}: runs {first_id} and {run_id} differ",
            )
        if first.probabilities.shape != other.probabilities.shape:
            raise Conflict(
                f"split {split}, probabilities: runs {first_id} and {run_id} differ: "
                f"{first.probabilities.shape} and {other.probabilities.shape}",
                next_step=_TRAIN_ON_ONE,
            )
    return found


def _check_equal(ours: np.ndarray, theirs: np.ndarray, *, where: str) -> None:
    if len(ours) != len(theirs):
        raise Conflict(f"{where}: {len(ours)} and {len(theirs)} rows", next_step=_TRAIN_ON_ONE)
    differing = np.flatnonzero(ours != theirs)
    if len(differing):
        row = int(differing[0])
        raise Conflict(
            f"{where} in {count_text(len(differing), 'row')}, first in row {row}: "
            f"{ours[row]} and {theirs[row]}",
            next_step=_TRAIN_ON_ONE,
        )


def group_runs(runs: Sequence[Run]) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """Return contenders in the order of their first runs, and notes of runs left out.

    A contender is what equals in its method: see `featurestore.training.methods.method_key`. Of two
    runs with one seed, and that of the runs they started from, the newest stands for both: they are
    the same fit.
    """
    grouped: dict[str, dict[tuple[int, int], Run]] = {}
    notes = []
    for run in {run.id: run for run in runs}.values():
        seeds = grouped.setdefault(method_key(run), {})
        start = run.load_start()
        seed = (run.seed, 0 if start is None else start.seed)
        other = seeds.get(seed)
        if other is None:
            seeds[seed] = run
            continue
        older, newer = sorted((other, run), key=lambda each: (each.created, each.id))
        seeds[seed] = newer
        notes.append(f"run {older.id} is left out: {newer.id} is a newer run of the same settings")
    ordered = [tuple(seeds[seed] for seed in sorted(seeds)) for seeds in grouped.values()]
    labels = method_labels([group[0] for group in ordered])
    return tuple(map(Group, labels, ordered)), tuple(notes)
