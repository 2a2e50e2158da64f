"""What a store promises, whatever its file format: the layout, the writer and the reader.

A store holds one feature set: per split `features` (rows, *feature_shape), `labels` (rows,),
`sample_ids` (rows,) and `sha256` (rows, 32), all of the same rows in the same order, and JSON
attributes on the whole. A split of augmented images has views as well: for every row as many
further features, each of another version of its image. A store is written once, front to back, and
never changed afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

FEATURE_DTYPES = ("float16", "float32")

Texts = np.ndarray[tuple[Any, ...], np.dtype[Any]]
"""Array of NumPy's StringDType, which cannot be spelt out for a type checker yet."""

_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class SplitLayout:
    """Shape and type of one split's features.

    Parameters
    ----------
    feature_shape
        Axes of one row: (height, width, channel), or (channel,) once pooled.
    dtype
        One of `FEATURE_DTYPES`.
    views
        Versions of every row beside the row itself, numbered from 0.
    """

    rows: int
    feature_shape: tuple[int, ...]
    dtype: str
    views: int = 0

    def __post_init__(self) -> None:
        if self.rows < 0 or not self.feature_shape or min(self.feature_shape) < 1:
            raise ValueError(f"no split can have {self.rows} rows of shape {self.feature_shape}")
        if self.dtype not in FEATURE_DTYPES:
            raise ValueError(f"features are stored as {FEATURE_DTYPES}, not {self.dtype!r}")
        if self.views < 0:
            raise ValueError(f"no split can have {self.views} views")

    @property
    def row_bytes(self) -> int:
        """Size of one uncompressed row of features."""
        return prod(self.feature_shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class StoreLayout:
    """What a writer must know before the first row.

    Parameters
    ----------
    splits
        In the order in which a reader lists them.
    attributes
        JSON values. The writer adds `featurestore.format_version`.
    """

    splits: Mapping[str, SplitLayout]
    attributes: Mapping[str, object]

    def __post_init__(self) -> None:
        for name in self.splits:
            if not _SPLIT_NAME.fullmatch(name):
                raise ValueError(
                    f"split {name!r} must be letters, digits, - and _, as it becomes a folder"
                )

    @property
    def has_views(self) -> bool:
        """Whether any split has them, which decides the format version."""
        return any(split.views for split in self.splits.values())


class StorageReport(TypedDict):
    """What features cost on disk.

    `logical_bytes` and `stored_bytes` count features and views alone, before and after compression;
    `file_bytes` counts everything in the store.
    """

    logical_bytes: int
    stored_bytes: int
    file_bytes: int
    compression: str
    chunk_rows: int


class StoreWriter(Protocol):
    """Writes one new store, once.

    One writer, one thread, at a path where nothing exists yet. Nothing there is valid before
    `close` has returned: an unfinished store does not open. Memory holds one call's rows and the
    labels, ids and digests of one split.

    A disk that is full or not writable surfaces as the `OSError` of the operating system. After
    any exception the writer is good for `abort` only.
    """

    def block_rows(self, split: str) -> int:
        """Return the rows of the smallest piece that can be written on its own."""
        ...

    def write_features(self, split: str, start: int, features: NDArray[np.generic]) -> None:
        """Write features of rows `start` onwards; each row once, in any order of blocks.

        Parameters
        ----------
        start
            A multiple of `block_rows`.
        features
            (n, *feature_shape) in the layout's dtype; n a multiple of `block_rows` unless the
            last row of the split is among them.

        Raises
        ------
        ValueError
            A shape, dtype or position that the layout does not allow, or rows written before.
        """
        ...

    def write_views(self, split: str, view: int, start: int, features: NDArray[np.generic]) -> None:
        """Write one view of rows `start` onwards, under the rules of `write_features`.

        Views and features may be written in any order.

        Raises
        ------
        ValueError
            Also for a view that the layout does not have.
        """
        ...

    def write_rows(
        self,
        split: str,
        *,
        labels: NDArray[np.int64],
        sample_ids: Sequence[str],
        sha256: NDArray[np.uint8],
    ) -> None:
        """Write what is known of every row of a split beside its features; once per split.

        Parameters
        ----------
        labels
            (rows,), indices of class names.
        sample_ids
            `rows` texts without NUL.
        sha256
            (rows, 32), digests of the image bytes.
        """
        ...

    def close(self) -> None:
        """Complete the store; files and directories are synced to disk when this returns.

        Raises
        ------
        IntegrityError
            Rows of the layout were never written.
        """
        ...

    def abort(self) -> None:
        """Remove what was written; nothing after a `close` that returned."""
        ...


class SplitReader(Protocol):
    """Rows of one split. May be read from several threads at once."""

    @property
    def rows(self) -> int:
        """Rows in the split."""
        ...

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Axes of one row."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the stored features."""
        ...

    @property
    def chunk_rows(self) -> int:
        """Rows that are decoded together; reads aligned to it decode nothing twice."""
        ...

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return features of rows `start` to `stop` (stop - start, *feature_shape), as stored.

        Raises
        ------
        IntegrityError
            A chunk is absent or fails its checksum; names store, split and rows.
        ValueError
            Not 0 <= start <= stop <= rows.
        """
        ...

    @property
    def views(self) -> int:
        """Versions of every row beside the row itself; 0 for a split that has none."""
        ...

    def read_view(self, view: int, start: int, stop: int) -> NDArray[np.generic]:
        """Return one view of rows `start` to `stop`, as `read` returns their features.

        Raises
        ------
        IntegrityError
            As for `read`; the message names the view, too.
        ValueError
            Not 0 <= view < views, or not 0 <= start <= stop <= rows.
        """
        ...

    def labels(self) -> NDArray[np.int64]:
        """Return the labels (rows,)."""
        ...

    def sample_ids(self) -> Texts:
        """Return the sample ids (rows,)."""
        ...

    def sha256(self) -> NDArray[np.uint8]:
        """Return the digests of the image bytes (rows, 32)."""
        ...


class StoreReader(Protocol):
    """A finished store, open for reading."""

    @property
    def attributes(self) -> dict[str, object]:
        """Attributes as the writer was given them, with the format version."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the writer's order."""
        ...

    def split(self, name: str) -> SplitReader:
        """Return a split's rows; KeyError if the store has no such split."""
        ...

    def storage(self) -> StorageReport:
        """Return sizes, in bytes, and how features are compressed."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...
