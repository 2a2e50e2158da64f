"""Writing stores in HDF5: one file that every HDF5 reader since 1.10 opens."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import h5py
import numpy as np
from h5py import h5f, h5fd, h5p
from numpy.typing import NDArray

from featurestore.stores import durable, hdf5_format, version
from featurestore.stores.contract import SplitLayout, StoreLayout
from featurestore.stores.hdf5_sink import Hdf5Sink
from featurestore.stores.ledger import SplitLedger


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
        except (AttributeError, *hdf5_format.DAMAGE):
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
