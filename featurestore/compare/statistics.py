"""Statistics of classifiers on the same rows, from SciPy and statsmodels where they have them."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

from featurestore.compare.results import PairedTest


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
