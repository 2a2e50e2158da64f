"""`fs train`: a classifier on cached features, in seconds."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import click

from featurestore.features import open_features
from featurestore.training.contract import NotConverged, Progress
from featurestore.training.heads import HEADS, build_settings, setting_names
from featurestore.training.runs import Run
from featurestore.training.settings import CLASS_WEIGHTS, OPTIMIZERS
from featurestore.training.train import TrainOptions
from featurestore.training.train import train as train_head
from featurestore_cli.options import BytesType, cache_option, json_option
from featurestore_cli.output import print_fields, print_json, print_table, say


def _head_option(*names: str, type: click.ParamType, help: str) -> Any:
    """Return the option for one setting, which several heads may have.

    Not given, it is left to the head's default; both are told in its help.
    """
    field = names[0].lstrip("-").replace("-", "_").lower()
    heads = {head: build_settings(head, {}) for head in HEADS if field in setting_names(head)}
    defaults = {head: _default_text(getattr(settings, field)) for head, settings in heads.items()}
    same = len(set(defaults.values())) == 1
    shown = next(iter(defaults.values())) if same else ", ".join(map(": ".join, defaults.items()))
    return click.option(
        *names, field, type=type, help=f"{', '.join(heads)}: {help}", show_default=shown
    )


def _default_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


@click.command()
@click.argument("name")
@click.option("--head", type=click.Choice(list(HEADS)), required=True, help="Kind of classifier.")
@_head_option("--units", type=click.IntRange(1), help="width of the hidden layer.")
@_head_option("--dropout", type=click.FLOAT, help="share of hidden units left out.")
@_head_option("--epochs", type=click.IntRange(1), help="passes over the rows.")
@_head_option("--batch-size", type=click.IntRange(1), help="rows of one step.")
@_head_option("--optimizer", type=click.Choice(OPTIMIZERS), help="rule of a step.")
@_head_option("--learning-rate", type=click.FLOAT, help="step size.")
@click.option(
    "--early-stopping",
    "patience",
    type=click.IntRange(1),
    metavar="PATIENCE",
    help="dense: end once so many epochs have not lowered the validation loss; keep the best one.",
)
@_head_option(
    "--class-weight",
    type=click.Choice(CLASS_WEIGHTS),
    help="balanced lets every class count as much, however many rows it has.",
)
@click.option(
    "--raw",
    "scaled",
    flag_value=False,
    default=None,
    help="dense: do not divide the features by their root mean square.",
)
@_head_option(
    "--C",
    type=click.FLOAT,
    help="weight of the data against the penalty, for features scaled to a total variance of 1.",
)
@click.option(
    "--tune",
    flag_value=True,
    default=None,
    help="logistic: choose C among ten values by cross-validation on the training split.",
)
@_head_option("--folds", type=click.IntRange(2), help="parts of the cross-validation of --tune.")
@click.option(
    "--standardise",
    flag_value=True,
    default=None,
    help="logistic: give every column zero mean and unit variance first.",
)
@_head_option("--max-iter", type=click.IntRange(1), help="most iterations.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of initial weights and shuffles.",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=BytesType(),
    default="4GiB",
    show_default=True,
    help="Most that rows may take in memory while fitting.",
)
@click.option(
    "--shuffle-labels",
    is_flag=True,
    help="A control: permute the training labels by the seed; scores must be those of chance.",
)
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write event files for TensorBoard to DIRECTORY/<run-id>, each epoch as it ends.",
)
@cache_option
@json_option
def train(
    name: str,
    cache: Path,
    *,
    head: str,
    seed: int,
    memory_bytes: int,
    shuffle_labels: bool,
    tensorboard: Path | None,
    as_json: bool,
    **options: float | int | None,
) -> None:
    """Train a classifier on the feature set NAME and record it as a run.

    The test split is read once, after the fit. Options named for one head are refused with another.
    """
    given = {option: value for option, value in options.items() if value is not None}
    foreign = [option for option in given if option not in setting_names(head)]
    if tensorboard is not None and "epochs" not in setting_names(head):
        foreign.append("tensorboard")
    if foreign:
        flags = {flag.name: flag.opts[0] for flag in train.params}
        shown = ", ".join(flags[option] for option in foreign)
        raise click.UsageError(f"{shown}: not an option of --head {head}")
    if "c" in given and "tune" in given:
        raise click.UsageError("--C: not together with --tune, which chooses it")
    if "folds" in given and "tune" not in given:
        raise click.UsageError("--folds: only with --tune")
    settings = build_settings(head, given)
    with (
        open_features(name, cache=cache) as features,
        _progress() as progress,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", NotConverged)  # said below, from the run's notes
        run = train_head(
            features,
            settings,
            cache=cache,
            options=TrainOptions(
                seed=seed,
                memory_bytes=memory_bytes,
                shuffle_labels=shuffle_labels,
                progress=progress,
                tensorboard=tensorboard,
            ),
        )
    for note in run.notes:
        say(f"note: {note}")
    if as_json:
        print_json(_fields(run))
    else:
        _print(run)


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """Tell of each epoch on a terminal, on one line that goes when training ends."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(done: int, total: int, numbers: Mapping[str, float]) -> None:
        click.echo(f"\r\x1b[K{_epoch_text(done, total, numbers)}", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def _epoch_text(done: int, total: int, numbers: Mapping[str, float]) -> str:
    text = f"epoch {done} of {total}"
    if "train_loss" in numbers:
        text += f": loss {numbers['train_loss']:.4f}, accuracy {numbers['train_accuracy']:.4f}"
    if "validation_loss" in numbers:
        loss, accuracy = numbers["validation_loss"], numbers["validation_accuracy"]
        text += f"; validation {loss:.4f}, {accuracy:.4f}"
    return text[: shutil.get_terminal_size().columns - 1]  # a second line would stay


def _fields(run: Run) -> dict[str, object]:
    return {
        "run": run.id,
        "path": str(run.path),
        "feature_set": run.features.name,
        "fingerprint": run.features.fingerprint,
        "head": run.head,
        "settings": run.settings.to_dict(),
        "seed": run.seed,
        "shuffled_labels": run.shuffled_labels,
        "metrics": dict(run.metrics),
        "chosen": dict(run.chosen),
        "fit_seconds": run.seconds["fit"],
        "notes": list(run.notes),
    }


def _chosen(run: Run) -> list[tuple[str, object]]:
    """Return one line of the single numbers that the fit chose, if it chose any."""
    numbers = [f"{name} {value:g}" for name, value in run.chosen.items() if _is_number(value)]
    return [("chosen", ", ".join(numbers))] if numbers else []


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float)


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
            *_chosen(run),
            ("fit", f"{run.seconds['fit']:.1f} s"),
            ("run", run.path),
        ]
    )
    other = next(head for head in HEADS if head != run.head)
    say(f"next: fs train {run.features.name} --head {other}")
