"""`fs export-model`: a run as one network from image to probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore_cli.options import cache_option, json_option
from featurestore_cli.output import bytes_text, print_fields, print_json, say
from featurestore_cli.progress import progress_line

if TYPE_CHECKING:
    from featurestore.shipping.settings import ShippedModel
    from featurestore.shipping.ship import Told


@click.command("export-model")
@click.argument("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--weights", help="The backbone's weights; default: those it was embedded with.")
@click.option(
    "--check",
    type=click.IntRange(1),
    metavar="N",
    show_default="100",
    help="Images that the written file is run on.",
)
@click.option("--no-check", is_flag=True, help="Leave it unchecked.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    show_default="0.001; bfloat16 features: 0.2, float16: 0.05",
    help="Largest difference of a probability from the run's. Named, it counts alone; else at most "
    "2 % of the predicted classes may differ too, or one.",
)
@click.option(
    "--photographs",
    type=click.Path(path_type=Path),
    show_default="where it was embedded from",
    help="Where the dataset lies now.",
)
@click.option("--overwrite", is_flag=True, help="Replace a model of that name.")
@cache_option
@json_option
def export_model(
    run: str,
    file: Path,
    cache: Path,
    *,
    weights: str | None,
    check: int | None,
    no_check: bool,
    tolerance: float | None,
    photographs: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write RUN to FILE as one network from image to class probabilities, preprocessing inside.

    FILE ends in .keras, in .onnx (needs featurestore[onnx]), or in .savedmodel or nothing: a
    SavedModel folder. It takes uint8 RGB images at the recipe's size and computes in float32. The
    heads dense, logistic, linear-svm, sgd and nearest-centroid can be exported, and scikit-learn's
    linear classifiers.

    Before it gets its name, the file is read back and run on N images, and its probabilities are
    held to those that the run recorded. How images are decoded and resized, and an example, are
    written beside it: FILE.md and FILE.json.
    """
    if no_check:
        for flag, value in (
            ("--check", check),
            ("--tolerance", tolerance),
            ("--photographs", photographs),
        ):
            if value is not None:
                raise click.UsageError(f"{flag}: it does nothing with --no-check")
    from featurestore.shipping.settings import ShipOptions
    from featurestore.shipping.ship import export_model as ship
    from featurestore.training.runs import find_run

    options = ShipOptions(
        weights=weights,
        check=0 if no_check else check or ShipOptions.check,
        tolerance=tolerance,
        photographs=photographs,
        overwrite=overwrite,
    )
    found = find_run(run, cache=cache)
    with _steps() as tell:
        shipped = ship(found, file, cache=cache, options=options, tell=tell)
    if as_json:
        print_json(_fields(found.id, shipped))
    else:
        _print(found.id, shipped)


@contextmanager
def _steps() -> Iterator[Told | None]:
    with progress_line() as show:
        yield None if show is None else lambda step: show(f"{step} …")


def _fields(run_id: str, shipped: ShippedModel) -> dict[str, object]:
    return {
        "run": run_id,
        "path": str(shipped.path),
        "format": shipped.format,
        "bytes": shipped.size_bytes,
        "description": str(shipped.description),
        "card": str(shipped.card),
        "check": None if shipped.check is None else dataclasses.asdict(shipped.check),
    }


def _print(run_id: str, shipped: ShippedModel) -> None:
    check = shipped.check
    found = "left out"
    if check is not None:
        found = (
            f"{check.images} images: probabilities within {check.largest_difference:.2g} of the "
            f"run's (allowed {check.tolerance:g}), {check.classes_differ} predicted classes differ "
            f"(allowed {check.classes_allowed})"
        )
    print_fields(
        [
            ("model", f"{shipped.path} ({shipped.format}, {bytes_text(shipped.size_bytes)})"),
            ("run", run_id),
            ("check", found),
            ("how to use", shipped.card),
        ]
    )
    if check is None:
        say("note: the file was not run: leave --no-check out to hold it to its run")
