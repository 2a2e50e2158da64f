"""Tests and intervals against SciPy, statsmodels, published examples and simulation."""

import math
from fractions import Fraction

import numpy as np
import pytest
from made_runs import answers, noisy
from scipy.special import logit
from scipy.stats import binom, norm
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar

from featurestore.compare import bootstrap
from featurestore.compare.bootstrap import resample_metrics
from featurestore.compare.results import Interval
from featurestore.compare.statistics import (
    ChanceTest,
    better_than_chance,
    better_than_majority,
    holm,
    images_needed,
    logit_interval,
    mcnemar_exact,
    none_of,
    percentile_interval,
    rows_suffice,
)
from featurestore.training.evaluation import METRICS


def paired(both, first, second, neither):
    """Return two (N,) bool arrays of a fourfold table."""
    counts = both, first, second, neither
    return (
        np.repeat([True, True, False, False], counts),
        np.repeat([True, False, True, False], counts),
    )


@pytest.mark.parametrize(
    "table", [(794, 150, 86, 570), (5, 0, 0, 5), (0, 1, 0, 0), (90, 7, 2, 1), (50, 9, 9, 9)]
)
def test_mcnemar_is_statsmodels(table):
    both, first, second, neither = table
    found = mcnemar_exact(*paired(*table))
    expected = mcnemar([[both, first], [second, neither]], exact=True)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-12)
    assert (found.samples, found.only_first, found.only_second) == (sum(table), first, second)


def test_presidential_approval():
    """Agresti (2002), Categorical Data Analysis, section 10.1: 150 and 86 of 1,600 changed their
    minds; the difference is -0.04 with 95 % interval (-0.059, -0.021). The exact p-value is
    counted out in whole numbers."""
    second, first = paired(794, 150, 86, 570)
    test = mcnemar_exact(first, second)
    assert (test.samples, test.only_first, test.only_second) == (1600, 86, 150)
    counted = Fraction(2 * sum(math.comb(236, k) for k in range(87)), 2**236)
    assert test.p_value == pytest.approx(float(counted), rel=1e-9)
    assert test.p_value == pytest.approx(3.7159e-05, rel=1e-4)
    labels = np.arange(len(first)) % 2
    scores = resample_metrics(
        labels, [answers(labels, first), answers(labels, second)], resamples=4000, seed=0
    )
    difference = scores.values[0, 0] - scores.values[1, 0]
    interval = percentile_interval(scores.draws[0, 0] - scores.draws[1, 0])
    assert difference == pytest.approx(-0.04)
    assert (interval.low, interval.high) == pytest.approx((-0.059, -0.021), abs=0.0015)


def test_few_discordant_pairs():
    """Fay, Exact McNemar's test and matching confidence intervals (the vignette of R's exact2x2):
    of 44 pairs 9 and 2 are discordant. The chi-squared test has 0.035 without and 0.070 with
    continuity correction, so an exact one must decide: 2 (1 + 11 + 55) / 2^11 = 0.06543."""
    first, second = paired(21, 2, 9, 12)
    test = mcnemar_exact(first, second)
    assert (test.samples, test.only_first, test.only_second) == (44, 2, 9)
    assert test.p_value == pytest.approx(0.06543, abs=5e-6)
    assert test.p_value == pytest.approx(134 / 2048)


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_majority_is_beaten_one_sided():
    right = np.arange(100) < 60
    assert better_than_majority(right, 0.5) == pytest.approx(binom.sf(59, 100, 0.5))
    assert better_than_majority(~right, 0.5) > 0.9
    assert better_than_majority(right, 0.6) > 0.5


def test_the_lady_tasting_tea():
    """Fisher (1935), The Design of Experiments, chapter 2: 3 of 4 cups are found with 17/70."""
    labels = np.repeat([0, 1], 4)
    answers = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    found = better_than_chance(labels, answers)
    assert found.p_value == pytest.approx(17 / 70)
    assert found.share == 0.5
    assert better_than_chance(labels, labels).p_value == pytest.approx(1 / 70)
    assert better_than_chance(labels, 1 - labels).p_value == pytest.approx(1.0)


def test_more_classes_are_permuted():
    """With a class of one image, that image's own answer is permuted as well: near Fisher's p."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [150, 50])
    answers = np.where(rng.random(200) < 0.1, labels, rng.random(200) < 0.25).astype(int)
    exact = better_than_chance(labels, answers)
    drawn = better_than_chance(np.append(labels, 2), np.append(answers, 0))
    assert 0.001 < exact.p_value < 0.2
    assert drawn.p_value == pytest.approx(exact.p_value, rel=0.35)
    assert drawn.p_value * 5000 == pytest.approx(round(drawn.p_value * 5000))
    assert drawn == better_than_chance(np.append(labels, 2), np.append(answers, 0))
    assert better_than_chance(np.arange(30) % 3, np.arange(30) % 3).p_value == pytest.approx(2e-4)


def test_one_answer_or_one_label_is_chance():
    labels = np.arange(90) % 3
    assert better_than_chance(labels, np.zeros(90, int)) == ChanceTest(pytest.approx(1 / 3), 1.0)
    assert better_than_chance(np.zeros(90, int), labels).p_value == 1.0


@pytest.mark.parametrize("shares", [[0.95, 0.05], [0.6, 0.3, 0.1]])
def test_chance_is_found_as_often_as_promised(shares):
    """Of 300 sets of answers that know nothing, 1 to 8.5 % stand out: 5 %, or less by ties."""
    p_values = []
    for trial in range(300):
        rng = np.random.default_rng(trial)
        labels, answers = (rng.choice(len(shares), 200, p=shares) for _ in range(2))
        p_values.append(better_than_chance(labels, answers, seed=trial).p_value)
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.085


@pytest.mark.parametrize(
    ("only_first", "only_second", "level", "margin"),
    [
        (0.04, 0.02, 0.05, 0.015),
        (0.02, 0.04, 0.05, 0.015),
        (0.02, 0.015, 0.05, 0.015),
        # 34 discordant images, far out in the tail: the normal approximation asks for too many.
        (0.05, 0.01, 0.005, 0.05),
    ],
)
def test_images_needed_gives_the_power_that_it_promises(only_first, only_second, level, margin):
    images = images_needed(only_first, only_second, level=level)
    rng = np.random.default_rng(0)
    shares = [only_first, only_second, 1 - only_first - only_second]
    first, second, _ = rng.multinomial(images, shares, size=20_000).T
    exact = 2 * binom.cdf(np.minimum(first, second), first + second, 0.5)
    asymptotic = 2 * norm.sf(abs(first - second) / np.sqrt(first + second))
    assert np.mean(asymptotic < level) == pytest.approx(0.8, abs=margin)
    assert 0.74 < np.mean(exact < level) < 0.82


def test_images_needed_for_what():
    assert images_needed(0.02, 0.02) is None
    assert images_needed(0.1 + 0.2, 0.3) is None
    assert images_needed(0.03, 0.02) == images_needed(0.02, 0.03)
    assert images_needed(0.021, 0.02) > 50 * images_needed(0.03, 0.02)
    assert images_needed(0.03, 0.02, level=0.005) > images_needed(0.03, 0.02)


def test_percentile_interval():
    draws = np.arange(1001) / 1000
    assert percentile_interval(draws) == Interval(pytest.approx(0.025), pytest.approx(0.975))


@pytest.mark.parametrize(
    "draws",
    [np.append(np.arange(1001) / 1000, np.nan), np.full(10, np.nan), 0.7 + 1e-16 * np.arange(10)],
    ids=["one not defined", "none defined", "all agree"],
)
def test_draws_that_give_no_interval(draws):
    assert percentile_interval(draws) is None
    assert logit_interval(0.7, draws) is None


def test_logit_interval_is_symmetric_in_log_odds_and_stays_within():
    rng = np.random.default_rng(0)
    for value in (0.02, 0.5, 0.98):
        draws = value + 0.03 * rng.normal(size=2000)
        found = logit_interval(value, draws)
        assert 0 < found.low < value < found.high < 1
        assert logit(found.high) - logit(value) == pytest.approx(logit(value) - logit(found.low))
    near = logit_interval(0.5, 0.5 + 0.001 * rng.normal(size=20_000))
    assert (near.low, near.high) == pytest.approx((0.5 - 0.00196, 0.5 + 0.00196), abs=5e-5)
    assert logit_interval(1.0, draws) is logit_interval(0.0, draws) is None


@pytest.mark.parametrize(
    ("counts", "enough"),
    [
        ([50, 5000], True),
        ([49, 5000], False),
        ([34, 34, 34], True),
        ([33, 90, 90], False),
        ([10] * 10, True),
        ([9] + [100] * 99, False),
        ([50, 50, 0], True),
    ],
)
def test_when_rows_suffice(counts, enough):
    assert rows_suffice(np.array(counts)) is enough


def test_none_of_is_about_four_in_as_many():
    """3.7 / N: -ln(0.025), which is one-sided 97.5 %, as the rule of three is 95 %."""
    assert none_of(1000) == pytest.approx(1 - 0.025 ** (1 / 1000))
    assert none_of(1000) == pytest.approx(3.7e-3, rel=0.01)


@pytest.mark.slow
@pytest.mark.rare
def test_intervals_cover_the_truth():
    """Of 1,000 splits of 300 images, 93 to 97 % of the 95 % intervals hold the true value.

    The truth is known by construction: each image is right with one head with probability 0.9,
    with the other 0.87, dependent as heads are. The margin is three standard errors (0.7 points
    each) and the discreteness of 300 images.
    """
    trials, images = 1000, 300
    held = np.zeros(3)
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        labels = rng.integers(0, 2, images)
        cell = rng.choice(4, images, p=[0.84, 0.06, 0.03, 0.07])
        first, second = cell < 2, (cell == 0) | (cell == 2)
        scores = resample_metrics(
            labels, [answers(labels, first), answers(labels, second)], resamples=1000, seed=trial
        )
        draws = scores.draws[:, 0]
        cases = ((draws[0], 0.9), (draws[1], 0.87), (draws[0] - draws[1], 0.03))
        for case, (drawn, truth) in enumerate(cases):
            interval = percentile_interval(drawn)
            held[case] += interval.low <= truth <= interval.high
    assert np.all(held / trials > 0.93) and np.all(held / trials < 0.97), held / trials


def truth(n_classes, *, skill):
    """Return balanced accuracy, macro F1 and ROC AUC of `noisy` on very many even images."""
    labels = np.arange(300_000) % n_classes
    probabilities = noisy(labels, n_classes=n_classes, seed=99, skill=skill)
    answers = probabilities.argmax(axis=1)
    area = roc_auc_score(labels, probabilities[:, 1]) if n_classes == 2 else None
    return (
        balanced_accuracy_score(labels, answers),
        f1_score(labels, answers, average="macro"),
        area,
    )


@pytest.mark.slow
@pytest.mark.rare
@pytest.mark.parametrize(("n_classes", "rows", "skill"), [(2, 100, 2.0), (100, 1000, 2.0)])
def test_intervals_of_means_over_classes_cover_the_truth(n_classes, rows, skill, monkeypatch):
    """Of 400 splits, 87 to 99 % of the intervals hold the true value: they are not exact.

    The percentile interval held a macro F1 of 0.32 of 100 classes in 79 %, and a ROC AUC of 0.98
    on 100 images in 91 %. The margin is three standard errors (1.1 points each).
    """
    if n_classes > 2:  # of 100 classes it takes minutes
        monkeypatch.setattr(
            bootstrap, "_roc_auc", lambda *_: lambda counts: np.full(counts.shape[1], np.nan)
        )
    expected = dict(
        zip(
            ("balanced_accuracy", "macro_f1", "roc_auc"), truth(n_classes, skill=skill), strict=True
        )
    )
    labels = np.arange(rows) % n_classes
    assert rows_suffice(np.bincount(labels))
    held = dict.fromkeys(expected, 0)
    for trial in range(400):
        probabilities = noisy(labels, n_classes=n_classes, seed=trial, skill=skill)
        scores = resample_metrics(labels, [probabilities], resamples=500, seed=trial)
        for name, value in expected.items():
            metric = METRICS.index(name)
            interval = logit_interval(scores.values[0, metric], scores.draws[0, metric])
            if value is not None and interval is not None:  # one of 400 has every image right
                held[name] += interval.low <= value <= interval.high
    shares = {name: held[name] / 400 for name, value in expected.items() if value is not None}
    assert all(0.87 < share < 0.99 for share in shares.values()), shares
