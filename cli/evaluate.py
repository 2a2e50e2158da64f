"""`fs evaluate`: a run's metrics, computed again or on other features of its recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.errors import IntegrityError
from featurestore.training.methods import CACHED
from featurestore.training.runs import Run, find_run
from featurestore_cli.options import cache_option, json_option
from featurestore_cli.output import print_fields, print_json, print_line, say, say_error

if TYPE_CHECKING:  # they load scikit-learn
    from featurestore.training.prediction_table import PredictionTable
    from featurestore.training.reevaluate import Reevaluation


@click.command()
@click.argument("wanted", metavar="RUN")
@click.option(
    "--on",
    metavar="FEATURE_SET",
    help="Another feature set of the same recipe and classes; default: the run's own.",
)
@click.option("--split", default="test", show_default=True, help="The split to evaluate on.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write each sample's probabilities to a .csv, .json or .parquet file.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@cache_option
@json_option
def evaluate(
    wanted: str,
    cache: Path,
    *,
    on: str | None,
    split: str,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Load the head of RUN, held to its digest, and score it on cached features.

    On the run's own feature set it also says whether the probabilities that were recorded when the
    head was trained are reproduced: within 0.0001, which leaves room for another machine's
    rounding, and with every predicted class the same. If not, the exit code is 5.
    """
    if overwrite and output is None:
        raise click.UsageError("--overwrite: it is for --output, which is not given")
    from featurestore.training.prediction_table import format_of, refuse_existing, write_file
    from featurestore.training.reevaluate import reevaluate

    refuse_existing(output, overwrite=overwrite)
    format = format_of(output, None)
    run = find_run(wanted, cache=cache)
    result = reevaluate(run, cache=cache, on=on, split=split)
    fields: dict[str, object] = {
        "run": run.id,
        "feature_set": result.feature_set,
        "fingerprint": result.fingerprint,
        "split": split,
        "rows": len(result.predictions.labels),
        "metrics": dict(result.metrics),
        "trained_on": result.trained_on,
        "reproduction": None
        if result.reproduction is None
        else vars(result.reproduction) | {"reproduced": result.reproduction.reproduced},
    }
    if output is not None:
        write_file(_table(run, result, fields), output, format=format, overwrite=overwrite)
        say(f"wrote {output}")
    if as_json:
        print_json(fields)
    else:
        _print(run, result)
    if result.reproduction is None or result.reproduction.reproduced:
        return 0
    say_error(
        IntegrityError(
            f"run {run.id} does not give the probabilities on split {split!r} that it recorded",
            next_step=f"compare the versions in fs show {run.id} with those of fs doctor",
        )
    )
    return IntegrityError.exit_code


def _table(run: Run, result: Reevaluation, fields: Mapping[str, object]) -> PredictionTable:
    from featurestore.training.prediction_table import Prediction, PredictionTable

    names = run.features.class_names
    found = result.predictions

    def rows() -> Iterator[Prediction]:
        for sample_id, label, row in zip(
            found.sample_ids, found.labels.tolist(), found.probabilities, strict=True
        ):
            yield Prediction((str(sample_id), names[label], names[int(row.argmax())]), row)

    return PredictionTable(
        columns=("sample_id", "label", "predicted"),
        class_names=names,
        rows=rows(),
        rows_name="samples",
        about=lambda: fields,
    )


def _print(run: Run, result: Reevaluation) -> None:
    print_fields(
        [
            ("run", run.id),
            *([] if run.path_taken == CACHED else [("path taken", run.path_taken)]),
            ("feature set", f"{result.feature_set} {result.fingerprint[:8]}"),
            ("split", f"{result.split}, {len(result.predictions.labels)} rows"),
            *(
                (name.replace("_", " "), "not defined" if value is None else f"{value:.4f}")
                for name, value in result.metrics.items()
            ),
        ]
    )
    again = result.reproduction
    if again is not None:
        told = "reproduced" if again.reproduced else "NOT reproduced"
        print_line(
            f"recorded probabilities are {told}: largest difference "
            f"{again.largest_difference:.2g}, {again.changed} predictions changed"
        )
    if run.shuffled_labels:
        say("note: a control: the labels of the training rows were shuffled before the fit")
    if result.trained_on is None:
        say(
            "note: no feature set of the run's own images is in the cache: whether it was trained "
            "on some of these cannot be told"
        )
    elif result.trained_on:
        say(
            f"note: the run was trained on {result.trained_on} of these "
            f"{len(result.predictions.labels)} images"
        )
