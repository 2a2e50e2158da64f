"""How results are printed: data on stdout, everything else on stderr.

Names and records come from anywhere. What is printed for a person is made `printable`, so that no
escape sequence or line break in them reaches a terminal; JSON holds them as they are.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from featurestore.names import printable
from featurestore.report.text import bytes_text as bytes_text  # the commands' own, too
from featurestore.report.text import seconds_text as seconds_text

if TYPE_CHECKING:
    from featurestore.catalogue import Quarantined
    from featurestore.errors import FeatureStoreError

_WIDE = 10_000
_SHOWN = 20
_SKIPPED = 1


def print_json(value: object) -> None:
    """Print one JSON object on stdout; characters that its encoding may lack are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    escape = codecs.lookup(encoding).name != "utf-8"
    click.echo(json.dumps(value, ensure_ascii=escape, indent=1))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> None:
    """Print an aligned table on stdout; off a terminal nothing is wrapped or coloured.

    On a narrow terminal the columns of `whole` keep their width: what is copied from them.
    """
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    columns, right, whole = (list(map(printable, names)) for names in (columns, right, whole))
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    console = Console(width=None if terminal else _WIDE, highlight=False, markup=False, emoji=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        widest = max((len(row[at]) for row in cells), default=0)
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=False,
            min_width=widest if column in whole else None,
        )
    for row in cells:
        table.add_row(*row)
    with console.capture() as capture:
        console.print(table, crop=False)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Print name and value pairs, one a line, names aligned."""
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        print_line(f"{name.ljust(width)}  {value}")


def print_line(text: str) -> None:
    """Print one line on stdout."""
    click.echo(printable(text))


def say(message: str) -> None:
    """Print a line for the person, on stderr."""
    click.echo(printable(message), err=True)


def say_error(error: FeatureStoreError) -> None:
    """Print what failed and what to do next, on stderr; a message may have several lines."""
    for line in f"error: {error}".split("\n"):
        say(line)


def say_quarantined(entries: Sequence[Quarantined], *, feature_set: str) -> int:
    """Name quarantined samples on stderr; return the exit code that tells of them (1), or 0."""
    for entry in entries[:_SHOWN]:
        say(f"quarantined: {entry.sample_id}: {entry.reason}")
    if len(entries) > _SHOWN:
        say(f"… and {len(entries) - _SHOWN} more: fs show {feature_set}")
    return _SKIPPED if entries else 0
