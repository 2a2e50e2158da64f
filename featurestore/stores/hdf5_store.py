"""Stores in HDF5: one file that every HDF5 reader since 1.10 opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from h5py import h5, h5f, h5fd, h5p
from numpy.typing import NDArray

from featurestore.errors import Conflict, IntegrityError
from featurestore.stores import durable, hdf5_format, version
from featurestore.stores.contract import (
    FEATURE_DTYPES,
    SplitLayout,
    StorageReport,
    StoreLayout,
    Texts,
)
from featurestore.stores.files import LocalFiles, StoreFiles
from featurestore.stores.hdf5_sink import Hdf5Sink
from featurestore.stores.ledger import DIGEST_BYTES, SplitLedger

# What h5py raises for a file that is not as it was written.
_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError)

_Value = TypeVar("_Value")


class Hdf5Writer:
    """Writes one HDF5 store; see `StoreWriter`.

    The same layout and rows, written in the same order, give the same bytes: no object carries a
    time.

    Parameters
    ----------
    path
        Never a store's final name: a file half written lies there until `close` returned.
    compression
        "gzip", which every reader knows, or "zstd", which needs hdf5plugin to write and to read.
    """

    def __init__(self, path: Path, layout: StoreLayout, *, compression: str = "gzip") -> None:
        self._path = path
        self._compression = compression
        self._closed = False
        self._ledgers = {
            name: SplitLedger(name, split, block_rows=hdf5_format.CHUNK_ROWS)
            for name, split in layout.splits.items()
        }
        attributes = {
            name: hdf5_format.encode_attribute(value)
            for name, value in version.stamp(layout.attributes, views=layout.has_views).items()
        }
        hdf5_format.dataset_properties(compression)  # a missing filter shows before the file does
        self._sink = Hdf5Sink(path.open("x+b", buffering=0))
        try:
            self._file = _create_file(self._sink)
            self._groups = {
                name: hdf5_format.create_group(self._file, name) for name in self._ledgers
            }
            hdf5_format.write_attributes(self._file, attributes)
            for name, split in layout.splits.items():
                self._create_features(self._groups[name], split)
                if split.views:
                    views = hdf5_format.create_group(self._groups[name], hdf5_format.VIEWS)
                    self._create_features(views, split, views=(split.views,))
            self._raise_failure()
        except BaseException:
            self.abort()
            raise

    def block_rows(self, split: str) -> int:
        """Return the rows of a chunk."""
        return self._ledgers[split].block_rows

    def write_features(self, split: str, start: int, features: NDArray[np.generic]) -> None:
        """Write whole chunks."""
        self._write(split, None, start, features)

    def write_views(self, split: str, view: int, start: int, features: NDArray[np.generic]) -> None:
        """Write whole chunks of one view."""
        self._write(split, view, start, features)

    def _write(
        self, split: str, view: int | None, start: int, features: NDArray[np.generic]
    ) -> None:
        ledger = self._ledgers[split]
        ledger.check_features(start, features, view=view)
        stop = start + len(features)
        if view is None and len(features):
            self._groups[split]["features"][start:stop] = features
        elif len(features):
            self._groups[split][hdf5_format.VIEW_FEATURES][view, start:stop] = features
        self._raise_failure()
        ledger.note_features(start, stop, view=view)

    def write_rows(
        self,
        split: str,
        *,
        labels: NDArray[np.int64],
        sample_ids: Sequence[str],
        sha256: NDArray[np.uint8],
    ) -> None:
        """Write the columns beside a split's features."""
        ledger = self._ledgers[split]
        ledger.check_rows(labels=labels, sample_ids=sample_ids, sha256=sha256)
        utf8 = [sample_id.encode() for sample_id in sample_ids]
        id_type = hdf5_format.text_dtype(utf8)
        columns = (
            ("labels", labels, np.dtype("<i8")),
            ("sample_ids", np.array(utf8, dtype=id_type), id_type),
            ("sha256", sha256, np.dtype("u1")),
        )
        for name, column, dtype in columns:
            row_bytes = prod(column.shape[1:]) * dtype.itemsize
            chunk_rows = hdf5_format.column_chunk_rows(len(labels), row_bytes)
            dataset = hdf5_format.create_dataset(
                self._groups[split],
                name,
                space=hdf5_format.Space(column.shape, dtype, (chunk_rows, *column.shape[1:])),
                compression="gzip",
            )
            if len(labels):
                dataset[:] = column
        self._raise_failure()
        ledger.note_rows()

    def close(self) -> None:
        """Complete the file and sync it and its name."""
        for ledger in self._ledgers.values():
            ledger.require_complete(self._path)
        self._file.close()
        self._raise_failure()
        self._sink.sync()
        self._sink.close()
        durable.sync_directory(self._path.parent)
        self._closed = True

    def abort(self) -> None:
        """Remove the file, unless it is a finished store."""
        if self._closed:
            return
        if self._sink.failure is None:
            self._sink.failure = ValueError(f"the writer of {self._path} was aborted")
        try:
            self._file.close()
        except (AttributeError, *_DAMAGE):
            # HDF5 misses what was not written after a failure, or had no file yet.
            pass
        self._sink.close()
        durable.remove(self._path)

    def _create_features(
        self, group: h5py.Group, split: SplitLayout, *, views: tuple[int, ...] = ()
    ) -> None:
        chunk_rows = min(hdf5_format.CHUNK_ROWS, split.rows)
        space = hdf5_format.Space(
            shape=(*views, split.rows, *split.feature_shape),
            dtype=np.dtype(split.dtype).newbyteorder("<"),
            chunks=(*(1 for _ in views), chunk_rows, *split.feature_shape),
        )
        hdf5_format.create_dataset(group, "features", space=space, compression=self._compression)

    def _raise_failure(self) -> None:
        if self._sink.failure is not None:
            raise self._sink.failure


def _create_file(sink: Hdf5Sink) -> h5py.File:
    access = h5p.create(h5p.FILE_ACCESS)
    # From 1.10 on all of HDF5's own structures carry checksums; older bounds leave some without.
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    access.set_fileobj_driver(h5fd.fileobj_driver, sink)
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    creation.set_link_creation_order(h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED)
    return h5py.File(h5f.create(b"featurestore", h5f.ACC_EXCL, fapl=access, fcpl=creation))


def _names_in_order(file: h5py.File) -> list[str]:
    # Iterating a file gives the order of writing only in newer releases of h5py.
    names: list[bytes] = []
    file.id.links.iterate(names.append, idx_type=h5.INDEX_CRT_ORDER)
    return [name.decode() for name in names]


class Hdf5Split:
    """Rows of one split of an HDF5 store; see `SplitReader`."""

    def __init__(self, files: StoreFiles, name: str, group: h5py.Group) -> None:
        self._files = files
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
            raise ValueError(f"store {self._files.place} was closed; open it again to read")

    def _read(self, name: str, access: Callable[[h5py.Dataset], Any]) -> Any:
        self._require_open()
        try:
            return access(self._group[name])
        except _DAMAGE as error:
            raise self._damaged(name, range(self.rows), error) from error

    def _read_rows(self, view: int | None, start: int, stop: int) -> NDArray[np.generic]:
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"rows {start} to {stop} are not within the {self.rows} of the split")
        self._require_open()
        out = np.empty((stop - start, *self.feature_shape), self.dtype)
        if stop > start:
            dataset: Any = self._features if view is None else self._views
            at = () if view is None else (view,)
            try:
                dataset.read_direct(out, (*at, slice(start, stop)))
            except _DAMAGE as error:
                rows = self._damaged_rows(dataset, at, range(start, stop))
                name = "features" if view is None else f"view {view}"
                raise self._damaged(name, rows, error) from error
        return out

    def _damaged_rows(self, dataset: h5py.Dataset, at: tuple[int, ...], wanted: range) -> range:
        first, last = wanted.start // self.chunk_rows, -(-wanted.stop // self.chunk_rows)
        for chunk in range(first, last):
            rows = range(self.rows)[chunk * self.chunk_rows : (chunk + 1) * self.chunk_rows]
            try:
                dataset[(*at, slice(rows.start, rows.stop))]
            except _DAMAGE:
                return rows
        return wanted

    def _damaged(self, array: str, rows: range, reason: object) -> IntegrityError:
        return version.damaged_rows(
            self._files, version.StoredRows(self._name, array, rows), str(reason)
        )


class Hdf5Reader:
    """A finished HDF5 store; see `StoreReader`."""

    def __init__(self, path: Path) -> None:
        self._files: StoreFiles = LocalFiles(path)
        with path.open("rb"):
            pass  # what the operating system refuses is its own error, not damage
        try:
            self._file = h5py.File(path, "r")
        except BlockingIOError as error:
            raise Conflict(
                f"store {path} is open for writing elsewhere, which no store may be",
                next_step="end the program that has it open, then: fs verify",
            ) from error
        except _DAMAGE as error:
            raise version.unreadable(self._files, str(error)) from error
        try:
            self._attributes = self._damage_as_error(
                lambda: hdf5_format.read_attributes(self._file)
            )
            version.refuse_newer(self._attributes, files=self._files)
            self._splits = self._damage_as_error(
                lambda: {
                    name: Hdf5Split(self._files, name, self._file[name])
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
            "file_bytes": sum(self._files.sizes().values()),
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
        except _DAMAGE as error:
            raise version.unreadable(self._files, str(error)) from error
