"""How many labels are enough: accuracy against the number of labelled images."""

from __future__ import annotations

import dataclasses

from featurestore.compare.results import Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One head trained on one number of labelled images.

    Parameters
    ----------
    labels
        Rows that were trained on.
    accuracy
        Mean over the seeds, on the evaluated split. Its interval counts both what other evaluated
        images and what other labelled images and seeds might have given: see
        `featurestore.compare.crossed`. With one seed it counts the images only. Seeds
        draw from one training split: the nearer a size comes to all of it, the less their subsets
        differ, and the less of what other labelled images would have given is counted.
    by_seed
        Accuracy of each seed: its own subset and its own fit.
    """

    labels: int
    accuracy: Estimate
    by_seed: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A number of labelled images that a head could not be fitted to, and why."""

    labels: int
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gain:
    """What more labelled images brought to one head.

    Parameters
    ----------
    fewer, more
        Two numbers of labelled images: the largest, and the largest of at most half of it.
    difference
        Accuracy with `more` less accuracy with `fewer`; each seed's smaller subset is part of its
        larger one. The interval is as that of `CurvePoint.accuracy`.
    """

    fewer: int
    more: int
    difference: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadCurve:
    """One head over the sizes that it could be fitted to, ascending.

    Parameters
    ----------
    label
        Unique within the curve.
    sentence
        What the points say, in words.
    last_gain
        None where no size is at most half of the largest.
    skipped
        Sizes that the head could not be fitted to with every seed.
    notes
        What the fits told, with the sizes at which they did.
    """

    label: str
    points: tuple[CurvePoint, ...]
    sentence: str
    last_gain: Gain | None = None
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Heads on growing parts of one training split.

    Parameters
    ----------
    feature_set, fingerprint
        Name and identity of the features.
    split, rows
        The split that accuracy was measured on, and its rows.
    majority_share
        Share of that split's most frequent label: what always answering it would score. None where
        it was not counted.
    notes
        What a reader must be told of the whole. Heads have notes of their own.
    """

    feature_set: str
    fingerprint: str
    split: str
    rows: int
    curves: tuple[HeadCurve, ...]
    majority_share: float | None = None
    notes: tuple[str, ...] = ()
