"""Comparing two runs on the same test rows."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.stats import binomtest


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """An exact McNemar test of two classifiers on the same samples.

    Parameters
    ----------
    only_first, only_second
        Samples that the one gets right and the other gets wrong.
    p_value
        Probability of a split at least this uneven if both were equally good.
    """

    samples: int
    only_first: int
    only_second: int
    p_value: float


def mcnemar_exact(first_right: np.ndarray, second_right: np.ndarray) -> PairedTest:
    """Test whether two classifiers differ in accuracy; both arrays are (N,) bool, same rows.

    Source: McNemar (1947), Psychometrika 12, 153-157; the exact two-sided form is the binomial
    test of the discordant pairs (SciPy's `binomtest`).
    """
    only_first = int(np.sum(first_right & ~second_right))
    only_second = int(np.sum(~first_right & second_right))
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return PairedTest(len(first_right), only_first, only_second, p_value)
