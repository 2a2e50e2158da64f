"""`fs runs`, `rm`, and what `fs show` prints of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from featurestore.errors import IntegrityError
from featurestore.manifest import SPLITS
from featurestore.training.checkpoints import Unfinished, find_unfinished
from featurestore.training.methods import (
    CACHED,
    path_text,
    pixels_text,
    trained_weights,
    weights_text,
)
from featurestore.training.run_list import (
    NEWEST,
    SORT_KEYS,
    SORT_METRICS,
    is_on,
    model_bytes,
    settings_text,
    sorted_runs,
    told_settings,
)
from featurestore.training.run_record import PATHS
from featurestore.training.runs import Run, read_runs
from featurestore_cli.options import cache_option, json_option
from featurestore_cli.output import (
    bytes_text,
    print_fields,
    print_json,
    print_line,
    print_table,
    say,
    say_error,
    seconds_text,
)


@click.command()
@click.option(
    "--sort",
    type=click.Choice(SORT_KEYS),
    default=NEWEST,
    show_default=True,
    help="Best, fastest, smallest or newest first; metrics are those of --split.",
)
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--head", help="Runs of this head only.")
@click.option(
    "--path", "path_taken", type=click.Choice(PATHS), help="Runs that took this path only."
)
@click.option(
    "--on", metavar="PREFIX", help="Runs on feature sets whose name or fingerprint so starts."
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="validation",
    show_default=True,
    help="Whose metrics to sort by. To choose a run by test makes its test score too good.",
)
@cache_option
@json_option
def runs(
    cache: Path,
    *,
    sort: str,
    reverse: bool,
    head: str | None,
    path_taken: str | None,
    on: str | None,
    split: str,
    as_json: bool,
) -> int:
    """List the runs of a cache.

    Metrics to sort by are those of the validation split, unless --split says otherwise; accuracies
    on validation and test are both shown.

    Trainings that have not ended, under way or stopped, are told on stderr. A run that cannot be
    read is told there too, and the exit code is then 5 (6 for one that a newer
    version wrote).
    """
    found = read_runs(cache)
    chosen = [
        run
        for run in found.runs
        if head in (None, run.head) and path_taken in (None, run.path_taken) and is_on(run, on)
    ]
    chosen = sorted_runs(chosen, sort, split=split, reverse=reverse)
    if sort in SORT_METRICS and split == "test":
        say(
            "note: sorted by the test split: the run that is chosen so scores better on it than it "
            "will elsewhere; choose by --split validation, and compare on test once"
        )
    unfinished = find_unfinished(cache)
    if as_json:
        print_json(
            {
                "runs": [_summary(run) for run in chosen],
                "unfinished_trainings": [_unfinished_fields(each) for each in unfinished],
            }
        )
    elif chosen:
        _print_runs(chosen, split)
    elif found.runs:
        say(f"none of the {len(found.runs)} runs in {cache} is of that head, path and feature set")
    elif not found.problems:
        say(f"no run in {cache}; next: fs train NAME --head logistic")
    for training in unfinished:
        say(_unfinished_text(training))
    for problem in found.problems:
        say_error(problem)
    return min((problem.exit_code for problem in found.problems), default=0)


def _print_runs(found: list[Run], split: str) -> None:
    accuracies = [name for name in SPLITS if name != "train" or split == "train"]
    numbers = [*accuracies, f"{split} loss", "fit", "model"]
    # Heads on cached features are what most caches hold: the column would say nothing there.
    several = any(run.path_taken != CACHED or run.augmentation is not None for run in found)
    print_table(
        [
            *("run", "feature set", *(["path"] if several else []), "head", "settings", "seed"),
            *(*numbers, "created", ""),
        ],
        [
            [
                run.id,
                f"{run.features.name.partition('/')[0]} {run.features.fingerprint[:8]}",
                *([path_text(run)] if several else []),
                run.head,
                settings_text(told_settings(run)),
                run.seed,
                *(_metric_text(run, name, "accuracy") for name in accuracies),
                _metric_text(run, split, "log_loss"),
                seconds_text(run.seconds["fit"]),
                _size_text(run),
                run.created[:16].replace("T", " "),
                "control" if run.shuffled_labels else "",
            ]
            for run in found
        ],
        right=["seed", *numbers],
        whole=["run"],
    )


def _metric_text(run: Run, split: str, metric: str) -> str:
    value = (run.metrics.get(split) or {}).get(metric)
    return "-" if value is None else f"{value:.4f}"


def _size_text(run: Run) -> str:
    size = model_bytes(run)
    return "gone" if size is None else bytes_text(size)


def _unfinished_fields(training: Unfinished) -> dict[str, object]:
    names = ("path_taken", "feature_set", "started_from", "epoch", "under_way")
    return {name: getattr(training, name) for name in names}


def _unfinished_text(training: Unfinished) -> str:
    what = [training.path_taken or "of an unknown path"]
    if training.feature_set is not None:
        what.append(f"on {training.feature_set}")
    if training.started_from is not None:
        what.append(f"from {training.started_from}")
    state = "under way" if training.under_way else "stopped: its command goes on from there"
    return f"unfinished training: {' '.join(what)}, epoch {training.epoch}, {state}"


def _summary(run: Run) -> dict[str, object]:
    return {
        "run": run.id,
        "path": str(run.path),
        "created": run.created,
        "feature_set": run.features.name,
        "fingerprint": run.features.fingerprint,
        "head": run.head,
        "settings": run.settings.to_dict(),
        "changed_settings": run.changed_settings(),
        "seed": run.seed,
        "shuffled_labels": run.shuffled_labels,
        "path_taken": run.path_taken,
        "augmentation": run.augmentation,
        "started_from": run.started_from,
        "parameters": dict(run.parameters),
        "trained_weights": trained_weights(run),
        "metrics": dict(run.metrics),
        "fit_seconds": run.seconds["fit"],
        "predict_seconds_per_row": run.seconds.get("predict_per_row"),
        "model_bytes": model_bytes(run),
    }


def show_run(run: Run, *, as_json: bool) -> int:
    """Print everything that a run holds; files that are not as written are errors, exit code 5."""
    damages = run.damages()
    files = {name: _file_fields(run.path / name, digest) for name, digest in run.files.items()}
    for name, problem in damages.items():
        files[name]["problem"] = problem
    if as_json:
        print_json(run.to_dict() | {"kind": "run", "path": str(run.path), "files": files})
    else:
        _print_run(run, files)
    for problem in damages.values():
        say(f"error: {problem}")
    if damages:
        say(f"  next: fs rm {run.id}, and train it again")
    return IntegrityError.exit_code if damages else 0


def _file_fields(path: Path, digest: str) -> dict[str, object]:
    try:
        size: int | None = path.stat().st_size
    except OSError:
        size = None
    return {"sha256": digest, "bytes": size}


def _print_run(run: Run, files: Mapping[str, Mapping[str, object]]) -> None:
    features = run.features
    print_line(run.id)
    weights = weights_text(run)
    control = [("  control", "the labels of the training rows were shuffled")]
    print_fields(
        [
            ("  head", run.head),
            ("  path taken", path_text(run)),
            *([("  started from", run.started_from)] if run.started_from else []),
            *([] if weights is None else [("  weights trained", weights)]),
            ("  seed", run.seed),
            *(control if run.shuffled_labels else []),
            ("  created", run.created),
            ("  folder", run.path),
            ("  fit", _fit_text(run.seconds["fit"])),
            *_timings(run.seconds),
        ]
    )
    print_line(f"images: {pixels_text(run)}")
    changed = run.changed_settings()
    _section(
        "settings",
        {
            name: f"{_value_text(value)}{'' if name in changed else ' (default)'}"
            for name, value in run.settings.to_dict().items()
        },
    )
    _section("augmentation", run.augmentation or {})
    _section("parameters", {name: f"{count:,}" for name, count in run.parameters.items()})
    _section("chosen by the fit", run.chosen)
    _print_metrics(run)
    _print_history(run.history)
    _section(
        "feature set",
        {
            "name": features.name,
            "fingerprint": features.fingerprint,
            "manifest": features.manifest_fingerprint,
            "recipe": features.recipe_fingerprint,
            "classes": f"{len(features.class_names)}: {', '.join(features.class_names[:10])}"
            + (" …" if len(features.class_names) > 10 else ""),
            "one row": features.feature_shape,
        },
    )
    _section("recipe", features.recipe)
    _section("versions", run.versions)
    print_line("files:")
    for name, fields in files.items():
        size = fields["bytes"]
        shown = bytes_text(size) if isinstance(size, int) else "gone"
        flag = "  NOT AS WRITTEN" if "problem" in fields else ""
        print_line(f"  {name.ljust(27)} {shown.rjust(10)}  sha256 {fields['sha256']}{flag}")
    print_line(f"notes: {'none' if not run.notes else ''}".rstrip())
    for note in run.notes:
        print_line(f"  {note}")


def _fit_text(seconds: float) -> str:
    """Return seconds, and what they are in minutes or hours where they are many."""
    exact, text = f"{seconds:.2f} s", seconds_text(seconds)
    return exact if text.endswith(" s") else f"{exact} ({text})"


def _timings(seconds: Mapping[str, float]) -> list[tuple[str, object]]:
    shown: list[tuple[str, object]] = []
    if "total" in seconds:
        shown.append(("  fit and evaluation", _fit_text(seconds["total"])))
    if "predict_per_row" in seconds:
        shown.append(
            ("  prediction", f"{seconds['predict_per_row'] * 1e6:.1f} µs an image, from features")
        )
    return shown


def _print_metrics(run: Run) -> None:
    known = {split: found for split, found in run.metrics.items() if found is not None}
    names = list(dict.fromkeys(name for found in known.values() for name in found))
    texts = [name.replace("_", " ") for name in names]
    print_table(
        ["split", "rows", *texts],
        [
            [split, run.features.rows[split], *(_metric_text(run, split, name) for name in names)]
            for split in known
        ],
        right=["rows", *texts],
    )


def _print_history(history: Mapping[str, list[float]]) -> None:
    if not history:
        return
    epochs = max(len(curve) for curve in history.values())
    print_line(f"history: {epochs} epochs")
    for name, curve in history.items():
        best = (max if name.endswith("accuracy") else min)(curve)
        print_line(
            f"  {name.ljust(20)} {curve[0]:.4f} to {curve[-1]:.4f}, "
            f"best {best:.4f} in epoch {curve.index(best) + 1}"
        )


def _section(title: str, fields: Mapping[str, object]) -> None:
    if not fields:
        return
    print_line(f"{title}:")
    width = max(map(len, fields))
    for name, value in fields.items():
        print_line(f"  {name.ljust(width)}  {_value_text(value)}")


def _value_text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple) and all(isinstance(item, int) for item in value):
        return " x ".join(map(str, value))
    if isinstance(value, list | tuple | dict):
        return json.dumps(value)
    return "-" if value is None else str(value)


@click.command()
@click.argument("wanted", metavar="RUN...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="List what would be removed; remove nothing.")
@cache_option
@json_option
def rm(wanted: tuple[str, ...], cache: Path, *, dry_run: bool, as_json: bool) -> None:
    """Remove runs, named by id or by the unique start of one.

    The features that they were trained on stay. A superseded version of a feature set that no other
    run was trained on may then be removed by fs gc.
    """
    from featurestore.collect import find_removals, freed_versions, remove_runs

    removals = find_removals(wanted, cache=cache)
    versions = freed_versions(cache, removals)
    if not dry_run:
        remove_runs(removals)
    freed = sum(run.size_bytes for run in removals)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "bytes": freed,
                "removed": [
                    {"run": run.id, "path": str(run.path), "bytes": run.size_bytes}
                    for run in removals
                ],
                "collectable": [
                    {"feature_set": each.name, "fingerprint": each.fingerprint,
                     "path": str(each.store), "bytes": each.stored_bytes}
                    for each in versions
                ],
            }
        )  # fmt: skip
        return
    verb = "would remove" if dry_run else "removed"
    for run in removals:
        print_line(f"{verb} run {run.id} ({bytes_text(run.size_bytes)})")
    print_line(f"{bytes_text(freed)} {'would be freed' if dry_run else 'freed'}")
    for record in versions:
        size = bytes_text(record.stored_bytes)
        say(
            f"no run needs {record.name} {record.fingerprint[:8]} ({size}) then: a superseded "
            "version; next: fs gc"
        )
