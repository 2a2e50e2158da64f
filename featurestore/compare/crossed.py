"""Intervals that count two sources of chance at once: which images, and which seeds.

Images and seeds are crossed: every seed's head answers every image. The variance of a mean over
both is ``(MS_seeds + MS_images - MS_residual) / (k n)``, estimated without bias, but taken no
smaller than that of the images alone, and has Satterthwaite's degrees of freedom. With one seed it
counts the images alone. With three seeds that differ much, two degrees of freedom make intervals
wide, as they must be: a bootstrap over three seeds would be too narrow (its variance is short by a
third).

Mean plus or minus a quantile of Student's would not do for shares near 0 or 1: of 100 images and
one seed it held a true accuracy of 0.99 in 65 %, and had no width where every image is right. So
that variance decides how many independent images would have it, and the interval is the exact
binomial one of so many. Simulated 1,500 times with 1 to 5 seeds, 100 to 1,000 images, accuracies of
0.9 to 0.995 and seeds that decide nothing or much, shares were covered in 92 to 99 % and
differences of two shares in 93 to 100 %: least with three seeds that decide much, most where one to
four errors are to be expected.

SciPy and statsmodels have the quantiles, but no interval of a crossed design.

Source
------
Searle, Casella and McCulloch (1992), Variance Components, section 4.3; Satterthwaite (1946),
Biometrics Bulletin 2, 110-114. The share: Korn and Graubard (1998), Survey Methodology 24, 193-201.
The difference: Zou and Donner (2008), Statistics in Medicine 27, 1693-1702.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.stats import beta, t

from featurestore.compare.results import Estimate, Interval
from featurestore.compare.statistics import CONFIDENCE, ROUNDING


def crossed_share(right: np.ndarray) -> Estimate:
    """Return the share of ones in `right` with a 95 % interval for other images and other seeds.

    Parameters
    ----------
    right
        (k, n) of 0 and 1: of each seed on each image. With one image the interval is 0 to 1.
    """
    found = _share(right)
    return Estimate(found.mean, found.interval)


def crossed_difference(differences: np.ndarray) -> Estimate:
    """Return the mean of `differences` with a 95 % interval for other images and other seeds.

    It is the share of 1 less the share of -1, and the interval is put together of theirs and of
    their correlation.

    Parameters
    ----------
    differences
        (k, n) of -1, 0 and 1: whether each seed gets each image right in one way, less in another.
        With one image the interval is -1 to 1.
    """
    won, lost = (_share((differences == sign).astype(np.float64)) for sign in (1, -1))
    mean = float(differences.mean())
    if differences.shape[1] < 2:
        return Estimate(mean, Interval(-1.0, 1.0))
    together = 0.0
    if min(won.variance, lost.variance) > ROUNDING**2:
        covered = won.variance + lost.variance - _variance(differences)[0]
        together = float(np.clip(covered / (2 * math.sqrt(won.variance * lost.variance)), -1, 1))
    below = _reach(won.mean - won.interval.low, lost.interval.high - lost.mean, together)
    above = _reach(won.interval.high - won.mean, lost.mean - lost.interval.low, together)
    return Estimate(mean, Interval(mean - below, mean + above))


@dataclasses.dataclass(frozen=True)
class _Share:
    mean: float
    variance: float
    interval: Interval


def _share(right: np.ndarray) -> _Share:
    k, n = right.shape
    mean = float(right.mean())
    if n < 2:
        return _Share(mean, 0.0, Interval(0.0, 1.0))
    variance, freedom = _variance(right)
    images = float(n)
    if 0 < mean < 1:
        # As many as have that variance; fewer where it is itself known from few seeds.
        wider = _quantile(freedom) / _quantile(n - 1)
        images = mean * (1 - mean) * n / (n - 1) / max(variance, ROUNDING**2) / wider**2
        images = min(images, k * n)
    hits, tail = mean * images, (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, hits, images - hits + 1)) if mean > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, images - hits)) if mean < 1 else 1.0
    return _Share(mean, variance, Interval(low, high))


def _variance(scores: np.ndarray) -> tuple[float, float]:
    """Return the variance of the mean of (k, n) scores, and its degrees of freedom."""
    k, n = scores.shape
    by_seed, by_image = scores.mean(axis=1), scores.mean(axis=0)
    images = float(by_image.var(ddof=1)) / n
    if k == 1:
        return images, n - 1.0
    residuals = scores - by_seed[:, None] - by_image[None, :] + scores.mean()
    residual = float(np.sum(residuals**2)) / ((k - 1) * (n - 1)) / (k * n)
    seeds = float(by_seed.var(ddof=1)) / k
    if seeds <= residual:
        return images, n - 1.0
    variance = images + seeds - residual
    freedom = variance**2 / (
        images**2 / (n - 1) + seeds**2 / (k - 1) + residual**2 / ((k - 1) * (n - 1))
    )
    return variance, max(freedom, 1.0)


def _quantile(freedom: float) -> float:
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def _reach(first: float, second: float, together: float) -> float:
    return math.sqrt(max(0.0, first**2 + second**2 - 2 * together * first * second))
