"""`fs learning-curve`: how many labelled images are enough, answered from the cache."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from featurestore.catalogue import Catalogue
from featurestore.compare.curve_fits import CurveOptions, Progress
from featurestore.compare.curve_fits import learning_curve as measure_curve
from featurestore.compare.learning_curve import CurvePoint, LearningCurve
from featurestore.features import open_record
from featurestore.training.contract import NotConverged
from featurestore.training.head_specs import parse_heads
from featurestore.training.views import count_views
from featurestore_cli.options import cache_option, json_option, memory_option
from featurestore_cli.output import print_json, print_line, print_table, say
from featurestore_cli.path_options import ViewsType
from featurestore_cli.progress import progress_line


class SizesType(click.ParamType):
    """`20,50,100`: numbers of rows."""

    name = "n,n,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers in the order given."""
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"expected numbers such as 20,50,100, found {value!r}", param, ctx)


@click.command("learning-curve")
@click.argument("name")
@click.option(
    "--heads",
    required=True,
    metavar="HEADS",
    help="Heads by comma, settings by colon: dense,logistic:c=10,knn.",
)
@click.option(
    "--sizes",
    type=SizesType(),
    help="Numbers of training images; default: about 8 in equal ratios, up to all.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="How often each size is drawn and fitted.",
)
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="validation",
    show_default=True,
    help="Where accuracy is measured.",
)
@click.option(
    "--views",
    type=ViewsType(),
    metavar="K|all",
    help="Train on K stored views of each image (fs embed --views); sizes count images.",
)
@memory_option(
    help="Most that rows may take in memory.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the curve: .png or .svg.",
)
@cache_option
@json_option
def learning_curve(
    name: str,
    cache: Path,
    *,
    heads: str,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure accuracy on feature set NAME against the number of labelled training images.

    Each seed draws stratified images, smaller sizes from within larger ones. The 95 % intervals
    count which images were evaluated and, with more than one seed, which were labelled. No run is
    recorded.
    """
    settings = parse_heads(heads)
    if plot is not None:  # a missing Matplotlib or another ending shows before the fits
        from featurestore.report.files import check_picture_path
        from featurestore.report.learning_curve_plot import draw_learning_curve

        check_picture_path(plot)
    record = Catalogue(cache).find(name, with_views=options["views"] is not None)
    if options["views"] is not None:
        options["views"] = count_views(record.name, record.recipe, options["views"], record=record)
    with (
        open_record(record) as features,
        _progress() as progress,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", NotConverged)  # said below, from the curve's notes
        curve = measure_curve(features, settings, CurveOptions(progress=progress, **options))
    if as_json:
        print_json(dataclasses.asdict(curve))
    else:
        _print(curve)
    _say_what_was_left_out(curve)
    if plot is not None:
        draw_learning_curve(curve, plot)
        say(f"wrote {plot}")


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """Name the fit at work on a terminal."""
    with progress_line() as line:
        if line is None:
            yield None
            return
        yield lambda done, total, text: line(f"fit {done + 1} of {total}: {text}")


def _print(curve: LearningCurve) -> None:
    print_line(f"{curve.feature_set}: accuracy on {curve.rows:,} {curve.split} images")
    print_table(
        ["head", "labels", "accuracy", "95 %", "by seed"],
        [
            [
                each.label,
                f"{point.labels:,}",
                f"{point.accuracy.value:.3f}",
                _interval(point),
                " ".join(f"{value:.3f}" for value in point.by_seed),
            ]
            for each in curve.curves
            for point in each.points
        ],
        right=["labels", "accuracy"],
    )
    if curve.majority_share is not None:
        print_line(f"always answering the most frequent class: {curve.majority_share:.3f}")
    for each in curve.curves:
        print_line(each.sentence)


def _interval(point: CurvePoint) -> str:
    found = point.accuracy.interval
    return "-" if found is None else f"{found.low:.3f} to {found.high:.3f}"


def _say_what_was_left_out(curve: LearningCurve) -> None:
    for each in curve.curves:
        for left_out in each.skipped:
            say(f"{each.label}: not fitted to {left_out.labels:,} labels: {left_out.reason}")
        for note in each.notes:
            say(f"{each.label}: note: {note}")
    for note in curve.notes:
        say(f"note: {note}")
