"""Which class is taken for which: counts, and shares of each true class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featurestore.compare.sentences import count_text
from featurestore.report.figures import (
    CELL,
    INK,
    ON_CELL,
    Figure,
    Picture,
    Rectangle,
    write_picture,
)
from featurestore.report.outcomes import Outcome, confusion_counts
from featurestore.report.text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS_IN_A_ROW = 3
_MOST_OPAQUE = 0.9
_DARK = 0.7  # shares above it make a cell on which light text has the better contrast
_LONGEST_NAME = 18
# Inches of a cell's side by the number of classes it serves, and what fits into it: below, counts
# alone and then nothing but the colour.
_CELL_SIDES = ((3, 1.0), (6, 0.75), (12, 0.55), (25, 0.34), (50, 0.23), (10**9, 0.12))
_ROOM_FOR_PERCENT, _ROOM_FOR_COUNT = 0.5, 0.2


def draw_confusion(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the confusion matrix of each outcome, side by side, as PNG or SVG.

    Raises
    ------
    InvalidInput
        `path` cannot be written, or its name ends in neither.
    """
    write_picture(confusion_picture(outcomes), path)


def confusion_picture(outcomes: Sequence[Outcome]) -> Picture:
    """Return the picture of `draw_confusion`."""
    columns = min(len(outcomes), _PANELS_IN_A_ROW)
    rows = -(-len(outcomes) // columns)
    names = outcomes[0].class_names
    side = _cell_side(len(names)) * len(names)
    margin = 0.7 + 0.075 * min(_LONGEST_NAME, max(map(len, names)))

    def paint(figure: Figure) -> None:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, outcome in zip(panels, outcomes, strict=False):
            confusion_onto(axes, outcome)
            axes.set_title(shown(outcome.label, max(12, int(side / 0.09))), pad=8)
        for axes in panels[len(outcomes) :]:
            axes.remove()

    size = (columns * (side + margin), rows * (side + margin + 0.3))
    return Picture(size, "; ".join(map(_in_words, outcomes)), paint)


def confusion_onto(axes: Axes, outcome: Outcome) -> None:
    """Draw counts, and where there is room percent of the row, on cells as dark as that share."""
    counts = confusion_counts(outcome)
    n_classes = len(counts)
    cell = _cell_side(n_classes)
    in_row = np.maximum(counts.sum(axis=1), 1)
    # Empty cells are left out: with many classes most are empty, and each weighs in an SVG.
    for true, answer in np.argwhere(counts).tolist():
        share = counts[true, answer] / in_row[true]
        axes.add_patch(
            Rectangle(
                (answer - 0.5, true - 0.5),
                1,
                1,
                facecolor=CELL,
                alpha=_MOST_OPAQUE * share,
                linewidth=0,
            )
        )
        text = _cell_text(int(counts[true, answer]), float(share), cell)
        axes.text(
            answer,
            true,
            text,
            ha="center",
            va="center",
            color=ON_CELL if share > _DARK else INK,
            fontsize=10 if cell >= 0.7 else 8 if cell >= _ROOM_FOR_PERCENT else 6.5,
            linespacing=1.4,
        )
    names = [shown(name, _LONGEST_NAME) for name in outcome.class_names]
    ticks = range(n_classes)
    size = 9 if cell >= 0.34 else 7 if cell >= _ROOM_FOR_COUNT else 5
    # A name of characters 0.08 inches wide fits beside its neighbours, or is turned.
    turned = 90 if max(map(len, names)) * 0.08 > cell else 0
    axes.set_xticks(ticks, names, fontsize=size, rotation=turned)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.tick_params(length=0)
    axes.set(
        xlim=(-0.5, n_classes - 0.5),
        ylim=(n_classes - 0.5, -0.5),
        aspect="equal",
        xlabel="answer",
        ylabel="true class",
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)


def _cell_side(n_classes: int) -> float:
    return next(side for most, side in _CELL_SIDES if n_classes <= most)


def _cell_text(count: int, share: float, cell: float) -> str:
    if cell < _ROOM_FOR_COUNT:
        return ""
    return f"{count:,}\n{100 * share:.1f} %" if cell >= _ROOM_FOR_PERCENT else str(count)


def _in_words(outcome: Outcome) -> str:
    counts = confusion_counts(outcome)
    words = (
        f"Confusion matrix of {shown(outcome.label)}: {int(np.trace(counts)):,} of "
        f"{count_text(int(counts.sum()), 'image')} right"
    )
    wrong = counts - np.diag(np.diag(counts))
    if not wrong.any():
        return words
    true, answer = np.unravel_index(wrong.argmax(), wrong.shape)
    names = [shown(name) for name in outcome.class_names]
    return f"{words}; most often {names[true]} taken for {names[answer]}, {wrong[true, answer]:,}"
