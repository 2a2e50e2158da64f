"""`fs demo`: the whole way on a bundled data set."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from featurestore.demo import Demo, run_demo
from featurestore.manifest import SPLITS
from featurestore.training.runs import Run
from featurestore_cli.options import cache_option, json_option
from featurestore_cli.output import print_json, print_line, print_table, say, say_quarantined
from featurestore_cli.progress import progress_for


@click.command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("fs-demo"),
    show_default=True,
    help="Where the images are written.",
)
@cache_option
@json_option
def demo(folder: Path, cache: Path, *, as_json: bool) -> int:
    """Write scikit-learn's digits as images, embed them, train two heads and compare them."""
    with progress_for(sys.stderr) as progress:
        result = run_demo(folder, cache=cache, progress=progress, say=say)
    if as_json:
        print_json(_fields(result))
    else:
        _print(result)
    embedded = result.embedded
    return say_quarantined(embedded.quarantined, feature_set=embedded.feature_set)


def _print(result: Demo) -> None:
    print_table(
        ["head", "train", "validation", "test", "fit seconds"],
        [
            [
                run.head,
                *(_accuracy(run, split) for split in SPLITS),
                f"{run.seconds['fit']:.1f}",
            ]
            for run in result.runs
        ],
        right=["train", "validation", "test", "fit seconds"],
    )
    (pair,) = result.comparison.pairs
    print_line(pair.sentence)
    print_line(f"images    {result.folder}")
    print_line(f"features  {result.embedded.path}")
    for run in result.runs:
        print_line(f"run       {run.path}")
    say(f"next: fs show {result.embedded.feature_set}")


def _fields(result: Demo) -> dict[str, object]:
    (pair,) = result.comparison.pairs
    return {
        "feature_set": result.embedded.feature_set,
        "fingerprint": result.embedded.fingerprint,
        "weights": result.weights,
        "images": str(result.folder),
        "path": str(result.embedded.path),
        "computed": result.embedded.computed,
        "reused": result.embedded.reused,
        "quarantined": len(result.embedded.quarantined),
        "quarantine": [vars(entry) for entry in result.embedded.quarantined],
        "runs": {
            run.head: {
                "run": run.id,
                "metrics": dict(run.metrics),
                "fit_seconds": run.seconds["fit"],
            }
            for run in result.runs
        },
        "mcnemar_p": pair.test.p_value,
        "sentence": pair.sentence,
    }


def _accuracy(run: Run, split: str) -> str:
    metrics = run.metrics[split]
    return "-" if metrics is None else f"{metrics['accuracy']:.3f}"
