"""Which images are worth a look: those that heads disagree on, and those that all get wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from featurestore.report.outcomes import Outcome

MOST_SHOWN = 60


@dataclasses.dataclass(frozen=True)
class Answer:
    """One contender's answer for one image, with its probability."""

    contender: str
    answer: int
    probability: float
    right: bool


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """One image: its row among the compared ones, its label, and what each contender answered."""

    row: int
    label: int
    answers: tuple[Answer, ...]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The images to show, and how many there are of each kind.

    Parameters
    ----------
    all_wrong
        No contender is right; those first that have the true class least probable, by the mean
        over contenders. Up to 60.
    disagreed
        Some are right and some are wrong; those first where the true class's probability differs
        most between contenders. Up to 60.
    all_wrong_count, disagreed_count
        Of all rows.
    """

    all_wrong: tuple[Exhibit, ...]
    disagreed: tuple[Exhibit, ...]
    all_wrong_count: int
    disagreed_count: int


def choose_exhibits(outcomes: Sequence[Outcome], *, most: int = MOST_SHOWN) -> Gallery:
    """Return the images of a comparison that are most worth a look, each contender's first run."""
    labels = outcomes[0].labels
    rows = np.arange(len(labels))
    answers = np.stack([outcome.answers for outcome in outcomes])
    true = np.stack([outcome.probabilities[rows, labels] for outcome in outcomes])
    right = answers == labels
    all_wrong = np.flatnonzero(~right.any(axis=0))
    disagreed = np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))
    # Stable sorts: ties stay in the order of the rows.
    by_mean = all_wrong[np.argsort(true[:, all_wrong].mean(axis=0), kind="stable")]
    spread = np.ptp(true[:, disagreed], axis=0)
    by_spread = disagreed[np.argsort(-spread, kind="stable")]

    def exhibit(row: int) -> Exhibit:
        label = int(labels[row])
        return Exhibit(
            row,
            label,
            tuple(
                Answer(
                    outcome.label,
                    answer=int(answers[number, row]),
                    probability=float(outcome.probabilities[row].max()),
                    right=bool(right[number, row]),
                )
                for number, outcome in enumerate(outcomes)
            ),
        )

    return Gallery(
        tuple(exhibit(row) for row in by_mean[:most].tolist()),
        tuple(exhibit(row) for row in by_spread[:most].tolist()),
        len(all_wrong),
        len(disagreed),
    )
