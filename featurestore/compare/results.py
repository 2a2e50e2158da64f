"""What a comparison found: numbers and sentences, no drawing and no reading."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from featurestore.training.runs import Run, TrainedOn


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its sampling error: what other images of the same kind might have given.

    Parameters
    ----------
    value
        None where it is not defined, such as the ROC AUC of a split that lacks a class.
    interval
        By the bootstrap over images. None where it would not be honest: where `value` is None,
        where all resamples agree (an ROC AUC of 1), of a mean over classes of which one has few
        images, and of the calibration error. Of an accuracy or a difference on which all resamples
        agree it is the exact binomial one.
    """

    value: float | None
    interval: Interval | None


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """One way of training: its runs differ in their seeds only, and are ordered by them.

    Parameters
    ----------
    label
        Unique within the comparison: see `featurestore.training.methods.method_labels`.
    metrics
        Each of `featurestore.training.evaluation.METRICS`: the mean over the runs.
    seed_spread
        Standard deviation of each metric over seeds (n - 1); None with fewer than two runs.
    fit_seconds, predict_us, model_bytes
        Medians over the runs: of the fit (an embedding before it is not in it), of one image's
        probabilities from the features that the run reads, in microseconds (None where an older run
        did not record it), of the model file.
    majority_share
        Share of the split's most frequent label: what always answering it would score.
    chance_share
        What the first run's answers, given to the images in random order, get right on average.
    chance_p
        P-value of the first run's answers against such an order, not corrected for the number of
        contenders: see `featurestore.compare.statistics.better_than_chance`.
    majority_p
        One-sided exact binomial p-value of the first run's accuracy against `majority_share`.
    sentence
        How it stands against chance, in words.
    """

    label: str
    runs: tuple[Run, ...]
    metrics: Mapping[str, Estimate]
    seed_spread: Mapping[str, float | None] | None
    fit_seconds: float
    predict_us: float | None
    model_bytes: float
    majority_share: float
    chance_share: float
    chance_p: float
    majority_p: float
    sentence: str

    def is_expected(self, level: float) -> bool:
        """Whether it beats chance and the most frequent answer, and is no control.

        Its sentence then says what a reader takes for granted.
        """
        controls = any(run.shuffled_labels for run in self.runs)
        return max(self.chance_p, self.majority_p) < level and not controls


@dataclasses.dataclass(frozen=True)
class SeedVerdicts:
    """What the corrected test would have said of each pair of two contenders' runs.

    Parameters
    ----------
    first, second
        Pairs of runs of which the test finds the first contender's, or the second's, to be better.
    neither
        Pairs of runs that it does not tell apart.
    p_range
        Smallest and largest p-value, not corrected.
    """

    first: int
    second: int
    neither: int
    p_range: Interval

    @property
    def pairs(self) -> int:
        """How many pairs of runs there are."""
        return self.first + self.second + self.neither


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two contenders on the same images.

    Parameters
    ----------
    first, second
        Labels of contenders.
    difference
        Accuracy of the first less that of the second, means over seeds; paired bootstrap.
    test
        Of each contender's first run.
    adjusted_p
        `test.p_value` after Holm's correction over all pairs.
    by_seed
        The same test of every run of the first with every run of the second, each in place of the
        first runs among the tests that are corrected for; None with one run each.
    winner
        The label of the contender that is better: the corrected test of the first runs says so, the
        mean difference agrees, and no other pair of runs is told apart the other way round. None
        where there is none.
    apart
        Images that one of them alone gets right: the mean over all pairs of their runs.
    images_needed
        How many images would tell them apart with 80 % power, if the difference is as large as
        observed, at the 5 % level after correction for as many pairs. None where the difference is
        zero, and where fewer than 10 images are `apart`: its size is then hardly known.
    sentence
        The outcome in words.
    """

    first: str
    second: str
    difference: Estimate
    test: PairedTest
    adjusted_p: float
    by_seed: SeedVerdicts | None
    winner: str | None
    apart: float
    images_needed: int | None
    sentence: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Contenders on one split of one feature set.

    Parameters
    ----------
    features
        What all runs are judged on: features without views where a run was trained on those, and of
        a fine-tuning the features of the run that it started from.
    split
        The split that was compared on.
    sample_ids
        (N,) strings.
    labels
        (N,) int64.
    probabilities
        By run id: (N, n_classes) float32, rows in the order of `sample_ids`.
    resamples, seed
        Of the bootstrap.
    notes
        What a reader must be told of the comparison, such as runs left out. Runs have notes of
        their own.
    """

    features: TrainedOn
    split: str
    sample_ids: np.ndarray
    labels: np.ndarray
    contenders: tuple[Contender, ...]
    pairs: tuple[Pair, ...]
    probabilities: Mapping[str, np.ndarray]
    resamples: int
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def feature_set(self) -> str:
        """Name of the features that all runs are judged on."""
        return self.features.name

    @property
    def fingerprint(self) -> str:
        """Identity of these features."""
        return self.features.fingerprint

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.features.class_names
