"""Samples whose files hold the same bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featurestore.audit.findings import Identical, IdenticalGroup, Sample
from featurestore.audit.near import Known


def find_identical(
    known: Known, *, keep: int, name: Callable[[int], Sample], digest: Callable[[int], str]
) -> Identical:
    """Group rows of equal digest; the first `keep` groups are named, by position among all rows."""
    order = np.argsort(known.digests, kind="stable")
    starts = np.flatnonzero(np.diff(known.digests[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    rows = order[_ranges(starts, sizes)]  # of groups alone: most images have no double
    begins = np.cumsum(sizes) - sizes
    across = _differ(known.splits[rows], begins)
    disagreeing = _differ(known.labels[rows], begins)
    first = np.lexsort((order[starts], -sizes, ~disagreeing, ~across))[:keep]
    groups = [order[starts[at] : starts[at] + sizes[at]] for at in first]
    return Identical(
        groups=tuple(
            IdenticalGroup(
                sha256=digest(int(group[0])), samples=tuple(name(int(row)) for row in group)
            )
            for group in groups
        ),
        across=int(across.sum()),
        within=int((~across).sum()),
        disagreeing=int(disagreeing.sum()),
    )


def leaking_rows(known: Known) -> np.ndarray:
    """Return (N,) bool: rows whose bytes are also in a later split."""
    last = np.zeros(int(known.digests.max(initial=-1)) + 1, np.int64)
    np.maximum.at(last, known.digests, known.splits)
    leaking: np.ndarray = known.splits < last[known.digests]
    return leaking


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the positions start to start + size of each pair, one after the other."""
    positions: np.ndarray = np.arange(sizes.sum()) + np.repeat(
        starts - (np.cumsum(sizes) - sizes), sizes
    )
    return positions


def _differ(column: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Return, for each group that begins in a column, whether its values are not all equal."""
    if not len(begins):
        return np.zeros(0, bool)
    differ: np.ndarray = np.maximum.reduceat(column, begins) != np.minimum.reduceat(column, begins)
    return differ
