"""Accuracy against the number of labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.compare.learning_curve import HeadCurve, LearningCurve
from featurestore.compare.sentences import count_text
from featurestore.report.figures import (
    Figure,
    FixedLocator,
    FuncFormatter,
    NullLocator,
    Picture,
    line_look,
    spread_out,
    write_picture,
)
from featurestore.report.text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_NAME = 28
_LINE_INCHES, _FRAME_INCHES = 0.19, 1.2


def draw_learning_curve(curve: LearningCurve, path: Path) -> None:
    """Write one line a head with its 95 % interval as a band and each seed as a dot, PNG or SVG.

    Raises
    ------
    InvalidInput
        `path` cannot be written, or its name ends in neither.
    """
    write_picture(learning_curve_picture(curve), path)


def learning_curve_picture(curve: LearningCurve) -> Picture:
    """Return the picture of `draw_learning_curve`."""

    def paint(figure: Figure) -> None:
        learning_curve_onto(figure.subplots(), curve)

    words = "; ".join(f"{shown(each.label)}: {shown(each.sentence)}" for each in curve.curves)
    return Picture((7.2, _height_inches(curve)), f"Learning curve. {words}", paint)


def learning_curve_onto(axes: Axes, curve: LearningCurve) -> None:
    """Draw the heads' lines over a logarithmic axis of labels, named at their right ends."""
    drawn = [each for each in curve.curves if each.points]
    for number, each in enumerate(drawn):
        _head_onto(axes, each, number)
    sizes = sorted({point.labels for each in drawn for point in each.points})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_roomy(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set(xlabel="labelled images (logarithmic)", ylabel="accuracy")
    axes.set_title(
        f"Accuracy on {count_text(curve.rows, 'image')} ({curve.split});\n"
        "band: 95 % interval, dots: seeds"
    )
    axes.grid(True)
    _name_ends(axes, drawn, inches=_height_inches(curve) - _FRAME_INCHES)


def _head_onto(axes: Axes, each: HeadCurve, number: int) -> None:
    colour, dashes = line_look(number)
    means = [(p.labels, p.accuracy.value) for p in each.points if p.accuracy.value is not None]
    axes.plot(
        [labels for labels, _ in means],
        [value for _, value in means],
        color=colour,
        linestyle=dashes,
        linewidth=2,
        marker="o",
        markersize=4.5,
    )
    bounds = [(p.labels, p.accuracy.interval) for p in each.points if p.accuracy.interval]
    axes.fill_between(
        [labels for labels, _ in bounds],
        [bound.low for _, bound in bounds],
        [bound.high for _, bound in bounds],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )
    for point in each.points:
        seeds = len(point.by_seed)
        axes.plot([point.labels] * seeds, point.by_seed, ".", color=colour, alpha=0.4, markersize=5)


def _roomy(sizes: Sequence[int]) -> list[int]:
    """Keep of ascending sizes those whose labels do not run into each other, with the last."""
    kept: list[int] = []
    for size in reversed(sizes):
        if not kept or size <= kept[-1] / 1.35:
            kept.append(size)
    return kept[::-1]


def _height_inches(curve: LearningCurve) -> float:
    return max(4.2, _FRAME_INCHES + _LINE_INCHES * len(curve.curves))


def _name_ends(axes: Axes, drawn: Sequence[HeadCurve], *, inches: float) -> None:
    """Write each head's name beside its last point, apart; the axes are `inches` high."""
    ends = [each.points[-1].accuracy.value or 0.0 for each in drawn]
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    places = spread_out(ends, least=_LINE_INCHES * (high - low) / inches)
    for number, (each, end, place) in enumerate(zip(drawn, ends, places, strict=True)):
        colour, _ = line_look(number)
        axes.annotate(
            shown(each.label, _LONGEST_NAME),
            (each.points[-1].labels, end),
            xytext=(1.02, place),
            textcoords=("axes fraction", "data"),
            va="center",
            color=colour,
            fontsize=9,
            fontweight="bold",
            annotation_clip=False,
        )
