"""The Zarr 3 files of a store as values: metadata documents and keys; no disk.

Written out here instead of through zarr-python, which reads these stores but was no good to build
on: it takes an absent chunk for zeros, never syncs, names neither file nor rows of a damaged
chunk, writes metadata that differs between its releases, and reads 1.4 times slower.
The conformance suite holds every file to what zarr-python makes of it, in both directions.

Source: Zarr core specification 3.0 and its codecs bytes, zstd, crc32c, vlen-utf8 and
sharding_indexed 1.0; `docs/format.md` spells out the part in use.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from featurestore.stores.contract import SplitLayout
from featurestore.stores.version import CHECKSUM
from featurestore.stores.zarr_chunks import ZSTD_LEVEL, assemble_shard

CHUNK_ROWS = 64
SHARD_ROWS = 1024
VIEWS = "views"
VIEW_FEATURES = f"{VIEWS}/features"
"""Paths, within a split's group, of a group and of the features of all views in it."""

SHARD_ABOVE = 100_000
"""Splits of more rows than this are sharded; up to it every chunk is a file of its own."""
COLUMN_CHUNK_ROWS = 16_384

METADATA_FILE = "zarr.json"
_UNSIGNED = "-" * 64

Json = dict[str, object]


@dataclass(frozen=True)
class ArrayFormat:
    """How one array is cut and encoded.

    Parameters
    ----------
    shape
        Rows first, or views and then rows; only these axes are cut.
    data_type
        Name in the Zarr specification; "string" is encoded with vlen-utf8.
    chunk_rows
        Rows per chunk; the last chunk is padded with the fill value.
    shard_rows
        Rows per file, a multiple of `chunk_rows`; equal to it where there are no shards.
    has_views
        Whether the first axis is that of views. A chunk or shard then holds rows of one view, and
        chunks are numbered through all views: those of view 0 first.
    """

    shape: tuple[int, ...]
    data_type: str
    chunk_rows: int
    shard_rows: int
    dimension_names: tuple[str, ...]
    has_views: bool = False

    @property
    def rows(self) -> int:
        """Rows in the array, in each of its views."""
        return self.shape[1] if self.has_views else self.shape[0]

    @property
    def views(self) -> int:
        """Extent of the axis of views; 0 where there is none."""
        return self.shape[0] if self.has_views else 0

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Axes of one row."""
        return self.shape[2:] if self.has_views else self.shape[1:]

    @property
    def sharded(self) -> bool:
        """Whether a file holds more than one chunk."""
        return self.shard_rows != self.chunk_rows

    @property
    def chunk_count(self) -> int:
        """Chunks in the array, or in each of its views, the last one padded."""
        return -(-self.rows // self.chunk_rows)

    def first_chunk(self, view: int) -> int:
        """Return the number of the chunk that a view begins with."""
        return view * self.chunk_count

    def view_of(self, chunk: int) -> int:
        """Return the view that a chunk belongs to."""
        return chunk // self.chunk_count

    def chunk_extent(self, chunk: int) -> range:
        """Return the rows of a chunk, without padding."""
        place = chunk % self.chunk_count
        return range(self.rows)[place * self.chunk_rows : (place + 1) * self.chunk_rows]

    def file_of(self, chunk: int) -> str:
        """Return the name, in the array's folder, of the file that a chunk lies in."""
        view, place = divmod(chunk, self.chunk_count)
        cut = [str(view)] if self.has_views else []
        cut.append(str(place * self.chunk_rows // self.shard_rows))
        return ".".join(["c", *cut, *["0"] * len(self.row_shape)])

    def slot_of(self, chunk: int) -> int:
        """Return the place of a chunk in its shard."""
        return chunk % self.chunk_count % (self.shard_rows // self.chunk_rows)

    def files(self, first_chunk: int, chunks: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of each file that consecutive whole files' chunks make up.

        All chunks are of one view.
        """
        slots = self.shard_rows // self.chunk_rows
        for start in range(0, len(chunks), slots):
            group = chunks[start : start + slots]
            stored = assemble_shard(group, slots=slots) if self.sharded else group[0]
            yield self.file_of(first_chunk + start), stored

    def document(self) -> Json:
        """Return the array's `zarr.json`."""
        is_text = self.data_type == "string"
        fill: object = "" if is_text else 0.0 if self.data_type.startswith("float") else 0
        chunk_codecs = [_serializer(self.data_type), *_ZSTD_CRC]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.data_type,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": self._cut(self.shard_rows)},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": fill,
            "codecs": [self._sharding(chunk_codecs)] if self.sharded else chunk_codecs,
            "dimension_names": list(self.dimension_names),
            "attributes": {},
            "storage_transformers": [],
        }

    def _cut(self, rows: int) -> list[int]:
        return [*([1] if self.has_views else []), rows, *self.row_shape]

    def _sharding(self, chunk_codecs: Sequence[Json]) -> Json:
        return {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": self._cut(self.chunk_rows),
                "codecs": list(chunk_codecs),
                "index_codecs": [_LITTLE_ENDIAN, _CRC32C],
                "index_location": "end",
            },
        }


_LITTLE_ENDIAN: Json = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C: Json = {"name": "crc32c"}
_ZSTD_CRC: tuple[Json, ...] = (
    {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
    _CRC32C,
)


def _serializer(data_type: str) -> Json:
    if data_type == "string":
        return {"name": "vlen-utf8", "configuration": {}}
    return {"name": "bytes"} if data_type == "uint8" else _LITTLE_ENDIAN


def array_formats(layout: SplitLayout, *, shard_above: int) -> dict[str, ArrayFormat]:
    """Return the arrays of a split by their path in it: four, and the views where it has any.

    Parameters
    ----------
    shard_above
        Rows from which on features are sharded; `SHARD_ABOVE` outside tests.
    """
    rows, shape = layout.rows, layout.feature_shape
    axes = {1: ("channel",), 3: ("height", "width", "channel")}.get(
        len(shape), tuple(f"axis{axis + 1}" for axis in range(len(shape)))
    )
    column = min(max(rows, 1), COLUMN_CHUNK_ROWS)
    features = ArrayFormat(
        shape=(rows, *shape),
        data_type=layout.dtype,
        chunk_rows=CHUNK_ROWS,
        shard_rows=SHARD_ROWS if rows > shard_above else CHUNK_ROWS,
        dimension_names=("row", *axes),
    )
    arrays = {
        "features": features,
        "labels": ArrayFormat((rows,), "int64", column, column, ("row",)),
        "sample_ids": ArrayFormat((rows,), "string", column, column, ("row",)),
        "sha256": ArrayFormat((rows, 32), "uint8", column, column, ("row", "byte")),
    }
    if layout.views:
        arrays[VIEW_FEATURES] = replace(
            features,
            shape=(layout.views, *features.shape),
            dimension_names=("view", *features.dimension_names),
            has_views=True,
        )
    return arrays


def parse_split(split: str, members: Mapping[str, Json]) -> dict[str, ArrayFormat]:
    """Return the arrays of a split, as `array_formats` does, from a store's metadata documents.

    Raises
    ------
    ValueError, KeyError, TypeError, AttributeError
        A document of features or views is not one that `ArrayFormat.document` makes.
    """
    found = {name: members.get(f"{split}/{name}") for name in ("features", VIEW_FEATURES)}
    features, views = found["features"], found[VIEW_FEATURES]
    if features is None:
        raise KeyError("it has none")
    shape = tuple(int(extent) for extent in features["shape"])  # type: ignore[attr-defined]  # JSON
    layout = SplitLayout(
        shape[0],
        shape[1:],
        str(features["data_type"]),
        views=int(views["shape"][0]) if views else 0,  # type: ignore[index]  # JSON
    )
    for shard_above in (layout.rows, -1):
        arrays = array_formats(layout, shard_above=shard_above)
        if all(
            (arrays[name].document() if name in arrays else None) == document
            for name, document in found.items()
        ):
            return arrays
    raise ValueError("chunks or codecs are not those of this format version")


def group_document(attributes: Mapping[str, object]) -> Json:
    """Return the `zarr.json` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def metadata_bytes(document: Mapping[str, object]) -> bytes:
    """Return the text of a `zarr.json`."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode()


def root_metadata(attributes: Mapping[str, object], members: Mapping[str, Json]) -> bytes:
    """Return the text of the store's own `zarr.json`, signed.

    Parameters
    ----------
    members
        Metadata documents of all groups and arrays by their path in the store.
    """
    document = group_document({**attributes, CHECKSUM: _UNSIGNED})
    # As zarr-python nests it: an empty block in each inner group says "listed above".
    listed = {
        path: {**member, "consolidated_metadata": _consolidated({})}
        if member["node_type"] == "group"
        else member
        for path, member in members.items()
    }
    document["consolidated_metadata"] = _consolidated(listed)
    text = metadata_bytes(document)
    unsigned = f'"{CHECKSUM}": "{_UNSIGNED}"'.encode()
    if text.count(unsigned) != 1:
        raise ValueError(f"an attribute is named {CHECKSUM!r}, which is the store's own")
    signature = hashlib.sha256(text).hexdigest()
    return text.replace(unsigned, f'"{CHECKSUM}": "{signature}"'.encode())


def is_authentic(text: bytes, signature: object) -> bool:
    """Say whether the text of a store's `zarr.json` is the one that was signed."""
    if not isinstance(signature, str) or not re.fullmatch("[0-9a-f]{64}", signature):
        return False
    unsigned = text.replace(signature.encode(), _UNSIGNED.encode())
    return hashlib.sha256(unsigned).hexdigest() == signature


def _consolidated(members: Mapping[str, Json]) -> Json:
    return {"kind": "inline", "must_understand": False, "metadata": dict(members)}
