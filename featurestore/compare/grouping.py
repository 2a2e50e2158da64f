"""Which runs may be compared, and which of them are one contender with several seeds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from featurestore.compare.sentences import count_text
from featurestore.errors import Conflict, InvalidInput
from featurestore.training.evaluation import Predictions
from featurestore.training.head_specs import head_label, settings_key
from featurestore.training.runs import Run

_SHOWN = 12
_TRAIN_ON_ONE = "compare runs of one feature set: fs compare FEATURE_SET --heads a,b trains them"


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds only, ordered by them."""

    label: str
    runs: tuple[Run, ...]


def check_same_features(runs: Sequence[Run]) -> None:
    """Refuse runs that were not all trained on the same rows under the same recipe.

    Raises
    ------
    Conflict
        A part of the fingerprint differs: the manifest's rows, a field of the recipe, or the
        classes. It is named, with both values.
    """
    first = runs[0]
    for other in runs[1:]:
        differing = list(_differences(first, other))
        if differing:
            raise Conflict(
                f"runs {first.id} and {other.id} were trained on different features: "
                f"{'; '.join(differing)}",
                next_step=_TRAIN_ON_ONE,
            )


def _differences(first: Run, other: Run) -> Iterator[str]:
    ours, theirs = first.features, other.features
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
    for field in dict.fromkeys([*ours.recipe, *theirs.recipe]):
        if ours.recipe.get(field) != theirs.recipe.get(field):
            yield _differs(f"recipe, {field}", ours.recipe.get(field), theirs.recipe.get(field))
    if ours.fingerprint != theirs.fingerprint:
        yield _differs("fingerprint", ours.fingerprint[:_SHOWN], theirs.fingerprint[:_SHOWN])


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

    A contender is what equals in head, settings and shuffled labels. Of two runs with one seed the
    newest stands for both: they are the same fit.
    """
    grouped: dict[tuple[str, bool], dict[int, Run]] = {}
    notes = []
    for run in {run.id: run for run in runs}.values():
        seeds = grouped.setdefault((settings_key(run.settings), run.shuffled_labels), {})
        other = seeds.get(run.seed)
        if other is None:
            seeds[run.seed] = run
            continue
        older, newer = sorted((other, run), key=lambda each: (each.created, each.id))
        seeds[run.seed] = newer
        notes.append(f"run {older.id} is left out: {newer.id} is a newer run of the same settings")
    ordered = [tuple(seeds[seed] for seed in sorted(seeds)) for seeds in grouped.values()]
    labels = _labels([group[0] for group in ordered])
    return tuple(map(Group, labels, ordered)), tuple(notes)


def _labels(runs: Sequence[Run]) -> list[str]:
    """Name each contender by its head, with its settings where those of one head differ."""
    pairs = [(run, head_label(run.settings)) for run in runs]
    settings_of_head = Counter(head for head, _ in {(run.head, label) for run, label in pairs})
    taken: Counter[str] = Counter()
    labels = []
    for run, label in pairs:
        if settings_of_head[run.head] == 1:
            label = label.partition(":")[0]
        if run.shuffled_labels:
            label += " (shuffled labels)"
        taken[label] += 1
        # One class of scikit-learn may be reached by two paths.
        labels.append(label if taken[label] == 1 else f"{label} ({taken[label]})")
    return labels
