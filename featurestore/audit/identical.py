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
    groups = [group for group in np.split(order, starts[1:]) if len(group) > 1]
    across = [_differ(known.splits, group) for group in groups]
    disagreeing = [_differ(known.labels, group) for group in groups]
    first = sorted(
        range(len(groups)),
        key=lambda at: (not across[at], not disagreeing[at], -len(groups[at]), groups[at][0]),
    )
    return Identical(
        groups=tuple(
            IdenticalGroup(
                sha256=digest(int(groups[at][0])),
                samples=tuple(name(int(row)) for row in groups[at]),
            )
            for at in first[:keep]
        ),
        across=sum(across),
        within=len(groups) - sum(across),
        disagreeing=sum(disagreeing),
    )


def leaking_rows(known: Known) -> np.ndarray:
    """Return (N,) bool: rows whose bytes are also in a later split."""
    last = np.zeros(int(known.digests.max(initial=-1)) + 1, np.int64)
    np.maximum.at(last, known.digests, known.splits)
    leaking: np.ndarray = known.splits < last[known.digests]
    return leaking


def _differ(column: np.ndarray, group: np.ndarray) -> bool:
    return bool((column[group] != column[group[0]]).any())
