"""How well each class is ranked above the others: true against false positive rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import InvalidInput
from featurestore.report.figures import (
    MUTED,
    PAPER,
    Figure,
    Picture,
    legend_below,
    line_look,
    plain_share,
    write_picture,
)
from featurestore.report.outcomes import Outcome, RocCurve, mean_curve, roc_curves
from featurestore.report.text import shown

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_NAMED_CLASSES = 10
# Above this area all curves crowd into one corner, which is then shown larger where none runs.
_CROWDED_AREA = 0.93
_CORNER = 0.2


def draw_roc(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the ROC curve of each outcome, with its area, as PNG or SVG.

    With more than two classes a curve is the mean of each class against the rest; of one outcome,
    the curves of its classes are drawn too.

    Raises
    ------
    InvalidInput
        The rows are all of one class; `path` cannot be written, or its name ends in neither.
    """
    write_picture(roc_picture(outcomes), path)


def roc_picture(outcomes: Sequence[Outcome], *, width_inches: float = 4.8) -> Picture:
    """Return the picture of `draw_roc`.

    Raises
    ------
    InvalidInput
        The rows are all of one class.
    """
    curves = _drawn(outcomes)
    lines = min(len(curves), max(len(outcomes), 1 + _NAMED_CLASSES))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        handles = roc_onto(axes, curves, main=len(outcomes))
        if min(curve.area for curve in curves[: len(outcomes)]) > _CROWDED_AREA:
            _corner_onto(axes, curves, main=len(outcomes))
        legend_below(figure, handles[:lines], [_named(curve) for curve in curves[:lines]])

    words = "; ".join(_named(curve) for curve in curves[:lines])
    return Picture((width_inches, width_inches + 0.3 + 0.19 * lines), f"ROC curves: {words}", paint)


def roc_onto(axes: Axes, curves: Sequence[RocCurve], *, main: int) -> list[Artist]:
    """Draw curves and return their lines: the `main` first strong, those past ten faint."""
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    handles = _lines_onto(axes, curves, main=main)
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    plain_share(axes)
    return handles


def _corner_onto(axes: Axes, curves: Sequence[RocCurve], *, main: int) -> None:
    corner = axes.inset_axes((0.4, 0.1, 0.56, 0.56), facecolor=PAPER)
    _lines_onto(corner, curves, main=main)
    corner.set(xlim=(-0.004, _CORNER), ylim=(1 - _CORNER, 1.004))
    corner.set_xticks([0, _CORNER / 2, _CORNER])
    corner.set_yticks([1 - _CORNER, 1 - _CORNER / 2, 1])
    corner.tick_params(labelsize=7.5)
    corner.set_title("upper left corner", fontsize=8, pad=3)
    corner.grid(True)


def _lines_onto(axes: Axes, curves: Sequence[RocCurve], *, main: int) -> list[Artist]:
    handles: list[Artist] = []
    for number, curve in enumerate(curves):
        named = number < max(main, 1 + _NAMED_CLASSES)
        colour, dashes = line_look(number) if named else (MUTED, "-")
        (line,) = axes.plot(
            curve.false_positive,
            curve.true_positive,
            linewidth=2 if number < main else 1.2 if named else 0.6,
            alpha=1 if named else 0.5,
            zorder=3 if number < main else 2,
            color=colour,
            linestyle=dashes,
        )
        handles.append(line)
    return handles


def _drawn(outcomes: Sequence[Outcome]) -> list[RocCurve]:
    """Return the curves of a picture: one an outcome; of one with many classes, these as well."""
    main: list[RocCurve] = []
    classes: list[RocCurve] = []
    for outcome in outcomes:
        found = roc_curves(outcome)
        n_classes = len(outcome.class_names)
        if not found:
            raise InvalidInput(
                "ROC curve: expected rows of at least two classes, found one",
                next_step="draw another split: --split",
            )
        if n_classes == 2:
            main.append(dataclasses.replace(found[0], title=outcome.label))
            continue
        lacking = "" if len(found) == n_classes else f" that have rows, of {n_classes}"
        title = f"{outcome.label}, mean of {len(found)} classes{lacking}"
        main.append(mean_curve(found, title=title))
        classes = sorted(found, key=lambda curve: curve.area)
    return [*main, *classes] if len(outcomes) == 1 else main


def _named(curve: RocCurve) -> str:
    return f"{shown(curve.title, 48)}: AUC {curve.area:.4f}"
