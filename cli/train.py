"""`fs train`: a classifier on cached features, in seconds."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from featurestore.features import open_features
from featurestore.training.contract import NotConverged, Progress
from featurestore.training.heads import HEADS, build_settings, setting_names
from featurestore.training.runs import Run
from featurestore.training.train import train as train_head
from featurestore_cli.options import cache_option, json_option
from featurestore_cli.output import print_fields, print_json, print_table, say


def _head_option(head: str, *names: str, type: click.ParamType, help: str) -> Any:
    """Return the option for one setting of one head; not given means the setting's default."""
    field = names[0].lstrip("-").replace("-", "_").lower()
    default = getattr(build_settings(head, {}), field)
    return click.option(
        *names, field, type=type, help=f"{head}: {help}", show_default=f"{default:g}"
    )


@click.command()
@click.argument("name")
@click.option("--head", type=click.Choice(list(HEADS)), required=True, help="Kind of classifier.")
@_head_option("dense", "--units", type=click.IntRange(1), help="width of the hidden layer.")
@_head_option("dense", "--dropout", type=click.FLOAT, help="share of hidden units left out.")
@_head_option("dense", "--epochs", type=click.IntRange(1), help="passes over the rows.")
@_head_option("dense", "--batch-size", type=click.IntRange(1), help="rows of one step.")
@_head_option("dense", "--learning-rate", type=click.FLOAT, help="step size of RMSprop.")
@click.option(
    "--raw",
    "scaled",
    flag_value=False,
    default=None,
    help="dense: do not divide the features by their root mean square.",
)
@_head_option(
    "logistic",
    "--C",
    type=click.FLOAT,
    help="weight of the data against the penalty, for features scaled to a total variance of 1.",
)
@_head_option("logistic", "--max-iter", type=click.IntRange(1), help="most iterations.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of initial weights and shuffles.",
)
@cache_option
@json_option
def train(
    name: str, cache: Path, *, head: str, seed: int, as_json: bool, **options: float | int | None
) -> None:
    """Train a classifier on the feature set NAME and record it as a run.

    The test split is read once, after the fit. Options named for one head are refused with another.
    """
    given = {option: value for option, value in options.items() if value is not None}
    foreign = [option for option in given if option not in setting_names(head)]
    if foreign:
        flags = {flag.name: flag.opts[0] for flag in train.params}
        shown = ", ".join(flags[option] for option in foreign)
        raise click.UsageError(f"{shown}: not an option of --head {head}")
    settings = build_settings(head, given)
    with (
        open_features(name, cache=cache) as features,
        _progress() as progress,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", NotConverged)  # said below, from the run's notes
        run = train_head(features, settings, cache=cache, seed=seed, progress=progress)
    for note in run.notes:
        say(f"note: {note}")
    if as_json:
        print_json(_fields(run))
    else:
        _print(run)


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """Count epochs on a terminal, on one line that goes when training ends."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(done: int, total: int) -> None:
        click.echo(f"\repoch {done} of {total}", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def _fields(run: Run) -> dict[str, object]:
    return {
        "run": run.id,
        "path": str(run.path),
        "feature_set": run.features.name,
        "fingerprint": run.features.fingerprint,
        "head": run.head,
        "settings": run.settings.to_dict(),
        "seed": run.seed,
        "metrics": dict(run.metrics),
        "fit_seconds": run.seconds["fit"],
        "notes": list(run.notes),
    }


def _print(run: Run) -> None:
    click.echo(run.id)
    print_table(
        ["split", "rows", "accuracy", "log loss"],
        [
            (
                split,
                run.features.rows[split],
                f"{found['accuracy']:.4f}",
                f"{found['log_loss']:.4f}",
            )
            for split, found in run.metrics.items()
            if found is not None
        ],
        right=["rows", "accuracy", "log loss"],
    )
    print_fields(
        [
            ("feature set", run.features.name),
            ("fit", f"{run.seconds['fit']:.1f} s"),
            ("run", run.path),
        ]
    )
    other = next(head for head in HEADS if head != run.head)
    say(f"next: fs train {run.features.name} --head {other}")
