"""`fs train`: a classifier on cached features, in seconds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

import click

from featurestore.features import open_features
from featurestore.training.contract import NotConverged, Progress
from featurestore.training.heads import HEADS, build_settings, has_epochs, setting_names
from featurestore.training.runs import Run
from featurestore.training.train import TrainOptions
from featurestore.training.train import train as train_head
from featurestore_cli.head_options import head_option, setting_options
from featurestore_cli.options import cache_option, json_option, memory_option
from featurestore_cli.output import print_fields, print_json, print_line, print_table, say
from featurestore_cli.progress import progress_line


@click.command()
@click.argument("name")
@head_option
@setting_options
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of everything that a head draws.",
)
@memory_option(
    help="Most that rows, and what a head makes of them, may take in memory while fitting; of "
    "sklearn.module.Class only the rows and their copies are counted.",
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
    **options: object,
) -> None:
    """Train a classifier on the feature set NAME and record it as a run.

    The test split is read once, after the fit. Options named for one head are refused with another.
    """
    given = {option: value for option, value in options.items() if value is not None}
    foreign = [option for option in given if option not in setting_names(head)]
    if tensorboard is not None and not has_epochs(head):
        foreign.append("tensorboard")
    if foreign:
        flags = {flag.name: flag.opts[0] for flag in train.params}
        shown = ", ".join(flags[option] for option in foreign)
        raise click.UsageError(f"{shown}: not an option of --head {head}{_hint(head)}")
    if "c" in given and "tune" in given:
        raise click.UsageError("--C: not together with --tune, which chooses it")
    if head == "logistic" and "folds" in given and "tune" not in given:
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


def _hint(head: str) -> str:
    return ", which takes its parameters in --params" if head not in HEADS else ""


@contextmanager
def _progress() -> Iterator[Progress | None]:
    with progress_line() as show:
        yield (
            None
            if show is None
            else lambda done, total, numbers: show(_epoch_text(done, total, numbers))
        )


def _epoch_text(done: int, total: int, numbers: Mapping[str, float]) -> str:
    text = f"epoch {done} of {total}"
    if "train_loss" in numbers:
        text += f": loss {numbers['train_loss']:.4f}, accuracy {numbers['train_accuracy']:.4f}"
    if "validation_loss" in numbers:
        loss, accuracy = numbers["validation_loss"], numbers["validation_accuracy"]
        text += f"; validation {loss:.4f}, {accuracy:.4f}"
    return text


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
    print_line(run.id)
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
