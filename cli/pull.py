"""`fs pull`: copy a feature set from a service into the cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click

from featurestore.remote.pull import (
    DEFAULT_JOBS,
    PullProgress,
    PullResult,
    PullSettings,
    Quiet,
    pull_set,
)
from featurestore.stores import STORE_FORMATS
from featurestore_cli.connecting import connect
from featurestore_cli.options import cache_option, json_option
from featurestore_cli.output import bytes_text, print_fields, print_json, print_line, say
from featurestore_cli.token_option import token_option


@click.command()
@click.argument("url")
@click.argument("name")
@click.option(
    "--format",
    "store_format",
    type=click.Choice(STORE_FORMATS),
    show_default="zarr, if the service has it",
    help="Store format to pull.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=DEFAULT_JOBS,
    show_default=True,
    help="Files fetched at once.",
)
@click.option("--wait", is_flag=True, help="Wait for another writer of the same set.")
@click.option("--dry-run", is_flag=True, help="Print what would be fetched; fetch nothing.")
@token_option
@cache_option
@json_option
def pull(
    url: str,
    name: str,
    cache: Path,
    *,
    token_file: Path | None,
    as_json: bool,
    store_format: str | None,
    jobs: int,
    wait: bool,
    dry_run: bool,
) -> None:
    """Copy feature set NAME from the service at URL: its name, or the start of one or of its
    fingerprint.

    Every file is held to its digest before the set becomes visible. A stopped pull goes on where it
    was, and of a set that has changed only what is new is fetched.
    """
    settings = PullSettings(store_format=store_format, jobs=jobs, wait=wait, dry_run=dry_run)
    with connect(url, token_file=token_file) as connection, _progress_for(sys.stderr) as progress:
        result = pull_set(connection, name, settings, cache=cache, progress=progress)
    if as_json:
        print_json(_fields(result))
    else:
        _print(result)


def _fields(result: PullResult) -> dict[str, object]:
    return vars(result) | {
        "path": None if result.path is None else str(result.path),
        "rows": dict(result.rows),
    }


def _print(result: PullResult) -> None:
    print_line(result.feature_set)
    fields: list[tuple[str, object]] = [
        ("  rows", ", ".join(f"{split} {count}" for split, count in result.rows.items())),
        ("  fingerprint", result.fingerprint[:16]),
        ("  store", result.path or "not written: dry run"),
    ]
    if result.unchanged:
        print_fields(fields)
        say("nothing to do: it is here")
        return
    took = "" if result.dry_run else f" in {result.seconds:.1f} s"
    most = "at most " if result.dry_run else ""
    print_fields(
        [
            fields[0],
            (
                "  to fetch" if result.dry_run else "  fetched",
                f"{result.moved_files} files, {most}{bytes_text(result.moved_bytes)}{took}",
            ),
            ("  reused", f"{result.reused_files} files, {bytes_text(result.reused_bytes)}"),
            *fields[1:],
        ]
    )
    if not result.dry_run:
        say(f"next: fs train {result.feature_set} --head logistic")


@contextmanager
def _progress_for(stream: TextIO) -> Iterator[PullProgress]:
    """Give a bar on a terminal, and silence elsewhere (rich draws a last bar even there)."""
    if not stream.isatty():
        yield Quiet()
        return
    bar = _Bar(stream)
    try:
        yield bar
    finally:
        bar.stop()


class _Bar:
    """Bytes that have come, of how many, how fast, and the time left."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._bar.start()

    def phase(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def planned(self, *, name: str, size_bytes: int) -> None:
        self._bar.reset(self._task, total=size_bytes, description=name)

    def moved(self, count: int) -> None:
        self._bar.update(self._task, advance=count)

    def stop(self) -> None:
        self._bar.stop()
