"""Stores in Zarr format 3: a folder of chunk files that any Zarr reader opens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import FeatureStoreError, IntegrityError
from featurestore.stores import durable, version, zarr_chunks, zarr_format
from featurestore.stores.contract import StorageReport, StoreLayout, Texts
from featurestore.stores.files import LocalFiles, StoreFiles
from featurestore.stores.ledger import SplitLedger
from featurestore.stores.zarr_chunks import ChunkError
from featurestore.stores.zarr_format import ArrayFormat

_THREADS = min(4, os.cpu_count() or 1)
# Below this many chunks a pool of threads costs more than it saves.
_PARALLEL_FROM = 3


class ZarrWriter:
    """Writes one Zarr store; see `StoreWriter`.

    The store's own `zarr.json` is written last, when all else is on disk: a folder without it is
    no store.

    Parameters
    ----------
    shard_above
        Rows from which on a split is sharded.
    """

    def __init__(
        self, path: Path, layout: StoreLayout, *, shard_above: int = zarr_format.SHARD_ABOVE
    ) -> None:
        self._path = path
        self._attributes = version.stamp(layout.attributes, views=layout.has_views)
        self._arrays = {
            name: zarr_format.array_formats(split, shard_above=shard_above)
            for name, split in layout.splits.items()
        }
        self._ledgers = {
            name: SplitLedger(name, split, block_rows=self._arrays[name]["features"].shard_rows)
            for name, split in layout.splits.items()
        }
        self._closed = False
        durable.make_directory(path)
        try:
            for member in self._members():
                durable.make_directory(path / member)
        except BaseException:
            durable.remove(path)
            raise

    def block_rows(self, split: str) -> int:
        """Return the rows of a chunk file, or of a shard file."""
        return self._ledgers[split].block_rows

    def write_features(self, split: str, start: int, features: NDArray[np.generic]) -> None:
        """Write whole chunks or shards; compresses several at once on several cores."""
        self._write(split, None, start, features)

    def write_views(self, split: str, view: int, start: int, features: NDArray[np.generic]) -> None:
        """Write whole chunks or shards of one view, as `write_features` does."""
        self._write(split, view, start, features)

    def _write(
        self, split: str, view: int | None, start: int, features: NDArray[np.generic]
    ) -> None:
        ledger = self._ledgers[split]
        ledger.check_features(start, features, view=view)
        name = "features" if view is None else zarr_format.VIEW_FEATURES
        array = self._arrays[split][name]
        first = array.first_chunk(view or 0) + start // array.chunk_rows
        cuts = range(0, len(features), array.chunk_rows)
        chunks = _parallel(
            lambda cut: zarr_chunks.encode_chunk(
                features[cut : cut + array.chunk_rows], chunk_rows=array.chunk_rows
            ),
            cuts,
            threads=_THREADS,
        )
        for file, stored in array.files(first, chunks):
            durable.write_new_file(self._path / split / name / file, stored)
        ledger.note_features(start, start + len(features), view=view)

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
        for name, column in (("labels", labels), ("sample_ids", sample_ids), ("sha256", sha256)):
            array = self._arrays[split][name]
            for chunk in range(array.chunk_count):
                extent = array.chunk_extent(chunk)
                part = column[extent.start : extent.stop]
                stored = (
                    zarr_chunks.encode_chunk(part, chunk_rows=array.chunk_rows)
                    if isinstance(part, np.ndarray)
                    else zarr_chunks.encode_texts(part, chunk_rows=array.chunk_rows)
                )
                durable.write_new_file(self._path / split / name / array.file_of(chunk), stored)
        ledger.note_rows()

    def close(self) -> None:
        """Write the metadata and sync everything, the store's own `zarr.json` last."""
        for ledger in self._ledgers.values():
            ledger.require_complete(self._path)
        members = self._members()
        for member, document in members.items():
            durable.write_new_file(
                self._path / member / zarr_format.METADATA_FILE,
                zarr_format.metadata_bytes(document),
            )
        durable.sync_tree(self._path)
        root = self._path / zarr_format.METADATA_FILE
        durable.write_new_file(root, zarr_format.root_metadata(self._attributes, members))
        durable.sync_file(root)
        durable.sync_directory(self._path)
        durable.sync_directory(self._path.parent)
        self._closed = True

    def abort(self) -> None:
        """Remove the folder, unless it is a finished store."""
        if not self._closed:
            durable.remove(self._path)

    def _members(self) -> dict[str, zarr_format.Json]:
        """Return the metadata of all groups and arrays by path, each group before what it holds."""
        members: dict[str, zarr_format.Json] = {}
        for split, arrays in self._arrays.items():
            members[split] = zarr_format.group_document({})
            for name, array in arrays.items():
                if array.has_views:
                    members[f"{split}/{zarr_format.VIEWS}"] = zarr_format.group_document({})
                members[f"{split}/{name}"] = array.document()
        return members


class ZarrSplit:
    """Rows of one split of a Zarr store; see `SplitReader`.

    Keeps no file open between reads: local ones survive a fork and need no closing.
    """

    def __init__(self, files: StoreFiles, name: str, arrays: dict[str, ArrayFormat]) -> None:
        self._files = files
        self._name = name
        self._arrays = arrays
        self._features = arrays["features"]
        self._views = arrays.get(zarr_format.VIEW_FEATURES)
        self._indices: dict[str, NDArray[np.uint64]] = {}

    @property
    def rows(self) -> int:
        """Rows in the split."""
        return self._features.rows

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Axes of one row."""
        return self._features.row_shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the stored features."""
        return np.dtype(self._features.data_type)

    @property
    def chunk_rows(self) -> int:
        """Rows that are decoded together."""
        return self._features.chunk_rows

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return features of rows `start` to `stop`; decodes chunks on several cores."""
        return self._read("features", start, stop)

    @property
    def views(self) -> int:
        """Versions of every row beside the row itself."""
        return self._views.views if self._views else 0

    def read_view(self, view: int, start: int, stop: int) -> NDArray[np.generic]:
        """Return one view of rows `start` to `stop`; decodes chunks on several cores."""
        if self._views is None or not 0 <= view < self.views:
            raise ValueError(f"view {view} is not one of the {self.views} of the split")
        return self._read(
            zarr_format.VIEW_FEATURES, start, stop, first_chunk=self._views.first_chunk(view)
        )

    def labels(self) -> NDArray[np.int64]:
        """Return the labels (rows,)."""
        return self._column("labels", np.dtype(np.int64)).astype(np.int64, copy=False)

    def sample_ids(self) -> Texts:
        """Return the sample ids (rows,)."""
        array = self._arrays["sample_ids"]
        texts: list[str] = []
        for chunk in range(array.chunk_count):
            stored = self._stored("sample_ids", chunk)
            try:
                texts += zarr_chunks.decode_texts(stored, chunk_rows=array.chunk_rows)
            except ChunkError as error:
                raise self._damaged("sample_ids", chunk, str(error)) from error
        return np.array(texts[: self.rows], dtype=np.dtypes.StringDType())

    def sha256(self) -> NDArray[np.uint8]:
        """Return the digests of the image bytes (rows, 32)."""
        return self._column("sha256", np.dtype(np.uint8)).astype(np.uint8, copy=False)

    def _read(
        self, name: str, start: int, stop: int, *, first_chunk: int = 0
    ) -> NDArray[np.generic]:
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"rows {start} to {stop} are not within the {self.rows} of the split")
        out = np.empty((stop - start, *self.feature_shape), self.dtype)

        def fill(place: int) -> None:
            chunk = first_chunk + place
            extent = self._arrays[name].chunk_extent(chunk)
            low, high = max(extent.start, start), min(extent.stop, stop)
            rows = self._decoded(name, chunk, self.dtype)
            out[low - start : high - start] = rows[low - extent.start : high - extent.start]

        _parallel(
            fill,
            range(start // self.chunk_rows, -(-stop // self.chunk_rows)),
            threads=self._files.reads_at_once,
        )
        return out

    def _column(self, name: str, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        array = self._arrays[name]
        out = np.empty(array.shape, dtype)
        for chunk in range(array.chunk_count):
            extent = array.chunk_extent(chunk)
            out[extent.start : extent.stop] = self._decoded(name, chunk, dtype)[: len(extent)]
        return out

    def _decoded(self, name: str, chunk: int, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        array = self._arrays[name]
        stored = self._stored(name, chunk)
        try:
            return zarr_chunks.decode_chunk(
                stored, chunk_rows=array.chunk_rows, row_shape=array.row_shape, dtype=dtype
            )
        except ChunkError as error:
            raise self._damaged(name, chunk, str(error)) from error

    def _stored(self, name: str, chunk: int) -> bytes:
        array = self._arrays[name]
        file = f"{self._name}/{name}/{array.file_of(chunk)}"
        try:
            if not array.sharded:
                return self._files.read(file)
            index = self._shard_index(file, slots=array.shard_rows // array.chunk_rows)
            offset, length = (int(entry) for entry in index[array.slot_of(chunk)])
            if offset == zarr_chunks.ABSENT:
                raise ChunkError("the shard has no such chunk")
            return self._files.read_range(file, offset, length)
        except FileNotFoundError as error:
            missing = f"{array.file_of(chunk)} is missing"
            raise self._damaged(name, chunk, missing) from error
        except ChunkError as error:
            raise self._damaged(name, chunk, str(error)) from error
        except FeatureStoreError as error:  # of files that lie elsewhere
            raise version.while_reading(self._rows_of(name, chunk), error) from error

    def _shard_index(self, file: str, *, slots: int) -> NDArray[np.uint64]:
        index = self._indices.get(file)
        if index is None:
            stored = self._files.read_tail(file, zarr_chunks.index_bytes(slots))
            index = zarr_chunks.decode_index(stored, slots=slots)
            self._indices[file] = index
        return index

    def _damaged(self, name: str, chunk: int, reason: str) -> IntegrityError:
        return version.damaged_rows(self._files, self._rows_of(name, chunk), reason)

    def _rows_of(self, name: str, chunk: int) -> version.StoredRows:
        array = self._arrays[name]
        return version.StoredRows(
            split=self._name,
            array=f"view {array.view_of(chunk)}" if array.has_views else name,
            rows=array.chunk_extent(chunk),
        )


class ZarrReader:
    """A finished Zarr store, in a folder or behind other `StoreFiles`; see `StoreReader`."""

    def __init__(self, source: Path | StoreFiles) -> None:
        self._files = files = LocalFiles(source) if isinstance(source, Path) else source
        try:
            text = files.read(zarr_format.METADATA_FILE)
        except FileNotFoundError as error:
            raise version.unreadable(files, "it has no zarr.json") from error
        try:
            document = json.loads(text)
            self._attributes = dict(document["attributes"])
            signature = self._attributes.pop(version.CHECKSUM)
            members = document["consolidated_metadata"]["metadata"]
        except (ValueError, KeyError, TypeError) as error:
            raise version.unreadable(files, f"zarr.json is not a store's: {error!r}") from error
        if not zarr_format.is_authentic(text, signature):
            raise version.unreadable(files, f"zarr.json does not match its {version.CHECKSUM}")
        version.refuse_newer(self._attributes, files=files)
        self._splits = {
            name: self._open_split(name, members)
            for name, member in members.items()
            if member["node_type"] == "group" and "/" not in name
        }

    @property
    def attributes(self) -> dict[str, object]:
        """Attributes as the writer was given them, with the format version."""
        return self._attributes

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the writer's order."""
        return tuple(self._splits)

    def split(self, name: str) -> ZarrSplit:
        """Return a split's rows."""
        return self._splits[name]

    def storage(self) -> StorageReport:
        """Return sizes in bytes; looks at every file."""
        sizes = self._files.sizes()
        stored = sum(
            size
            for name, size in sizes.items()
            if name.split("/")[-2:-1] == ["features"]
            and not name.endswith(f"/{zarr_format.METADATA_FILE}")
        )
        return {
            "logical_bytes": sum(
                (1 + split.views) * split.rows * prod(split.feature_shape) * split.dtype.itemsize
                for split in self._splits.values()
            ),
            "stored_bytes": stored,
            "file_bytes": sum(sizes.values()),
            "compression": f"zstd-{zarr_chunks.ZSTD_LEVEL} + crc32c",
            "chunk_rows": zarr_format.CHUNK_ROWS,
        }

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _open_split(self, name: str, members: dict[str, zarr_format.Json]) -> ZarrSplit:
        try:
            arrays = zarr_format.parse_split(name, members)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise version.unreadable(self._files, f"features of split {name}: {error!r}") from error
        return ZarrSplit(self._files, name, arrays)


_Result = TypeVar("_Result")


def _parallel(
    function: Callable[[int], _Result], items: Sequence[int], *, threads: int
) -> list[_Result]:
    """Return the results in order; several threads where there is enough for them to do."""
    if len(items) < _PARALLEL_FROM or threads == 1:
        return [function(item) for item in items]
    # A pool per call: one that is kept would be dead in a forked child, and hang it.
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(function, items))
