"""Predictions as a table for other programs: CSV, JSON or Parquet, written row by row."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from featurestore.errors import Conflict, InvalidInput
from featurestore.stores import durable

FORMATS = ("csv", "json", "parquet")
_PARQUET_ROWS = 4096


class Prediction(NamedTuple):
    """One row: the texts of the table's columns, and (n_classes,) float32 or None."""

    texts: tuple[str | None, ...]
    probabilities: np.ndarray | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionTable:
    """What a table says; its rows may be an iterator, which is gone through once.

    Parameters
    ----------
    columns
        Names of the columns of text; those of probabilities follow, one a class, named by it. A
        class that is called like a column of text has ``p(class)``.
    rows_name
        What JSON calls the list of rows.
    about
        Further fields of the JSON object. Asked for when the last row is written.
    """

    columns: tuple[str, ...]
    class_names: tuple[str, ...]
    rows: Iterable[Prediction]
    rows_name: str = "rows"
    about: Callable[[], Mapping[str, object]] = dict

    @property
    def class_columns(self) -> list[str]:
        """Names of the columns of probabilities."""
        return [f"p({name})" if name in self.columns else name for name in self.class_names]


def format_of(path: Path | None, chosen: str | None) -> str:
    """Return the format that was chosen, else that of a file's ending, else ``csv``.

    Raises
    ------
    InvalidInput
        The ending is none of the known ones.
    """
    if chosen is not None or path is None:
        return chosen or "csv"
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise InvalidInput(
            f"output file {path}: expected an ending of .{', .'.join(FORMATS)}, "
            f"found {path.suffix or 'none'}"
        )
    return ending


def refuse_existing(path: Path | None, *, overwrite: bool) -> None:
    """Refuse a file that exists, before hours of computing and not after.

    Raises
    ------
    Conflict
        It exists and is not to be replaced.
    """
    if path is not None and path.exists() and not overwrite:
        raise _existing(path)


def write_file(table: PredictionTable, path: Path, *, format: str, overwrite: bool) -> None:
    """Write a table to a file, which appears, or is replaced, when it is whole and durable.

    Raises
    ------
    Conflict
        The file exists, perhaps only since the table was begun, and is not to be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _in_place(path, overwrite=overwrite) as building:
        if format == "parquet":
            _write_parquet(table, building)
        else:
            with building.open("x", encoding="utf-8", newline="") as stream:
                write_text(table, stream, format=format)


def write_text(table: PredictionTable, stream: TextIO, *, format: str) -> None:
    """Write a table as ``csv`` or ``json``.

    A probability is the shortest decimal that reads back as the same float32.
    """
    {"csv": _write_csv, "json": _write_json}[format](table, stream)


def _existing(path: Path) -> Conflict:
    return Conflict(f"{path} exists already", next_step="choose another name or add --overwrite")


@contextmanager
def _in_place(path: Path, *, overwrite: bool) -> Iterator[Path]:
    building = durable.temporary_path(path)
    try:
        yield building
        durable.sync_file(building)
        if overwrite:
            durable.replace(building, path)
        else:
            durable.add(building, path)
    except FileExistsError as error:
        raise _existing(path) from error
    finally:
        durable.remove(building)


def _write_csv(table: PredictionTable, stream: TextIO) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*table.columns, *table.class_columns])
    blank = [""] * len(table.class_names)
    for texts, probabilities in table.rows:
        numbers = blank if probabilities is None else [str(value) for value in probabilities]
        writer.writerow([*("" if text is None else text for text in texts), *numbers])


def _write_json(table: PredictionTable, stream: TextIO) -> None:
    def text(value: object) -> str:
        return json.dumps(value, ensure_ascii=stream.encoding.lower() != "utf-8")

    stream.write(f'{{"classes": {text(list(table.class_names))},\n "{table.rows_name}": [')
    separator = "\n  "
    for texts, probabilities in table.rows:
        row: dict[str, object] = dict(zip(table.columns, texts, strict=True))
        row["probabilities"] = None
        if probabilities is not None:
            values = [float(str(value)) for value in probabilities]
            row["probabilities"] = dict(zip(table.class_names, values, strict=True))
        stream.write(separator + text(row))
        separator = ",\n  "
    stream.write("\n ]")
    for name, value in table.about().items():
        stream.write(f",\n {text(name)}: {text(value)}")
    stream.write("}\n")


def _write_parquet(table: PredictionTable, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [*table.columns, *table.class_columns]
    types = [pa.string()] * len(table.columns) + [pa.float32()] * len(table.class_names)
    schema = pa.schema(list(zip(names, types, strict=True)))
    with pq.ParquetWriter(path, schema) as writer:
        rows = iter(table.rows)
        while block := list(itertools.islice(rows, _PARQUET_ROWS)):
            writer.write_table(pa.table(_columns(block, table), schema=schema))


def _columns(block: Sequence[Prediction], table: PredictionTable) -> list[list[object]]:
    nothing: list[object] = [None] * len(table.class_names)
    rows: list[list[object]] = [
        [*texts, *(nothing if numbers is None else numbers.tolist())] for texts, numbers in block
    ]
    return [list(column) for column in zip(*rows, strict=True)]
