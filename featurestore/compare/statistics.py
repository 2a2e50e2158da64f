"""Statistics of classifiers on the same rows, from SciPy and statsmodels where they have them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit
from scipy.stats import binomtest, fisher_exact, norm, permutation_test

from featurestore.compare.results import Interval, PairedTest

CONFIDENCE = 0.95
LEVEL = 0.05
POWER = 0.8
FEWEST_APART = 10  # images; of fewer no difference's size is known well enough to plan by
# Means of equal shares over other numbers of seeds may differ by so much.
ROUNDING = 1e-12
_FEWEST_ROWS, _FEWEST_EVEN_ROWS = 10, 100
_PERMUTATIONS = 4999
_BATCH_VALUES = 2**20  # of permuted answers at once


def mcnemar_exact(first_right: np.ndarray, second_right: np.ndarray) -> PairedTest:
    """Test whether two classifiers differ in accuracy; both arrays are (N,) bool, same rows.

    Source: McNemar (1947), Psychometrika 12, 153-157; the exact two-sided form is the binomial
    test of the discordant pairs (SciPy's `binomtest`; statsmodels' `mcnemar(exact=True)` is equal).
    """
    only_first = int(np.sum(first_right & ~second_right))
    only_second = int(np.sum(~first_right & second_right))
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return PairedTest(len(first_right), only_first, only_second, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in their order (statsmodels' `multipletests`).

    Rejecting those below 5 % rejects any true hypothesis with a probability of at most 5 %, however
    the tests depend on each other.
    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    if not p_values:
        return []
    # Imported here: it brings pandas, a second or more, and only comparisons of several need it.
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]]


@dataclasses.dataclass(frozen=True)
class ChanceTest:
    """Whether answers know anything of the labels.

    Parameters
    ----------
    share
        What the same answers, given to the images in random order, get right on average.
    p_value
        Probability of at least as many right answers in random order. 1 where all are the same.
    """

    share: float
    p_value: float


def better_than_chance(labels: np.ndarray, answers: np.ndarray, *, seed: int = 0) -> ChanceTest:
    """Test whether answers, (N,), agree with the labels, (N,), more than in random order.

    How often each answer is given does not count, so neither always giving the most frequent one
    nor leaving it out for a rare class is taken for knowledge, or for the lack of it. With two
    classes the test is Fisher's exact one, one-sided. With more it is the permutation test of the
    number of right answers, by SciPy's 4,999 permutations drawn by `seed`: the p-value is then a
    multiple of 1/5,000, and one near 0.05 has a standard error of 0.003.
    Source: Fisher (1935), The Design of Experiments, chapter 2.
    """
    classes, coded = np.unique(np.concatenate([labels, answers]), return_inverse=True)
    of_labels, of_answers = (
        np.bincount(each, minlength=len(classes)) for each in np.split(coded, 2)
    )
    share = float(np.sum(of_labels * of_answers) / len(labels) ** 2)
    if max(of_labels.max(), of_answers.max()) == len(labels):
        return ChanceTest(share, 1.0)
    if len(classes) == 2:
        table = [
            [int(np.sum((labels == k) & (answers == other))) for other in classes] for k in classes
        ]
        return ChanceTest(share, float(fisher_exact(table, alternative="greater").pvalue))

    def right(shuffled: np.ndarray, axis: int = -1) -> np.ndarray:
        found: np.ndarray = np.sum(shuffled == labels, axis=axis)
        return found

    found = permutation_test(
        (answers,),
        right,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        batch=max(1, _BATCH_VALUES // len(labels)),
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return ChanceTest(share, float(found.pvalue))


def better_than_majority(right: np.ndarray, majority_share: float) -> float:
    """Return the one-sided exact binomial p-value of (N,) bool `right` against a fixed share.

    `majority_share` is the split's own, taken as known: what always giving its most frequent
    answer would score. A head may be far better than chance and not beat that, where one class is
    frequent: see `better_than_chance`.
    """
    test = binomtest(int(right.sum()), len(right), majority_share, alternative="greater")
    return float(test.pvalue)


def images_needed(
    only_first: float, only_second: float, *, level: float = LEVEL, power: float = POWER
) -> int | None:
    """Return how many images would tell two classifiers apart if they differ as observed.

    Parameters
    ----------
    only_first, only_second
        Shares of images that one of them alone gets right.
    level
        Of the two-sided test; to be divided by the number of tests where it is corrected for them.
    power
        Probability of the test to find the difference.

    Returns
    -------
    None where the shares are equal: no number of images would.

    Notes
    -----
    With psi the sum and delta the difference of the shares, the number of pairs for McNemar's test
    is (z_(1 - level/2) sqrt(psi) + z_power sqrt(psi - delta^2))^2 / delta^2. SciPy and statsmodels
    do not have it. Simulated, the exact test's power there is 77 to 80 %: it is conservative, and
    the normal approximation is not where few images are discordant.
    Source: Connor (1987), Sample size for testing differences in proportions for the paired-sample
    design, Biometrics 43, 207-211, equation 3.
    """
    discordant, difference = only_first + only_second, abs(only_first - only_second)
    if difference < ROUNDING:
        return None
    critical, reached = float(norm.isf(level / 2)), float(norm.ppf(power))
    root = critical * math.sqrt(discordant) + reached * math.sqrt(discordant - difference**2)
    return math.ceil((root / difference) ** 2)


def percentile_interval(draws: np.ndarray) -> Interval | None:
    """Return the 95 % percentile interval of bootstrap draws, (R,); None where there is none.

    That is where a draw is NaN, because the statistic is not defined on that resample, and where
    all draws are equal: the bootstrap then knows nothing of the error, which is not zero.

    Notes
    -----
    For sums over images: accuracy, its differences, log loss. Simulated 500 times with a true
    accuracy of 0.92, it was covered in 95 % with 1,000 images, in 94 % with 100, and in 87 % with
    40, of which 3 are wrong. For means over classes see `logit_interval`.
    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    if np.isnan(draws).any() or np.ptp(draws) < ROUNDING:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high))


def logit_interval(value: float, draws: np.ndarray) -> Interval | None:
    """Return a 95 % interval of a number within 0 and 1 from bootstrap draws, (R,).

    The draws give the standard error, and the interval is symmetric in ``log(value / (1 - value))``
    about that of `value`. None where `percentile_interval` has none, and where `value` is 0 or 1.

    Notes
    -----
    For means over classes: balanced accuracy, macro F1, ROC AUC. Their draws are skewed near 1, and
    F1's lie too low where classes are many and small. Simulated 200 to 500 times in each of 24
    settings in which `rows_suffice` (2 to 100 classes, 10 to 500 rows of the rarest, accuracies of
    0.3 to 0.94), it covered balanced accuracy in 91 to 97 %, macro F1 in 91 to 99 % and ROC AUC,
    which was tried with up to 10 classes, in 90 to 97 %; the percentile interval covered macro F1
    in 79 % and ROC AUC in 87 % at worst. Where rows do not suffice none was honest: with 10 images
    of 200 in one of two classes and a balanced accuracy of 0.92, each covered it in about 60 %.
    Source: Pepe (2003), The Statistical Evaluation of Medical Tests for Classification and
    Prediction, section 5.2, for ROC AUC.
    """
    if np.isnan(draws).any() or np.ptp(draws) < ROUNDING or not 0 < value < 1:
        return None
    error = float(draws.std(ddof=1)) / (value * (1 - value))
    reach = float(norm.isf((1 - CONFIDENCE) / 2)) * error
    low, high = expit(logit(value) + np.array([-reach, reach]))
    return Interval(float(low), float(high))


def rows_suffice(counts: np.ndarray) -> bool:
    """Whether means over classes of `counts`, (K,), rows have an honest interval.

    Asked for are 10 rows of every class, and 100 in all if every class had as few as the rarest:
    a rare class of two or three weighs as much as the others, and none of its few rows may be
    wrong. Classes without a row are left out.
    """
    there = counts[counts > 0]
    fewest = int(there.min())
    return fewest >= _FEWEST_ROWS and fewest * len(there) >= _FEWEST_EVEN_ROWS


def none_of(count: int) -> float:
    """Return the largest share that is likely to show in none of `count` images, at 97.5 %.

    The upper end of the exact 95 % binomial interval (Clopper and Pearson, from SciPy). It bounds
    errors where no image is wrong, and differences where two heads answer alike: there the
    bootstrap gives an interval of no width.
    """
    return float(binomtest(0, count).proportion_ci(CONFIDENCE, method="exact").high)
