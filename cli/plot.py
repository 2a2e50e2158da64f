"""`fs plot`: pictures of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from featurestore_cli.options import cache_option
from featurestore_cli.output import say

if TYPE_CHECKING:
    from featurestore.report.outcomes import Outcome
    from featurestore.training.runs import Run

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def plot() -> None:
    """Draw runs as FILE, PNG or SVG by its ending.

    A comparison is drawn by `fs compare --plot FILE`, a learning curve by `fs learning-curve`.
    """


def _runs_and_file(command: Command) -> Command:
    file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
    return click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)(file(command))


def _split_option(command: Command) -> Command:
    return click.option(
        "--split",
        type=click.Choice(["train", "validation", "test"]),
        default="test",
        show_default=True,
        help="The split whose recorded probabilities are drawn.",
    )(command)


@plot.command()
@_runs_and_file
@click.option(
    "--smooth",
    type=click.FLOAT,
    default=0.8,
    show_default=True,
    metavar="A",
    help="s_i = A s_(i-1) + (1 - A) x_i; 0 for none.",
)
@cache_option
def curves(run_ids: Sequence[str], file: Path, cache: Path, *, smooth: float) -> None:
    """Draw accuracy and loss by epoch."""
    from featurestore.report.curves_plot import draw_curves

    draw_curves(_find(run_ids, cache, file), file, smooth=smooth)
    say(f"wrote {file}")


@plot.command()
@_runs_and_file
@_split_option
@cache_option
def confusion(run_ids: Sequence[str], file: Path, cache: Path, *, split: str) -> None:
    """Draw which class is taken for which.

    Cells show counts and percent of the true class.
    """
    from featurestore.report.confusion_plot import draw_confusion

    draw_confusion(_outcomes(run_ids, cache, file, split=split), file)
    say(f"wrote {file}")


@plot.command()
@_runs_and_file
@_split_option
@cache_option
def roc(run_ids: Sequence[str], file: Path, cache: Path, *, split: str) -> None:
    """Draw true against false positive rate.

    The legend has the area below. With more than two classes, the mean of each against the rest
    is drawn; of one run, each class too.
    """
    from featurestore.report.roc_plot import draw_roc

    draw_roc(_outcomes(run_ids, cache, file, split=split), file)
    say(f"wrote {file}")


@plot.command()
@_runs_and_file
@_split_option
@cache_option
def reliability(run_ids: Sequence[str], file: Path, cache: Path, *, split: str) -> None:
    """Draw accuracy against confidence.

    In 15 bins, with their counts and the expected calibration error.
    """
    from featurestore.report.reliability_plot import draw_reliability

    draw_reliability(_outcomes(run_ids, cache, file, split=split), file)
    say(f"wrote {file}")


def _find(run_ids: Sequence[str], cache: Path, file: Path) -> list[Run]:
    from featurestore.report.files import check_picture_path
    from featurestore.training.runs import find_run

    check_picture_path(file)  # `fs plot roc RUN RUN`, without a file: said before runs are sought
    found = [find_run(wanted, cache=cache) for wanted in run_ids]
    return list({run.id: run for run in found}.values())


def _outcomes(run_ids: Sequence[str], cache: Path, file: Path, *, split: str) -> list[Outcome]:
    from featurestore.report.outcomes import outcomes_of_runs

    return outcomes_of_runs(_find(run_ids, cache, file), split)
