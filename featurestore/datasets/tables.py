"""Manifest files: CSV or Parquet with the columns path, label and split.

Paths are relative to the file, with the separator of the system. Other columns are ignored.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from featurestore.datasets.entries import (
    SPLIT_NAMES,
    Entry,
    Scan,
    checked_scan,
)
from featurestore.datasets.splitting import SplitFractions, assign_splits
from featurestore.errors import InvalidInput, MissingDependency
from featurestore.names import nfc

TABLE_SUFFIXES = (".csv", ".parquet")
_COLUMNS = ("path", "label", "split")

_Row = tuple[str, dict[str, str]]  # where it stands ("line 7"), and its cells


def scan_table(file: Path, *, fractions: SplitFractions | None) -> Scan:
    """Return what a manifest file lists; whether the images exist is not looked at.

    Raises
    ------
    InvalidInput
        The file cannot be read as its suffix says, a column is missing, a cell is empty or no
        split, a path is listed twice, or the split column does not go with `fractions`.
    MissingDependency
        A Parquet file, and pyarrow is not installed.
    """
    columns, rows = _read_csv(file) if file.suffix.lower() == ".csv" else _read_parquet(file)
    _check_columns(file, columns, fractions)
    root = file.parent
    entries: list[Entry] = []
    listed: dict[str, str] = {}
    for where, cells in rows:
        entry = _entry(file, where, cells, given_split=fractions is None)
        if entry.sample_id in listed:
            raise InvalidInput(
                f"{file}, {where}: {cells['path']!r} is already listed in "
                f"{listed[entry.sample_id]}",
                next_step="list each image once",
            )
        listed[entry.sample_id] = where
        entries.append(entry)
    if fractions is not None:
        entries = assign_splits(entries, fractions)
    return checked_scan(root, sorted({entry.label for entry in entries}), entries=entries)


def _check_columns(file: Path, columns: list[str], fractions: SplitFractions | None) -> None:
    needed = _COLUMNS if fractions is None else _COLUMNS[:2]
    missing = [name for name in needed if name not in columns]
    if missing == ["split"]:
        raise InvalidInput(
            f"{file}: no column split, and no --split fractions",
            next_step="add the column, or --split 0.7,0.15,0.15",
        )
    if missing:
        raise InvalidInput(
            f"{file}: expected the columns {', '.join(needed)}, found {', '.join(columns)}",
            next_step=f"name the columns in the first line: {','.join(_COLUMNS)}",
        )
    if fractions is not None and "split" in columns:
        raise InvalidInput(
            f"{file}: --split was given, but the file has a column split",
            next_step="leave --split out, or rename the column",
        )
    twice = [name for name in needed if columns.count(name) > 1]
    if twice:
        raise InvalidInput(f"{file}: the column {twice[0]} appears twice")


def _entry(file: Path, where: str, cells: dict[str, str], *, given_split: bool) -> Entry:
    path, label = cells["path"], nfc(cells["label"].strip())
    for column, cell in (("path", path.strip()), ("label", label)):
        if not cell:
            raise InvalidInput(f"{file}, {where}: the {column} is empty")
        if "\0" in cell:
            raise InvalidInput(f"{file}, {where}: the {column} holds a NUL character")
    split = ""
    if given_split:
        given = cells["split"].strip()
        if given.lower() not in SPLIT_NAMES:
            raise InvalidInput(
                f"{file}, {where}: expected the split to be train, validation or test, "
                f"found {given!r}"
            )
        split = SPLIT_NAMES[given.lower()]
    place = os.path.normpath(os.path.join(file.parent, path))
    return Entry(_sample_id(place, file.parent), place, label, split)


def _sample_id(place: str, root: Path) -> str:
    """Return the POSIX path relative to `root`; a file elsewhere keeps its absolute path."""
    path = Path(place)
    base = os.path.normpath(root)
    inside = path.relative_to(base) if path.is_relative_to(base) else path
    return nfc(inside.as_posix())


def _read_csv(file: Path) -> tuple[list[str], Iterator[_Row]]:
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front of the first column's name.
        lines = csv.reader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline=""))
        columns = [name.strip().lower() for name in next(lines, [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _not_readable(file, "CSV in UTF-8", error) from error

    def rows() -> Iterator[_Row]:
        try:
            for values in lines:
                if values:
                    padded = [*values, *[""] * (len(columns) - len(values))]
                    yield f"line {lines.line_num}", dict(zip(columns, padded, strict=False))
        except csv.Error as error:
            raise _not_readable(file, "CSV", error) from error

    return columns, rows()


def _read_parquet(file: Path) -> tuple[list[str], Iterator[_Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependency(
            f"{file}: pyarrow is needed to read Parquet", next_step="pip install pyarrow"
        ) from error
    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        spelled = {name: name.strip().lower() for name in parquet.schema_arrow.names}
    except (OSError, pyarrow.ArrowException) as error:
        raise _not_readable(file, "Parquet", error) from error
    columns = list(spelled.values())

    def rows() -> Iterator[_Row]:
        number = 0
        try:
            for batch in parquet.iter_batches(
                columns=[name for name, column in spelled.items() if column in _COLUMNS]
            ):
                for cells in batch.to_pylist():
                    number += 1
                    yield (
                        f"row {number}",
                        {
                            spelled[name]: "" if cell is None else str(cell)
                            for name, cell in cells.items()
                        },
                    )
        except (OSError, pyarrow.ArrowException) as error:
            raise _not_readable(file, "Parquet", error) from error

    return columns, rows()


def _not_readable(file: Path, kind: str, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"{file}: cannot be read as {kind}: {error}",
        next_step="write it with the columns path, label and split",
    )
