"""Progress on a terminal, and silence elsewhere: a bar for embedding, one line for the rest."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from featurestore.embedding.settings import Progress, Silent
from featurestore.names import printable


@contextmanager
def progress_line() -> Iterator[Callable[[str], None] | None]:
    """Give what shows a text on one line of stderr, which goes at the end; None off a terminal."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(text: str) -> None:
        fits = printable(text)[: shutil.get_terminal_size().columns - 1]  # a second line would stay
        click.echo(f"\r\x1b[K{fits}", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


@contextmanager
def progress_for(stream: TextIO) -> Iterator[Progress]:
    """Give a bar on a terminal, and silence elsewhere (rich draws a last bar even there)."""
    if not stream.isatty():
        yield Silent()
        return
    with _apart(stream) as terminal:
        bar = _Bar(terminal)
        try:
            yield bar
        finally:
            bar.stop()


@contextmanager
def _apart(stream: TextIO) -> Iterator[TextIO]:
    """Give the same terminal by a descriptor of its own.

    `quiet_startup` diverts descriptor 2 while TensorFlow is imported: on it the bar stood still for
    those seconds, and what it had drawn meanwhile came out after.
    """
    try:
        descriptor = os.dup(stream.fileno())
    except OSError:  # no descriptor behind it
        yield stream
        return
    with open(descriptor, "w", encoding=stream.encoding, errors="backslashreplace") as terminal:
        yield terminal


class _Bar:
    """Images/s, time left, reused and computed."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[counts]}"),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None, rate="", counts="")
        self._reused = 0
        self._computed = 0
        self._quarantined = 0
        self._bar.start()

    def phase(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def planned(self, *, name: str, to_compute: int, reused: int) -> None:
        self._reused = reused
        self._bar.reset(self._task, total=to_compute, description=name, rate="", counts="")

    def advanced(self, images: int, quarantined: int) -> None:
        self._computed += images
        self._quarantined += quarantined
        task = self._bar.tasks[0]
        elapsed = task.elapsed or 0.0
        rate = f"{self._computed / elapsed:.1f} images/s" if elapsed else ""
        counts = f"computed {self._computed}, reused {self._reused}"
        if self._quarantined:
            counts += f", quarantined {self._quarantined}"
        self._bar.update(self._task, advance=images + quarantined, rate=rate, counts=counts)

    def stop(self) -> None:
        self._bar.stop()
