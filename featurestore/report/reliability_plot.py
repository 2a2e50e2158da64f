"""Whether probabilities mean what they say: accuracy against confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.compare.sentences import count_text
from featurestore.report.figures import (
    MUTED,
    Figure,
    Line2D,
    MaxNLocator,
    Picture,
    legend_below,
    line_look,
    write_picture,
)
from featurestore.report.outcomes import CalibrationBin, Outcome, calibration_bins
from featurestore.report.text import shown
from featurestore.training.evaluation import CALIBRATION_BINS, calibration_error

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


def draw_reliability(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the calibration curve of each outcome above its counts of rows, as PNG or SVG.

    Raises
    ------
    InvalidInput
        `path` cannot be written, or its name ends in neither.
    """
    write_picture(reliability_picture(outcomes), path)


def reliability_picture(outcomes: Sequence[Outcome], *, width_inches: float = 4.8) -> Picture:
    """Return the picture of `draw_reliability`."""
    names = [_named(outcome) for outcome in outcomes]

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        handles: list[Artist] = []
        for number, outcome in enumerate(outcomes):
            bins = calibration_bins(outcome)
            alone = len(outcomes) == 1
            handles.append(reliability_onto(upper, bins, number=number, intervals=alone))
            _counts_onto(lower, bins, number=number, filled=alone)
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        # Of k classes the largest probability is at least 1 / k.
        least = 1 / len(outcomes[0].class_names)
        upper.set(ylabel="accuracy", ylim=(-0.02, 1.02), xlim=(max(0, least - 0.05), 1.02))
        lower.set(xlabel="confidence (largest probability)", ylabel="images")
        lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
        for axes in (upper, lower):
            axes.grid(True)
        legend_below(figure, handles, names)

    height = width_inches + 0.3 + 0.19 * len(names)
    return Picture((width_inches, height), f"Calibration: {'; '.join(names)}", paint)


def reliability_onto(
    axes: Axes, bins: Sequence[CalibrationBin | None], *, number: int, intervals: bool
) -> Artist:
    """Draw each bin's accuracy over its mean confidence, with 95 % intervals where asked.

    Returns what stands for it in a legend.
    """
    held = [found for found in bins if found is not None]
    x = [found.confidence for found in held]
    colour, dashes = line_look(number)
    if intervals:
        lows, highs = ([getattr(f.interval, end) for f in held] for end in ("low", "high"))
        axes.vlines(x, lows, highs, color=colour, linewidth=1.2, alpha=0.5)
    y = [found.accuracy for found in held]
    axes.plot(x, y, linewidth=1.2, color=colour, linestyle=dashes, alpha=0.6)
    # Areas go with counts, so that a bin of three images does not look like one of three hundred.
    most = max(found.rows for found in held)
    axes.scatter(x, y, s=[8 + 60 * found.rows / most for found in held], color=colour, zorder=3)
    return Line2D([], [], color=colour, ls=dashes, marker="o", markersize=5)


def _counts_onto(
    axes: Axes, bins: Sequence[CalibrationBin | None], *, number: int, filled: bool
) -> None:
    edges = [edge / CALIBRATION_BINS for edge in range(CALIBRATION_BINS + 1)]
    rows = [0 if found is None else found.rows for found in bins]
    colour, dashes = line_look(number)
    axes.stairs(
        rows,
        edges,
        fill=filled,
        color=colour,
        linestyle=dashes,
        linewidth=0 if filled else 1.5,
    )


def _named(outcome: Outcome) -> str:
    error = calibration_error(outcome.labels, outcome.probabilities)
    rows = count_text(len(outcome.labels), "image")
    return f"{shown(outcome.label, 40)}: ECE {error:.3f} on {rows}"
