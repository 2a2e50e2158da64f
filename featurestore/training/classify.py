"""Classifying images with a run: from paths to probabilities, through the cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from featurestore.catalogue import Catalogue, Record, set_fingerprint
from featurestore.embedding.known import Origin
from featurestore.embedding.on_demand import Embedded, OnDemand, OnDemandOptions
from featurestore.errors import IntegrityError
from featurestore.recipe import Recipe
from featurestore.training.contract import Head
from featurestore.training.runs import Run


@dataclasses.dataclass(frozen=True, eq=False)
class Classified:
    """One image and what the run makes of it.

    Parameters
    ----------
    sha256
        Hexadecimal; None where the bytes could not be read.
    label
        Index of the class with the largest probability, the first of equal ones; None where
        `reason` says why.
    probabilities
        (n_classes,) float32, in class order.
    origin
        Where the features came from.
    """

    path: Path
    sha256: str | None
    label: int | None
    probabilities: np.ndarray | None
    reason: str | None
    origin: Origin | None


def classify_images(
    run: Run, paths: Iterable[Path], *, cache: Path, options: OnDemandOptions
) -> Iterator[Classified]:
    """Yield each file's outcome in order; memory holds one block of images.

    The head is loaded, and its digest checked, before anything is embedded.

    Raises
    ------
    IntegrityError
        The run's model or record, or a committed set, is damaged.
    NotFound, Conflict, InvalidInput
        As `OnDemand.embed`.
    """
    recipe = recipe_of(run)
    head = run.load_head()
    other_weights = (*options.other_weights, *weights_of_start(run, Catalogue(cache).records()))
    options = dataclasses.replace(options, other_weights=other_weights)
    with OnDemand(
        recipe, cache=cache, feature_shape=run.features.feature_shape, options=options
    ) as on_demand:
        for block in on_demand.embed(paths):
            yield from _classified(head, block)


def recipe_of(run: Run) -> Recipe:
    """Return the recipe of the features that a run's head reads: without the views it learned from.

    Raises
    ------
    IntegrityError
        The record's recipe is not the one that its fingerprint names.
    Conflict
        It is a newer version's.
    """
    recipe = Recipe.from_dict(run.features.recipe)
    if recipe.fingerprint != run.features.recipe_fingerprint:
        raise IntegrityError(
            f"run {run.id}: expected recipe fingerprint {run.features.recipe_fingerprint}, "
            f"found {recipe.fingerprint}",
            next_step=f"do not use it: fs rm {run.id}, then fs train again",
        )
    return recipe.clean


def judged_on(run: Run, *, cache: Path) -> Record | None:
    """Return the newest feature set that a run is compared by: of a fine-tuning, its start's.

    A fine-tuning that ran on images may have no set of its own; this one has its images, and was
    embedded with its weights.
    """
    return _judged_on(run, Catalogue(cache).records())


def weights_of_start(run: Run, records: Iterable[Record]) -> tuple[str, ...]:
    """Return where weights may be for a run whose own recipe no feature set has, as labels.

    Those are of the set that it is compared by.
    """
    record = _judged_on(run, records)
    label = None if record is None else record.provenance.get("weights")
    return () if label is None else (str(label),)


def probabilities_of(head: Head, features: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    """Return (n_classes,) float32 for each row of features, None where there is none."""
    rows = [row for row in features if row is not None]
    probabilities = iter(head.predict_proba(np.stack(rows)) if rows else ())
    return [None if row is None else next(probabilities) for row in features]


def _judged_on(run: Run, records: Iterable[Record]) -> Record | None:
    found = [
        record
        for record in records
        if set_fingerprint(record.manifest_fingerprint, record.recipe.clean)
        == run.features.comparable
    ]
    return max(found, key=lambda record: record.sequence, default=None)


def _classified(head: Head, block: list[Embedded]) -> Iterator[Classified]:
    probabilities = probabilities_of(head, [each.features for each in block])
    for each, row in zip(block, probabilities, strict=True):
        label = None if row is None else int(row.argmax())
        yield Classified(each.path, each.sha256, label, row, each.reason, each.origin)
