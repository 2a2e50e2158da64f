"""Reading stores in HDF5: from a file here, or by ranges from one that lies elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from h5py import h5
from numpy.typing import NDArray

from featurestore.errors import Conflict, FeatureStoreError, IntegrityError
from featurestore.stores import hdf5_format, version
from featurestore.stores.contract import FEATURE_DTYPES, StorageReport, Texts
from featurestore.stores.files import LocalFiles, StoreFiles
from featurestore.stores.hdf5_format import DAMAGE
from featurestore.stores.hdf5_ranges import Hdf5Ranges
from featurestore.stores.ledger import DIGEST_BYTES

_Value = TypeVar("_Value")


def _names_in_order(file: h5py.File) -> list[str]:
    # Iterating a file gives the order of writing only in newer releases of h5py.
    names: list[bytes] = []
    file.id.links.iterate(names.append, idx_type=h5.INDEX_CRT_ORDER)
    return [name.decode() for name in names]


class _Source:
    """What a reader reads from, and what there is to do about it beside calling HDF5."""

    def __init__(self, source: Path | Hdf5Ranges) -> None:
        self._ranges = source if isinstance(source, Hdf5Ranges) else None
        self.files: StoreFiles
        if isinstance(source, Hdf5Ranges):
            self.files = source.files
        else:
            self.files = LocalFiles(source)
            with source.open("rb"):
                pass  # what the operating system refuses is its own error, not damage

    def portions(self, start: int, stop: int, *, row_bytes: int) -> list[tuple[int, int]]:
        """Cut rows into portions, of whole chunks, that can be prefetched together."""
        if start == stop:
            return []
        if self._ranges is None:
            return [(start, stop)]
        chunk_bytes = hdf5_format.CHUNK_ROWS * row_bytes
        step = max(1, self._ranges.kept_bytes // 3 // chunk_bytes) * hdf5_format.CHUNK_ROWS
        edges = [start, *range(start - start % step + step, stop, step), stop]
        return list(itertools.pairwise(edges))

    @property
    def is_elsewhere(self) -> bool:
        """Whether reading ahead of HDF5 is worth it."""
        return self._ranges is not None

    def prefetch(self, rows: version.StoredRows, pieces: list[range]) -> None:
        """Read pieces of the file, which hold these rows, so that HDF5 finds them in memory."""
        if self._ranges is None:
            return
        try:
            self._ranges.prefetch(pieces)
        except FeatureStoreError as error:
            raise version.while_reading(rows, error) from error

    def raise_failure(self, rows: version.StoredRows | None = None) -> None:
        """Raise what kept HDF5 from reading, if it was not the bytes themselves."""
        failure = None if self._ranges is None else self._ranges.take_failure()
        if rows is not None and isinstance(failure, FeatureStoreError):
            raise version.while_reading(rows, failure) from failure
        if failure is not None:
            raise failure


class Hdf5Split:
    """Rows of one split of an HDF5 store; see `SplitReader`."""

    def __init__(self, source: _Source, name: str, group: h5py.Group) -> None:
        self._source = source
        self._name = name
        self._group = group
        self._features = group["features"]
        self._views = group[hdf5_format.VIEW_FEATURES] if hdf5_format.VIEWS in group else None
        self._view_count = 0 if self._views is None else int(self._views.shape[0])
        self._rows = int(self._features.shape[0])
        self._feature_shape = tuple(self._features.shape[1:])
        self._dtype: np.dtype[np.generic] = self._features.dtype.newbyteorder("=")
        self._check()

    @property
    def rows(self) -> int:
        """Rows in the split."""
        return self._rows

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Axes of one row."""
        return self._feature_shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the stored features."""
        return self._dtype

    @property
    def chunk_rows(self) -> int:
        """Rows that are decoded together."""
        return hdf5_format.CHUNK_ROWS

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return features of rows `start` to `stop`."""
        return self._read_rows(None, start, stop)

    @property
    def views(self) -> int:
        """Versions of every row beside the row itself."""
        return self._view_count

    def read_view(self, view: int, start: int, stop: int) -> NDArray[np.generic]:
        """Return one view of rows `start` to `stop`."""
        if not 0 <= view < self.views:
            raise ValueError(f"view {view} is not one of the {self.views} of the split")
        return self._read_rows(view, start, stop)

    def labels(self) -> NDArray[np.int64]:
        """Return the labels (rows,)."""
        labels: NDArray[np.int64] = self._read("labels", lambda dataset: dataset[:])
        return labels.astype(np.int64, copy=False)

    def sample_ids(self) -> Texts:
        """Return the sample ids (rows,)."""
        texts = self._read("sample_ids", lambda dataset: dataset.asstr()[:])
        return np.array(texts, dtype=np.dtypes.StringDType())

    def sha256(self) -> NDArray[np.uint8]:
        """Return the digests of the image bytes (rows, 32)."""
        digests: NDArray[np.uint8] = self._read("sha256", lambda dataset: dataset[:])
        return digests

    def storage(self) -> tuple[int, int]:
        """Return the size of the features in bytes, before and after compression."""
        datasets = [each for each in (self._features, self._views) if each is not None]
        logical = sum(prod(each.shape) for each in datasets) * self.dtype.itemsize
        stored = sum(int(each.id.get_storage_size()) for each in datasets)
        return logical, stored if self.rows else 0

    def _check(self) -> None:
        features, rows = self._features, self._rows
        if features.dtype not in FEATURE_DTYPES:
            raise ValueError(f"features of split {self._name} are {features.dtype}")
        shapes = {
            "labels": (rows,),
            "sample_ids": (rows,),
            "sha256": (rows, DIGEST_BYTES),
        }
        for name, shape in shapes.items():
            if self._group[name].shape != shape:
                raise ValueError(f"{name} of split {self._name} are {self._group[name].shape}")
        if self._views is not None and (
            self._views.dtype != features.dtype or self._views.shape[1:] != features.shape
        ):
            raise ValueError(
                f"views of split {self._name} are {self._views.dtype} {self._views.shape}"
            )
        # A chunk that is not there would read as zeros.
        for name in ("features", *shapes, *([hdf5_format.VIEW_FEATURES] if self.views else [])):
            dataset = self._group[name]
            if rows and dataset.id.get_num_chunks() != hdf5_format.chunk_count(dataset):
                raise ValueError(f"{name} of split {self._name} lack chunks")
        if rows and hdf5_format.ZSTD_FILTER in hdf5_format.filters(features):
            hdf5_format.require_zstd()

    def _require_open(self) -> None:
        # h5py's own error for this could not be told from damage.
        if not self._features:
            raise ValueError(f"store {self._source.files.place} was closed; open it again to read")

    def _read(self, name: str, access: Callable[[h5py.Dataset], Any]) -> Any:
        self._require_open()
        try:
            return access(self._group[name])
        except DAMAGE as error:
            self._source.raise_failure(self._stored(name, range(self.rows)))
            raise self._damaged(name, range(self.rows), error) from error

    def _read_rows(self, view: int | None, start: int, stop: int) -> NDArray[np.generic]:
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"rows {start} to {stop} are not within the {self.rows} of the split")
        self._require_open()
        out = np.empty((stop - start, *self.feature_shape), self.dtype)
        dataset: Any = self._features if view is None else self._views
        name = "features" if view is None else f"view {view}"
        at = () if view is None else (view,)
        for low, high in self._source.portions(start, stop, row_bytes=out[:1].nbytes):
            stored = self._stored(name, range(low, high))
            try:
                if self._source.is_elsewhere:
                    self._source.prefetch(stored, self._pieces(dataset, at, range(low, high)))
                dataset.read_direct(out[low - start : high - start], (*at, slice(low, high)))
            except DAMAGE as error:
                self._source.raise_failure(stored)
                rows = self._damaged_rows(dataset, at, range(low, high))
                raise self._damaged(name, rows, error) from error
        return out

    def _pieces(self, dataset: h5py.Dataset, at: tuple[int, ...], rows: range) -> list[range]:
        """Return where the chunks of rows lie in the file."""
        pieces = []
        for row in range(rows.start - rows.start % self.chunk_rows, rows.stop, self.chunk_rows):
            place = (*at, row, *(0 for _ in self.feature_shape))
            found = dataset.id.get_chunk_info_by_coord(place)
            if found.byte_offset is not None:
                pieces.append(range(found.byte_offset, found.byte_offset + found.size))
        return pieces

    def _damaged_rows(self, dataset: h5py.Dataset, at: tuple[int, ...], wanted: range) -> range:
        first, last = wanted.start // self.chunk_rows, -(-wanted.stop // self.chunk_rows)
        for chunk in range(first, last):
            rows = range(self.rows)[chunk * self.chunk_rows : (chunk + 1) * self.chunk_rows]
            try:
                dataset[(*at, slice(rows.start, rows.stop))]
            except DAMAGE:
                return rows
        return wanted

    def _damaged(self, array: str, rows: range, reason: object) -> IntegrityError:
        return version.damaged_rows(self._source.files, self._stored(array, rows), str(reason))

    def _stored(self, array: str, rows: range) -> version.StoredRows:
        return version.StoredRows(self._name, array, rows)


class Hdf5Reader:
    """A finished HDF5 store; see `StoreReader`."""

    def __init__(self, source: Path | Hdf5Ranges) -> None:
        self._source = _Source(source)
        try:
            self._file = h5py.File(source, "r")
        except BlockingIOError as error:
            raise Conflict(
                f"store {self._source.files.place} is open for writing elsewhere, "
                "which no store may be",
                next_step="end the program that has it open, then: fs verify",
            ) from error
        except DAMAGE as error:
            raise self._unreadable(error) from error
        try:
            self._attributes = self._damage_as_error(
                lambda: hdf5_format.read_attributes(self._file)
            )
            version.refuse_newer(self._attributes, files=self._source.files)
            self._splits = self._damage_as_error(
                lambda: {
                    name: Hdf5Split(self._source, name, self._file[name])
                    for name in _names_in_order(self._file)
                }
            )
        except BaseException:
            self._file.close()
            raise

    @property
    def attributes(self) -> dict[str, object]:
        """Attributes as the writer was given them, with the format version."""
        return self._attributes

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the writer's order."""
        return tuple(self._splits)

    def split(self, name: str) -> Hdf5Split:
        """Return a split's rows, readable until `close`."""
        return self._splits[name]

    def storage(self) -> StorageReport:
        """Return sizes in bytes."""
        sizes = [split.storage() for split in self._splits.values()]
        return {
            "logical_bytes": sum(logical for logical, _ in sizes),
            "stored_bytes": sum(stored for _, stored in sizes),
            "file_bytes": sum(self._source.files.sizes().values()),
            "compression": self._compression(),
            "chunk_rows": hdf5_format.CHUNK_ROWS,
        }

    def close(self) -> None:
        """Close the file; its splits read no more."""
        self._file.close()

    def _compression(self) -> str:
        for split in self._splits:
            if hdf5_format.ZSTD_FILTER in hdf5_format.filters(self._file[split]["features"]):
                return f"zstd-{hdf5_format.LEVEL} + fletcher32"
        return f"gzip-{hdf5_format.LEVEL}"

    def _damage_as_error(self, access: Callable[[], _Value]) -> _Value:
        try:
            return access()
        except DAMAGE as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> IntegrityError:
        self._source.raise_failure()
        return version.unreadable(self._source.files, str(error))
