"""What a comparison found, in plain sentences: pure functions of its numbers."""

from __future__ import annotations

import math
from typing import TypeGuard

from featurestore.compare.results import Contender, Interval, Pair, SeedVerdicts
from featurestore.compare.statistics import FEWEST_APART, LEVEL, POWER


def pair_sentence(pair: Pair, *, pairs: int) -> str:
    """Return the outcome of one of `pairs` pairs, as the corrected test decides it.

    Where the interval, which is not corrected, or another seed says otherwise, so does the
    sentence.
    """
    images = count_text(pair.test.samples, "image")
    if pair.adjusted_p < LEVEL or _goes_both_ways(pair.by_seed):
        return _told_apart(pair, images=images, pairs=pairs)
    if pair.apart == 0:
        return (
            f"{pair.first} and {pair.second} are not distinguishable on {images}: "
            "they get the same ones right"
        )
    points, interval = _points(pair)
    numbers = f"difference {points}{', ' + interval if interval else ''}; "
    numbers += _corrected_text(pair, pairs)
    return (
        f"{pair.first} and {pair.second} are not distinguishable on {images} ({numbers})"
        f"{_interval_remark(pair)}{_seeds_remark(pair)}{_needed(pair)}"
    )


def chance_sentence(
    contender: Contender, *, majority_class: str, right: int, samples: int, one_answer: bool
) -> str:
    """Return how a contender's first run stands against chance and the most frequent answer.

    Parameters
    ----------
    right
        Of `samples` images, those that the first run gets right.
    one_answer
        The first run gives all images the same answer.
    """
    images = count_text(samples, "image")
    seed = f" with seed {contender.runs[0].seed}" if len(contender.runs) > 1 else ""
    share = f"{100 * right / samples:.1f} % right{seed}"
    at_random = f"{100 * contender.chance_share:.1f} % ({p_text(contender.chance_p)})"
    if contender.chance_p >= LEVEL:
        numbers = (
            f"{share}, with the same answer for every image"
            if one_answer
            else f"{share}, where its answers in random order get {at_random}"
        )
        return (
            f"{contender.label} is not distinguishable from chance on {images}: "
            f"{numbers}{_ranking_remark(contender)}"
        )
    frequent = f"always answering {majority_class}"
    beaten = "" if contender.majority_p < LEVEL else f", but is not shown to beat {frequent}"
    return (
        f"{contender.label} is better than chance on {images}{beaten}: {share}, where its answers "
        f"in random order get {at_random} and {frequent} gets "
        f"{100 * contender.majority_share:.1f} % ({p_text(contender.majority_p)})"
        f"{_control_remark(contender)}"
    )


def count_text(count: int, noun: str) -> str:
    """Return ``1 image`` or ``1,000 images``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def p_text(p_value: float) -> str:
    """Return ``p < 0.001``, ``p = 0.012``, ``p = 0.56``, ``p > 0.99`` or ``p = 1``."""
    if p_value < 0.001:
        return "p < 0.001"
    if p_value >= 0.995:  # not 1.00; 1 is said of 1 alone
        return "p = 1" if p_value == 1 else "p > 0.99"
    digits = 2 if p_value >= 0.1 else 3
    if p_value < LEVEL <= round(p_value, digits):  # 0.0497 is not 0.050
        digits = 4
    return f"p = {p_value:.{digits}f}"


def points_text(share: float) -> str:
    """Return a difference of shares in percent points, to one decimal, with a true minus."""
    text = f"{100 * share:.1f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _ranking_remark(contender: Contender) -> str:
    """Probabilities may know what answers do not show: a rare class may never be likeliest."""
    area = contender.metrics.get("roc_auc")
    if area is None or area.value is None or area.interval is None or area.interval.low <= 0.5:
        return ""
    low, high = area.interval.low, area.interval.high
    return (
        f"; its probabilities rank the images all the same: ROC AUC {area.value:.3f} "
        f"(95 % {low:.3f} to {high:.3f})"
    )


def _control_remark(contender: Contender) -> str:
    """Say what a control above chance may mean.

    Shuffled labels agree with the true ones by a little more or less than half, and a head makes
    more of it: of 24 logistic heads on 2,000 photographs with shuffled labels, 2 were above chance
    on 1,000 others at the 5 % level, one with 55.8 % right.
    """
    if not contender.runs[0].shuffled_labels:
        return ""
    return (
        "; a control should not be: shuffled labels may agree with the true ones by accident, so "
        "shuffle with other seeds, and if those are too, the rows or labels are not what they seem "
        "(fs audit)"
    )


def _told_apart(pair: Pair, *, images: str, pairs: int) -> str:
    """Name the winner, or say why the first runs' winner is none."""
    if _goes_both_ways(pair.by_seed):
        return _both_ways(pair, pair.by_seed, images=images, pairs=pairs)
    first_wins = pair.test.only_first > pair.test.only_second
    better, worse = (pair.first, pair.second) if first_wins else (pair.second, pair.first)
    points, interval = _points(pair, sign=-1 if pair.winner == pair.second else 1)
    if interval:
        points += f" ({interval})"
    if pair.winner is None:
        return (
            f"the first run of {better} is better than that of {worse} on {images}, "
            f"{_corrected_text(pair, pairs)}, but over all seeds it is not: "
            f"{pair.first} less {pair.second} is {points}"
        )
    return (
        f"{better} is better than {worse}: {points} on {images}, {_corrected_text(pair, pairs)}"
        f"{_interval_remark(pair)}{_seeds_remark(pair)}"
    )


def _goes_both_ways(found: SeedVerdicts | None) -> TypeGuard[SeedVerdicts]:
    return found is not None and min(found.first, found.second) > 0


def _both_ways(pair: Pair, found: SeedVerdicts, *, images: str, pairs: int) -> str:
    corrected = f", after Holm's correction over {pairs} pairs" if pairs > 1 else ""
    points, interval = _points(pair)
    return (
        f"whether {pair.first} or {pair.second} is better depends on the seed: of {found.pairs:,} "
        f"pairs of their runs on {images}, {pair.first} is better in {found.first:,} and "
        f"{pair.second} in {found.second:,}{corrected}; over all seeds {pair.first} less "
        f"{pair.second} is {points}{f' ({interval})' if interval else ''}"
    )


def _points(pair: Pair, *, sign: int = 1) -> tuple[str, str]:
    """Return ``3.1 points`` and ``95 % 1.2 to 5.0``; `sign` -1 for the second less the first."""
    value, interval = pair.difference.value or 0.0, pair.difference.interval
    points = f"{points_text(sign * value)} points"
    if interval is None:
        return points, ""
    low, high = sorted((sign * interval.low, sign * interval.high))
    return points, f"95 % {points_text(low)} to {points_text(high)}"


def _corrected_text(pair: Pair, pairs: int) -> str:
    correction = f" after Holm's correction over {pairs} pairs" if pairs > 1 else ""
    return p_text(pair.adjusted_p) + correction


def _needed(pair: Pair) -> str:
    if pair.apart < FEWEST_APART:
        return (
            f"; fewer than {FEWEST_APART} images set them apart, too few to say how many would be "
            "needed"
        )
    if pair.images_needed is None or pair.images_needed <= pair.test.samples:
        return ""
    return (
        f"; about {_about(pair.images_needed):,} would be needed to tell them apart with "
        f"{100 * POWER:.0f} % power, if the difference is as large as observed"
    )


def _interval_remark(pair: Pair) -> str:
    interval = pair.difference.interval
    if interval is None or _holds_zero(interval) == (pair.adjusted_p >= LEVEL):
        return ""
    verb = "includes" if _holds_zero(interval) else "leaves out"
    reason = (
        "it is not corrected, and the corrected test decides"
        if pair.test.p_value < LEVEL <= pair.adjusted_p
        else "the exact test decides"
        if pair.by_seed is None
        else "the exact test of the first runs decides"
    )
    return f"; the interval {verb} zero, but {reason}"


def _seeds_remark(pair: Pair) -> str:
    """Tell of pairs of runs that the test decides otherwise than that of the first runs."""
    found = pair.by_seed
    if found is None:
        return ""
    of = f"of {found.pairs:,} pairs of their runs"
    if pair.adjusted_p < LEVEL:
        return f"; {found.neither:,} {of} are not told apart" if found.neither else ""
    wins = [(pair.first, found.first), (pair.second, found.second)]
    return "".join(f"; in {count:,} {of} {label} is better" for label, count in wins if count)


def _holds_zero(interval: Interval) -> bool:
    return interval.low <= 0 <= interval.high


def _about(count: int) -> int:
    """Round up to two digits: what is needed is not known better, and never less than there is."""
    step: int = 10 ** max(0, int(math.log10(count)) - 1)
    return -(-count // step) * step
