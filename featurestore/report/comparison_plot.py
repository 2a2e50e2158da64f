"""A comparison as intervals: how accurate each contender is, and which pairs are told apart."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featurestore.compare.results import Comparison, Contender, Estimate, Interval, Pair
from featurestore.compare.sentences import count_text, p_text
from featurestore.compare.statistics import LEVEL
from featurestore.report.figures import (
    INK,
    MUTED,
    PALETTE,
    Figure,
    FuncFormatter,
    MaxNLocator,
    Picture,
    write_picture,
)
from featurestore.report.text import points_text, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW_INCHES, _TITLE_INCHES, _FRAME_INCHES = 0.36, 0.2, 0.6
_CHARACTERS_PER_INCH, _NAME_CHARACTERS_PER_INCH = 12, 3.75
# The chance line joins an axis that it makes at most so many times longer; else a note stands in.
_MOST_STRETCH = 3.0


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Write accuracies with their 95 % intervals above the differences of pairs, as PNG or SVG.

    Beside each interval, which is sampling error, the accuracy of each seed stands as a dot.

    Raises
    ------
    InvalidInput
        `path` cannot be written, or its name ends in neither.
    """
    write_picture(comparison_picture(comparison), path)


def comparison_picture(comparison: Comparison, *, width_inches: float = 8.0) -> Picture:
    """Return the picture of `draw_comparison`."""
    contenders, pairs = comparison.contenders, comparison.pairs
    # Over the whole width and not over the axes: long names leave those little of it.
    titles = [
        textwrap.fill(title, int(_CHARACTERS_PER_INCH * width_inches))
        for title in (_contenders_title(comparison), _pairs_title(pairs))
    ]
    heights = [
        _ROW_INCHES * rows + _TITLE_INCHES * (title.count("\n") + 1) + _FRAME_INCHES
        for rows, title in zip((len(contenders) + 0.6, len(pairs)), titles, strict=True)
        if rows
    ]

    def paint(figure: Figure) -> None:
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel()
        for part, title in zip(parts, titles, strict=False):
            part.suptitle(title, x=0.01, ha="left", fontsize=10.5)
        longest = int(_NAME_CHARACTERS_PER_INCH * width_inches)
        contenders_onto(parts[0].subplots(), comparison, longest_name=longest)
        if pairs:
            pairs_onto(parts[1].subplots(), pairs, longest_name=longest)

    return Picture((width_inches, sum(heights)), _in_words(comparison), paint)


def contenders_onto(axes: Axes, comparison: Comparison, *, longest_name: int = 30) -> None:
    """Draw a row for each contender: the mean over seeds with its interval, the seeds below it."""
    contenders = comparison.contenders
    spans = [_span(contender) for contender in contenders]
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    chance = contenders[0].majority_share
    low, high = _with_margin(low, high)
    if chance < low and (high - chance) <= _MOST_STRETCH * (high - low):
        low = chance - 0.04 * (high - chance)
    for row, contender in enumerate(contenders):
        _interval_onto(axes, row, contender.metrics["accuracy"], told_apart=True)
        if len(contender.runs) > 1:
            seeds = _by_seed(contender, comparison)
            axes.plot(
                seeds, [row + 0.28] * len(seeds), "o", color=PALETTE[1], alpha=0.5, markersize=4
            )
    axes.set_xlim(max(low, -0.02), min(high, 1.005))
    _chance_onto(axes, chance)
    _name_rows(axes, [_named(contender, longest_name) for contender in contenders])
    axes.set_ylim(len(contenders), -0.6)  # a line more, for the note on chance
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))


def pairs_onto(axes: Axes, pairs: Sequence[Pair], *, longest_name: int = 30) -> None:
    """Draw a row for each pair; those of which one is better are filled: see `Pair.winner`."""
    for row, pair in enumerate(pairs):
        told_apart = pair.winner is not None
        _interval_onto(axes, row, pair.difference, told_apart=told_apart)
        axes.annotate(
            p_text(pair.adjusted_p),
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK if told_apart else MUTED,
            annotation_clip=False,
        )
    axes.axvline(0, color=MUTED, linewidth=1)
    _name_rows(axes, [_pair_named(pair, longest_name) for pair in pairs])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: points_text(value)))


def _interval_onto(axes: Axes, row: int, estimate: Estimate, *, told_apart: bool) -> None:
    if estimate.value is None:
        return
    colour = PALETTE[0] if told_apart else MUTED
    if estimate.interval is not None:
        axes.hlines(row, estimate.interval.low, estimate.interval.high, color=colour, linewidth=2)
    axes.plot(
        estimate.value,
        row,
        "o",
        color=colour,
        markersize=7,
        markerfacecolor=colour if told_apart else "none",
        markeredgewidth=1.6,
    )


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")


def _chance_onto(axes: Axes, chance: float) -> None:
    low, high = axes.get_xlim()
    inside = low <= chance <= high
    if inside:
        axes.axvline(chance, color=MUTED, linewidth=1, linestyle="--")
    text = f"most frequent class: {chance:.3f}"
    axes.annotate(
        text if inside else f"← {text}" if chance < low else f"{text} →",
        (chance if inside else 0 if chance < low else 1, 0),
        xycoords=("data" if inside else "axes fraction", "axes fraction"),
        xytext=(4, 3),
        textcoords="offset points",
        ha="left" if chance <= (low + high) / 2 else "right",
        color=MUTED,
        fontsize=8,
    )


def _span(contender: Contender) -> Interval:
    accuracy = contender.metrics["accuracy"]
    ends = [0.0 if accuracy.value is None else accuracy.value]
    if accuracy.interval is not None:
        ends += [accuracy.interval.low, accuracy.interval.high]
    return Interval(min(ends), max(ends))


def _with_margin(low: float, high: float) -> tuple[float, float]:
    margin = max(0.06 * (high - low), 0.005)
    return low - margin, high + margin


def _by_seed(contender: Contender, comparison: Comparison) -> list[float]:
    return [
        float(np.mean(comparison.probabilities[run.id].argmax(axis=1) == comparison.labels))
        for run in contender.runs
    ]


def _contenders_title(comparison: Comparison) -> str:
    rows = count_text(len(comparison.labels), "image")
    seeded = any(len(contender.runs) > 1 for contender in comparison.contenders)
    seeds = "; dots: seeds" if seeded else ""
    return f"Accuracy on {rows} ({comparison.split}), with 95 % interval{seeds}"


def _pairs_title(pairs: Sequence[Pair]) -> str:
    count = len(pairs)
    corrected = f" after Holm's correction over {count} pairs" if count > 1 else ""
    seeds = " and no seed reverses it" if any(pair.by_seed for pair in pairs) else ""
    return (
        f"Difference in percent points, with 95 % interval; p{corrected}; "
        f"filled: told apart (p < {LEVEL:g}{seeds})"
    )


def _named(contender: Contender, longest: int) -> str:
    name = shown(contender.label, longest)
    runs = len(contender.runs)
    return name if runs == 1 else f"{name} ({runs} seeds)"


def _pair_named(pair: Pair, longest: int) -> str:
    first, second = shown(pair.first, longest), shown(pair.second, longest)
    joint = "\n" if len(first) + len(second) > longest else " "
    return f"{first} −{joint}{second}"


def _in_words(comparison: Comparison) -> str:
    parts = []
    for contender in comparison.contenders:
        accuracy = contender.metrics["accuracy"]
        words = f"{shown(contender.label)} {accuracy.value or 0:.3f}"
        if accuracy.interval is not None:
            words += f" ({accuracy.interval.low:.3f} to {accuracy.interval.high:.3f})"
        parts.append(words)
    return f"Accuracy with 95 % interval: {', '.join(parts)}"
