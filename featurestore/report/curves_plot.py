"""Accuracy and loss of a run, epoch by epoch: training against validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.compare.sentences import count_text
from featurestore.errors import InvalidInput
from featurestore.report.figures import (
    MUTED,
    PALETTE,
    Figure,
    Line2D,
    MaxNLocator,
    Picture,
    legend_below,
    write_picture,
)
from featurestore.report.text import shown
from featurestore.training.methods import seeded_labels
from featurestore.training.runs import Run

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

SMOOTH = 0.8
_COLOURS = {"train": PALETTE[0], "validation": PALETTE[1]}
_MOST_RUNS = 12


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Return s_i = a s_(i-1) + (1 - a) x_i with s_0 = x_0, a the weight of what came before."""
    line: list[float] = []
    for value in values:
        line.append(weight * line[-1] + (1 - weight) * value if line else value)
    return line


def draw_curves(runs: Sequence[Run], path: Path, *, smooth: float = SMOOTH) -> None:
    """Write the curves of one run or a few, a row of two panels each, as PNG or SVG.

    Raises
    ------
    InvalidInput
        A run has no epochs, there are more than 12 runs, `smooth` is not in [0, 1), or `path`
        cannot be written.
    """
    write_picture(curves_picture(runs, smooth=smooth), path)


def curves_picture(
    runs: Sequence[Run], *, smooth: float = SMOOTH, width_inches: float = 8.0
) -> Picture:
    """Return the picture of `draw_curves`.

    Raises
    ------
    InvalidInput
        As `draw_curves`, but for the path.
    """
    if not 0 <= smooth < 1:
        raise InvalidInput(f"smoothing: expected at least 0 and less than 1, found {smooth}")
    if len(runs) > _MOST_RUNS:
        raise InvalidInput(f"curves: expected at most {_MOST_RUNS} runs, found {len(runs)}")
    for run in runs:
        if not run.history:
            raise InvalidInput(
                f"run {run.id} has no curves: head {run.head} has no epochs",
                next_step="draw a run of a head with epochs, such as dense: fs runs",
            )
    labels = seeded_labels(runs)
    several = len(runs) > 1

    def paint(figure: Figure) -> None:
        grid = figure.subplots(len(runs), 2, squeeze=False, sharex="row")
        for (accuracy, loss), run, label in zip(grid, runs, labels, strict=True):
            curves_onto(accuracy, run, what="accuracy", smooth=smooth)
            curves_onto(loss, run, what="loss", smooth=smooth)
            if several:
                accuracy.set_title(shown(label, 40))
        handles: list[Artist] = [
            Line2D([], [], color=colour, linewidth=2) for colour in _COLOURS.values()
        ]
        names = list(_COLOURS)
        if smooth:
            handles.append(Line2D([], [], color=MUTED, marker="o", markersize=3, linestyle="none"))
            names.append(f"each epoch (lines: smoothed, a = {smooth:g})")
        legend_below(figure, handles, names)

    size = (width_inches, (2.5 if several else 3.0) * len(runs) + 0.4)
    return Picture(size, "; ".join(map(_in_words, runs, labels)), paint)


def curves_onto(axes: Axes, run: Run, *, what: str, smooth: float = SMOOTH) -> None:
    """Draw one of ``accuracy`` and ``loss``: raw points faint under the smoothed lines."""
    for split, colour in _COLOURS.items():
        values = run.history.get(f"{split}_{what}")
        if values is None:
            continue
        epochs = range(1, len(values) + 1)
        if smooth:
            axes.plot(epochs, values, ".", color=colour, alpha=0.35, markersize=5)
        # One epoch makes no line.
        marker = "o" if len(values) == 1 else ""
        axes.plot(epochs, smoothed(values, smooth), color=colour, linewidth=2, marker=marker)
    kept = _kept_epoch(run)
    if kept is not None:
        axes.axvline(kept, color=MUTED, linewidth=1, linestyle="--")
        axes.annotate(
            f"kept: epoch {kept}",
            (kept, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            color=MUTED,
            fontsize=8,
        )
    epochs_done = max(map(len, run.history.values()))
    axes.set(xlabel="epoch", ylabel=what, xlim=(0.5 - 0.02 * epochs_done, 1.02 * epochs_done + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.grid(True, axis="y")


def _kept_epoch(run: Run) -> int | None:
    epoch = run.chosen.get("epoch")
    return epoch if isinstance(epoch, int) else None


def _in_words(run: Run, label: str) -> str:
    epochs = max(map(len, run.history.values()))
    ends = ", ".join(
        f"{name.replace('_', ' ')} {values[-1]:.3f}" for name, values in run.history.items()
    )
    return f"Curves of {shown(label)} over {count_text(epochs, 'epoch')}; at the last: {ends}"
