"""`fs predict`: classes and probabilities of images that are in no feature set."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.datasets import files_below
from featurestore.embedding.on_demand import OnDemandOptions
from featurestore.errors import NotFound
from featurestore.names import as_unicode
from featurestore.online import DEFAULT_ONLINE_BYTES
from featurestore.training.prediction_table import (
    FORMATS,
    Prediction,
    PredictionTable,
    format_of,
    refuse_existing,
    write_file,
    write_text,
)
from featurestore.training.runs import Run, find_run
from featurestore_cli.options import BytesType, cache_option
from featurestore_cli.output import say

if TYPE_CHECKING:
    from featurestore.training.classify import Classified

_SKIPPED = 1
_SHOWN = 20


@click.command()
@click.argument("wanted", metavar="RUN")
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--weights",
    help="Weights of the backbone; default: those that the features were embedded with.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: stdout.")
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    help="Default: by the ending of --output, else csv.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--batch-size", type=click.IntRange(1), help="Default: what suits the device.")
@click.option("--workers", type=click.IntRange(1), help="Decoding threads; default: one a core.")
@click.option(
    "--online-bytes",
    type=BytesType(),
    default=DEFAULT_ONLINE_BYTES,
    show_default="1GiB",
    help="Most that features of single images may take in the cache; 0 keeps none.",
)
@cache_option
def predict(
    wanted: str,
    paths: tuple[Path, ...],
    cache: Path,
    *,
    output: Path | None,
    overwrite: bool,
    format: str | None,
    as_json: bool,
    weights: str | None,
    batch_size: int | None,
    workers: int | None,
    online_bytes: int,
) -> int:
    """Classify images with RUN: files, and folders with all files below them.

    Features are taken from the cache where the same bytes were embedded before; the rest goes
    through the backbone and is kept. One row an image: path, sha256, predicted class, the reason
    where there is none, and a probability for each class, in a column named by it. Unreadable
    images are listed on stderr too, and the exit code is then 1.
    """
    chosen = _format(format, as_json, output)
    if overwrite and output is None:
        raise click.UsageError("--overwrite: it is for --output, which is not given")
    if chosen == "parquet" and output is None:
        raise click.UsageError("--format parquet: it needs --output")
    refuse_existing(output, overwrite=overwrite)
    run = find_run(wanted, cache=cache)
    files, refused = _files(paths)
    from featurestore.training.classify import classify_images

    options = OnDemandOptions(
        weights=weights, batch_size=batch_size, workers=workers, online_bytes=online_bytes, say=say
    )
    told = _Told(len(files))
    found = told.watch(classify_images(run, files, cache=cache, options=options))
    table = _table(run, found, refused, told)
    if output is None:
        write_text(table, sys.stdout, format=chosen)
    else:
        write_file(table, output, format=chosen, overwrite=overwrite)
    told.finish(refused)
    return _SKIPPED if told.skipped or refused else 0


def _format(format: str | None, as_json: bool, output: Path | None) -> str:
    if as_json and format not in (None, "json"):
        raise click.UsageError(f"--json: --format {format} was given too")
    return format_of(output, "json" if as_json else format)


def _files(paths: Iterable[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return the files that paths mean, in order, and what below them is no file, with reasons."""
    files: list[Path] = []
    refused: list[tuple[str, str]] = []
    for path in paths:
        if path.is_dir():
            below, odd = files_below(path)
            files += below
            refused += [(entry.sample_id, entry.reason) for entry in odd]
        elif path.exists() or path.is_symlink():
            files.append(path)
        else:
            raise NotFound(f"{path}: no such file or folder", next_step="check the path")
    if not files and not refused:
        raise NotFound(f"no file in {', '.join(map(str, paths))}", next_step="check the path")
    return files, refused


def _table(
    run: Run,
    found: Iterable[Classified],
    refused: list[tuple[str, str]],
    told: _Told,
) -> PredictionTable:
    names = run.features.class_names

    def rows() -> Iterator[Prediction]:
        for each in found:
            label = None if each.label is None else names[each.label]
            texts = (as_unicode(str(each.path)), each.sha256, label, each.reason)
            yield Prediction(texts, each.probabilities)
        for path, reason in refused:
            yield Prediction((path, None, None, reason), None)

    return PredictionTable(
        columns=("path", "sha256", "predicted", "reason"),
        class_names=names,
        rows=rows(),
        rows_name="images",
        about=lambda: {"run": run.id, "counts": told.counts(refused)},
    )


class _Told:
    """Counts outcomes as they pass, names the first unreadable images, and shows how far it is."""

    def __init__(self, total: int) -> None:
        self.skipped = 0
        self._total = total
        self._origins: Counter[str] = Counter()
        # On one terminal with the rows it would stand between them.
        self._shows = sys.stderr.isatty() and not sys.stdout.isatty()

    def watch(self, found: Iterable[Classified]) -> Iterator[Classified]:
        for done, each in enumerate(found, 1):
            if each.reason is not None:
                self._skip(as_unicode(str(each.path)), each.reason)
            elif each.origin is not None:
                self._origins[each.origin] += 1
            yield each
            if self._shows and (done % 64 == 0 or done == self._total):
                click.echo(f"\r{done} of {self._total} images", nl=False, err=True)

    def _skip(self, path: str, reason: str) -> None:
        self.skipped += 1
        if self.skipped <= _SHOWN:
            self._clear()
            say(f"unreadable: {path}: {reason}")

    def _clear(self) -> None:
        if self._shows:
            click.echo("\r\x1b[K", nl=False, err=True)

    def counts(self, refused: list[tuple[str, str]]) -> dict[str, int]:
        return {
            "from_feature_sets": self._origins["feature set"],
            "from_online_cache": self._origins["online cache"],
            "computed": self._origins["computed"],
            "unreadable": self.skipped + len(refused),
        }

    def finish(self, refused: list[tuple[str, str]]) -> None:
        self._clear()
        if self.skipped > _SHOWN:
            say(f"… and {self.skipped - _SHOWN} more: see the reasons in the output")
        for path, reason in refused[:_SHOWN]:
            say(f"unreadable: {path}: {reason}")
        numbers = self.counts(refused)
        say(
            f"{self._total + len(refused)} images: {numbers['from_feature_sets']} from feature "
            f"sets, {numbers['from_online_cache']} from the online cache, "
            f"{numbers['computed']} computed, {numbers['unreadable']} unreadable"
        )
