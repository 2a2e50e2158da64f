"""Which rows a learning curve trains on: how many, and which ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featurestore.errors import InvalidInput

_STEPS = 8
_ROWS_A_CLASS = 10  # of the smallest default size


def default_sizes(rows: int, n_classes: int) -> tuple[int, ...]:
    """Return about 8 sizes in equal ratios from 10 rows a class, the last two half and all.

    The others are rounded to two digits. With few rows or many classes the first is smaller, but
    no smaller than one row a class.
    """
    first = max(n_classes, min(_ROWS_A_CLASS * n_classes, rows // 10))
    half = max(first, rows // 2)
    steps = np.geomspace(first, half, _STEPS - 1).tolist()[1:-1]
    return tuple(
        sorted({first, *(min(max(first, _rounded(step)), half) for step in steps), half, rows})
    )


def check_sizes(sizes: Sequence[int], *, rows: int, n_classes: int) -> tuple[int, ...]:
    """Return the sizes ascending and each once.

    Raises
    ------
    InvalidInput
        There is none, one is larger than the training split, or too small for a row a class.
    """
    wrong = [size for size in sizes if not n_classes <= size <= rows]
    if wrong or not sizes:
        raise InvalidInput(
            f"learning curve: expected sizes from {n_classes} (a row of each class) to {rows} "
            f"(all training rows), found {', '.join(map(str, wrong)) or 'none'}",
            next_step="choose others with --sizes, or leave it out",
        )
    return tuple(sorted(set(sizes)))


def nested_order(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the rows, (N,) int64, so that the first n are a stratified sample for every n.

    A row of each class comes first. From there on each class is as frequent among the first n as
    the Sainte-Laguë method allots n seats to parties: within rounding its share of all rows, and
    never fewer for a larger n. Which rows of a class come first depends on `seed`.

    Source
    ------
    Balinski and Young (2001), Fair Representation: Webster's method is house-monotone.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    column = labels[shuffled]
    priority = np.empty(len(labels))
    for label in np.unique(column):
        members = np.flatnonzero(column == label)
        priority[members] = (np.arange(len(members)) + 0.5) / len(members)
        priority[members[0]] = -1
    order: np.ndarray = shuffled[np.argsort(priority, kind="stable")]
    return order


def _rounded(size: float) -> int:
    digits: int = 10 ** max(0, len(str(int(size))) - 2)
    return round(size / digits) * digits
