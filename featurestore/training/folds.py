"""How many folds the training rows allow, every class in each."""

from __future__ import annotations

import numpy as np

from featurestore.errors import InvalidInput


def possible_folds(
    y: np.ndarray, *, asked: int, head: str, instead: str
) -> tuple[int, tuple[str, ...]]:
    """Return as many folds as asked for, or as the rarest class has rows, and a note of it.

    Parameters
    ----------
    instead
        What to do where a class is too rare, to be said after "or".

    Raises
    ------
    InvalidInput
        A class has one row only.
    """
    counts = np.bincount(y)
    rarest = int(counts.argmin())
    fewest = int(counts[rarest])
    if fewest < 2:
        raise InvalidInput(
            f"head {head}: expected at least 2 training rows of each class for a cross-validation, "
            f"found {fewest} of class number {rarest}",
            next_step=f"add images of that class, or {instead}",
        )
    if fewest >= asked:
        return asked, ()
    return fewest, (
        f"head {head}: {fewest} folds instead of {asked}: class number {rarest} has {fewest} "
        "training rows",
    )
