"""Which layout a dataset has."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from featurestore.datasets.entries import LAYOUTS, Scan
from featurestore.datasets.folders import scan_folder
from featurestore.datasets.splitting import SplitFractions
from featurestore.datasets.tables import TABLE_SUFFIXES, scan_table
from featurestore.errors import InvalidInput, NotFound


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """How a dataset without splits is split.

    Parameters
    ----------
    split
        Fractions of train, validation and, optionally, test, such as ``0.7,0.15,0.15``; None for
        a dataset that is already split.
    seed
        Decides, with each sample's id, where the sample goes; without `split` it has no effect.
    """

    split: str | None = None
    seed: int = 0


def scan_dataset(path: Path, *, options: ScanOptions | None = None) -> Scan:
    """Return what the dataset at `path` lists: names, labels and splits; no image is read.

    Parameters
    ----------
    path
        A folder of splits of class folders, a folder of class folders (then a split is needed in
        `options`), or a ``.csv`` or ``.parquet`` file.

    Raises
    ------
    NotFound
        There is nothing at `path`.
    InvalidInput
        The layout is none of these or ambiguous, or it does not go with `options`.
    MissingDependency
        A Parquet file, and pyarrow is not installed.
    """
    path = Path(os.path.abspath(path))  # digests are remembered by absolute path
    given = options or ScanOptions()
    fractions = None
    if given.split is not None:
        fractions = SplitFractions.parse(given.split, seed=given.seed)
    if path.is_dir():
        return scan_folder(path, fractions=fractions)
    if path.is_file():
        if path.suffix.lower() in TABLE_SUFFIXES:
            return scan_table(path, fractions=fractions)
        raise InvalidInput(f"{path}: a file, but neither .csv nor .parquet\n{LAYOUTS}")
    raise NotFound(f"{path}: no such folder or file", next_step="check the dataset's path")
