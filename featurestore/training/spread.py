"""The mean row of features and their total variance: the scale of the linear heads."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from featurestore.errors import InvalidInput


def mean_and_variance(blocks: Iterable[np.ndarray], *, head: str) -> tuple[np.ndarray, float]:
    """Return the mean row, (D,), and the mean squared distance of a row from it.

    Parameters
    ----------
    blocks
        (n, D) float64 each, at least one row in all.

    Raises
    ------
    InvalidInput
        All rows are equal.
    """
    rows, squares = 0, 0.0
    for block in blocks:
        if not rows:
            first, total = block[0].copy(), np.zeros(block.shape[1])
        # Far from zero the squares themselves would leave no digit of the variance. From the first
        # row they do: its own distance from the mean counts in the variance.
        shifted = block - first
        rows += len(block)
        total += shifted.sum(axis=0)
        squares += float(np.vdot(shifted, shifted))
    shift = total / rows
    variance = squares / rows - float(shift @ shift)
    require_spread(variance, rows=rows, head=head)
    return first + shift, variance


def require_spread(variance: float, *, rows: int, head: str) -> None:
    """Refuse rows whose total variance is nothing.

    Raises
    ------
    InvalidInput
        It is not above zero.
    """
    if not variance > 0:
        raise InvalidInput(
            f"head {head}: all {rows} training rows have the same features",
            next_step="embed with another layer (fs embed --layer)",
        )
