"""`fs pull`: copy a feature set or a run from a service into the cache."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click

from featurestore.errors import NotFound
from featurestore.remote.catalogue import find_set
from featurestore.remote.connection import Connection
from featurestore.remote.pull import (
    DEFAULT_JOBS,
    PullProgress,
    PullResult,
    PullSettings,
    Quiet,
    pull_set,
)
from featurestore.remote.pull_run import PulledRun, find_run_id, pull_run, run_ids_on
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
@click.option("--runs", is_flag=True, help="The runs that were trained on the set, too.")
@click.option("--wait", is_flag=True, help="Wait for another writer of the same set.")
@click.option(
    "--again",
    is_flag=True,
    help="Read every byte of what is here, of more than 256 MiB too; fetch what is damaged.",
)
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
    runs: bool,
    store_format: str | None,
    jobs: int,
    wait: bool,
    again: bool,
    dry_run: bool,
) -> None:
    """Copy feature set or run NAME from the service at URL: its name or id, or the start of one, or
    of a feature set's fingerprint.

    Every file is held to its digest before anything becomes visible. A stopped pull goes on where
    it was, and of a set that has changed only what is new is fetched.
    """
    settings = PullSettings(
        store_format=store_format, jobs=jobs, wait=wait, again=again, dry_run=dry_run
    )
    if runs and settings.dry_run:
        raise click.UsageError("--runs: how large they are is not known before; not with --dry-run")
    with connect(url, token_file=token_file) as connection, _progress_for(sys.stderr) as progress:
        pulling = _Pulling(connection, settings, cache, progress)
        found = pulling.named(name)
        of_set = [] if isinstance(found, PulledRun) or not runs else pulling.runs_on(found)
    if as_json:
        shown = _run_fields(found) if isinstance(found, PulledRun) else _set_fields(found)
        print_json(shown | ({"runs": [_run_fields(each) for each in of_set]} if runs else {}))
        return
    if isinstance(found, PulledRun):
        _print_runs([found])
        say(f"next: fs show {found.id}")
    else:
        _print_set(found)
        _print_runs(of_set)


@dataclasses.dataclass
class _Pulling:
    connection: Connection
    settings: PullSettings
    cache: Path
    progress: PullProgress

    def named(self, name: str) -> PullResult | PulledRun:
        """Pull what a name means: a feature set, or else a run."""
        try:
            store = find_set(self.connection, name, store_format=self.settings.store_format)
        except NotFound as error:
            run_id = self._run_id(name, or_else=error)
        else:
            return pull_set(
                self.connection,
                store.fingerprint,
                self.settings,
                cache=self.cache,
                progress=self.progress,
            )
        if self.settings.dry_run:
            raise click.UsageError(f"--dry-run: {name} is a run, whose files are not listed before")
        return self._run(run_id)

    def _run_id(self, name: str, *, or_else: NotFound) -> str:
        try:
            return find_run_id(self.connection, name)
        except NotFound:
            raise NotFound(
                f"{or_else.message}; nor does a run's id start so", next_step=or_else.next_step
            ) from or_else

    def runs_on(self, found: PullResult) -> list[PulledRun]:
        """Pull the runs that were trained on a feature set."""
        return [self._run(each) for each in run_ids_on(self.connection, found.fingerprint)]

    def _run(self, run_id: str) -> PulledRun:
        self.progress.phase(f"run {run_id}")
        return pull_run(
            self.connection, run_id, self.settings, cache=self.cache, progress=self.progress
        )


def _set_fields(result: PullResult) -> dict[str, object]:
    return (
        {"kind": "feature set"}
        | vars(result)
        | {
            "path": None if result.path is None else str(result.path),
            "rows": dict(result.rows),
        }
    )


def _run_fields(run: PulledRun) -> dict[str, object]:
    return {"kind": "run"} | vars(run) | {"path": str(run.path)}


def _print_set(result: PullResult) -> None:
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
                f"{_files(result.moved_files)}, {most}{bytes_text(result.moved_bytes)}{took}",
            ),
            ("  reused", f"{_files(result.reused_files)}, {bytes_text(result.reused_bytes)}"),
            *fields[1:],
        ]
    )
    if not result.dry_run:
        how = "--head dense --views all" if result.views else "--head logistic"
        say(f"next: fs train {result.feature_set} {how}")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _print_runs(runs: Sequence[PulledRun]) -> None:
    for run in runs:
        how = "is here" if run.unchanged else f"fetched, {bytes_text(run.moved_bytes)}"
        print_line(f"run {run.id}: {how}")


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

    def planned(self, *, name: str, size_bytes: int | None) -> None:
        # A new one: `reset` would keep the last total where none is known.
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=size_bytes)

    def moved(self, count: int) -> None:
        self._bar.update(self._task, advance=count)

    def stop(self) -> None:
        self._bar.stop()
