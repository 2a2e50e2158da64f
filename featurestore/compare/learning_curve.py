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
        Mean over the seeds, on the evaluated split.
    by_seed
        Accuracy of each seed: its own subset and its own fit.
    """

    labels: int
    accuracy: Estimate
    by_seed: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadCurve:
    """One head over the sizes that it could be fitted to, ascending.

    Parameters
    ----------
    label
        Unique within the curve.
    sentence
        What the points say, in words.
    """

    label: str
    points: tuple[CurvePoint, ...]
    sentence: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Heads on growing parts of one training split.

    Parameters
    ----------
    feature_set, fingerprint
        Name and identity of the features.
    split, rows
        The split that accuracy was measured on, and its rows.
    """

    feature_set: str
    fingerprint: str
    split: str
    rows: int
    curves: tuple[HeadCurve, ...]
