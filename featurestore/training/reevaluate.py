"""A run looked at again: on the features it was trained on, or on others of the same recipe.

Views are for training: a set that has them stands for one of the same images that has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featurestore.catalogue import Catalogue, Record
from featurestore.embedding.command import embed_command
from featurestore.embedding.plan import digest_keys
from featurestore.errors import Conflict, NotFound
from featurestore.features import FeatureSet, Split, open_record
from featurestore.training.classify import judged_on, recipe_of
from featurestore.training.evaluation import Metrics, Predictions, predict, score
from featurestore.training.run_record import FINE_TUNE
from featurestore.training.runs import Run

# Another processor, or another version of a library, adds float32 in another order: with kernels
# of older processors, 2,000 photographs of the reference's had differences up to 4.3e-6 (a dense
# head on features that are not scaled; 3.9e-7 scaled).
REPRODUCED_WITHIN = 1e-4


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """The probabilities of now beside those that the run recorded.

    Parameters
    ----------
    largest_difference
        Of any probability.
    changed
        Rows whose predicted class is another.
    """

    largest_difference: float
    changed: int

    @property
    def reproduced(self) -> bool:
        """Whether every prediction is the same and no difference is above `REPRODUCED_WITHIN`."""
        return self.largest_difference <= REPRODUCED_WITHIN and not self.changed


@dataclasses.dataclass(frozen=True, eq=False)
class Reevaluation:
    """What a run scores on one split.

    Parameters
    ----------
    trained_on
        Rows whose image the run was trained on, by the images' digests; None where no feature set
        of the run's images is in the cache to say so.
    reproduction
        None on another feature set, and on a split that the run recorded nothing of.
    """

    feature_set: str
    fingerprint: str
    split: str
    predictions: Predictions
    metrics: Metrics
    trained_on: int | None
    reproduction: Reproduction | None


def reevaluate(run: Run, *, cache: Path, on: str | None, split: str) -> Reevaluation:
    """Compute a run's probabilities and metrics on a split of a committed feature set.

    Parameters
    ----------
    on
        Name, unique start of a name or fingerprint; None is the set that the run was trained on.

    Raises
    ------
    NotFound
        The feature set is not in the cache, or has no such rows.
    Conflict
        Its recipe or its classes are not those of the run.
    IntegrityError
        The run or the set is damaged.
    """
    catalogue = Catalogue(cache)
    same_images = [
        record
        for record in catalogue.records()
        if record.manifest_fingerprint == run.features.manifest_fingerprint
    ]
    own = _own(run, same_images)
    record = own if on is None else catalogue.find(on)
    if record is None:
        raise _not_embedded(run, cache)
    with open_record(record) as features:
        check_comparable(run, features)
        if split not in features or not len(features[split]):
            raise NotFound(
                f"feature set {features.name} has no rows in split {split!r}: "
                f"it has {', '.join(name for name in features.splits if len(features[name]))}",
                next_step="name one of these with --split",
            )
        rows = features[split]
        predictions = predict(run.load_head(), rows)
        trained_on = None
        if same_images:  # whatever its recipe, it says which images are in the training split
            with open_record(own or same_images[0]) as trained:
                trained_on = _shared(rows, trained)
    is_own = record in _holding(run, same_images)
    recorded = split in run.features.rows and is_own
    return Reevaluation(
        feature_set=record.name,
        fingerprint=record.fingerprint,
        split=split,
        predictions=predictions,
        metrics=score(predictions),
        trained_on=trained_on,
        reproduction=_reproduction(run.predictions(split), predictions) if recorded else None,
    )


def _own(run: Run, same_images: Sequence[Record]) -> Record | None:
    """Return the set that a run was trained on, or one that has the same rows, with other views."""
    found = _holding(run, same_images)
    return min(
        found, key=lambda record: record.fingerprint != run.features.fingerprint, default=None
    )


def _holding(run: Run, same_images: Sequence[Record]) -> list[Record]:
    """Return the sets whose rows, views aside, are those that the run's head was scored on."""
    recipe = recipe_of(run)
    return [record for record in same_images if record.recipe.clean == recipe]


def _not_embedded(run: Run, cache: Path) -> NotFound:
    features = run.features
    if run.path_taken == FINE_TUNE and (start := judged_on(run, cache=cache)) is not None:
        return NotFound(
            f"run {run.id} reads features of layer {recipe_of(run).layer}, the last that was "
            f"frozen, which are not in cache {cache}: it was trained on images",
            next_step=embed_command(start, recipe=recipe_of(run), cache=cache),
        )
    return NotFound(
        f"run {run.id} was trained on feature set {features.name} "
        f"{features.fingerprint[:8]}, which is not in cache {cache}",
        next_step="embed that dataset again, or name another of its recipe with --on",
    )


def check_comparable(run: Run, features: FeatureSet) -> None:
    """Refuse features that the run's head cannot judge.

    Raises
    ------
    Conflict
        The recipes differ, or the classes do; the message says in what.
    """
    recipe, other = recipe_of(run), features.recipe.clean
    if recipe != other:
        differences = "; ".join(recipe.differences(other))
        raise Conflict(
            f"run {run.id} and feature set {features.name} have different recipes "
            f"(run's != set's): {differences}",
            next_step="embed the dataset with the run's recipe: fs show " + run.id,
        )
    if run.features.class_names != features.class_names:
        raise Conflict(
            f"run {run.id} and feature set {features.name} have different classes: "
            f"{_classes_apart(run.features.class_names, features.class_names)}",
            next_step="give the dataset's class folders the names of the run's classes",
        )


def _classes_apart(ours: Sequence[str], theirs: Sequence[str]) -> str:
    lost = [name for name in ours if name not in theirs]
    new = [name for name in theirs if name not in ours]
    parts = []
    for text, names in (("only the run has", lost), ("only the set has", new)):
        if names:
            more = f" and {len(names) - 5} more" if names[5:] else ""
            parts.append(f"{text} {', '.join(names[:5])}{more}")
    return "; ".join(parts) or "their order differs"


def _shared(rows: Split, trained: FeatureSet) -> int:
    return int(np.isin(digest_keys(rows.sha256), digest_keys(trained["train"].sha256)).sum())


def _reproduction(recorded: Predictions, found: Predictions) -> Reproduction:
    before, now = recorded.probabilities, found.probabilities
    return Reproduction(
        float(np.abs(before - now).max(initial=0.0)),
        int(np.sum(before.argmax(axis=1) != now.argmax(axis=1))),
    )
