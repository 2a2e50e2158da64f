"""What `fs train` prints of the run that it has written."""

from __future__ import annotations

from typing import TypeGuard

from featurestore.training.heads import HEADS
from featurestore.training.methods import ranges_text
from featurestore.training.runs import Run
from featurestore_cli.output import print_fields, print_json, print_line, print_table, say


def print_trained(run: Run, *, as_json: bool) -> None:
    """Print a run for people, or as one JSON object."""
    if as_json:
        print_json(_fields(run))
    else:
        _print(run)


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
        "path_taken": run.path_taken,
        "augmentation": None if run.augmentation is None else dict(run.augmentation),
        "started_from": run.started_from,
        "parameters": dict(run.parameters),
        "metrics": dict(run.metrics),
        "chosen": dict(run.chosen),
        "fit_seconds": run.seconds["fit"],
        "notes": list(run.notes),
    }


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
            *_path(run),
            *_chosen(run),
            ("fit", f"{run.seconds['fit']:.1f} s"),
            ("run", run.path),
        ]
    )
    say(f"next: {_next(run)}")


def _path(run: Run) -> list[tuple[str, object]]:
    """Return what a run on plain cached features has nothing to say of."""
    lines: list[tuple[str, object]] = []
    if run.path_taken != "cached":
        lines.append(("path", run.path_taken))
    if run.started_from is not None:
        lines.append(("started from", run.started_from))
    if run.augmentation is not None:
        views = run.augmentation.get("views")
        stored = "" if views is None else f"{views} views: "
        lines.append(("images", f"{stored}{ranges_text(run.augmentation)}"))
    lines += [(name.replace("_", " "), f"{count:,}") for name, count in run.parameters.items()]
    return lines


def _chosen(run: Run) -> list[tuple[str, object]]:
    """Return one line of the single numbers that the fit chose, if it chose any."""
    numbers = [f"{name} {value:g}" for name, value in run.chosen.items() if _is_number(value)]
    return [("chosen", ", ".join(numbers))] if numbers else []


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float)


def _next(run: Run) -> str:
    dataset = run.features.name.partition("/")[0]
    if run.path_taken != "cached" or run.augmentation is not None:
        return f"fs compare {dataset}"
    other = next(head for head in HEADS if head != run.head)
    return f"fs train {run.features.name} --head {other}"
