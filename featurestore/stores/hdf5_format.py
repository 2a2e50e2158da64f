"""How a store's values lie in HDF5: datasets, data types, filters and attributes as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5g, h5p, h5z

from featurestore.errors import MissingDependency
from featurestore.stores.version import CHECKSUM

CHUNK_ROWS = 16
COLUMN_CHUNK_ROWS = 16_384
_COLUMN_CHUNK_BYTES = 1 << 20

VIEWS = "views"
VIEW_FEATURES = f"{VIEWS}/features"
"""Paths, within a split's group, of a group and of the features of all views in it."""

LEVEL = 1
"""Of gzip and of zstd."""

DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError)
"""What h5py raises for a file that is not as it was written."""

ZSTD_FILTER = 32015
"""Source: registered filters of The HDF Group."""


def text_dtype(texts: Sequence[bytes]) -> Any:
    """Return the fixed-length UTF-8 type that holds the longest of `texts`, padded with NUL.

    Not variable-length: HDF5 keeps such texts in a global heap without any checksum, and one
    flipped bit there sends HDF5 1.14 into an endless loop.
    """
    return h5py.string_dtype("utf-8", max(map(len, texts), default=0) or 1)


def column_chunk_rows(rows: int, row_bytes: int) -> int:
    """Return the chunk length of a column of labels, ids or digests."""
    return max(1, min(rows, COLUMN_CHUNK_ROWS, _COLUMN_CHUNK_BYTES // row_bytes))


def dataset_properties(compression: str) -> Any:
    """Return creation properties of a dataset that compresses and always notices a flipped bit.

    gzip carries an Adler-32 of its own; zstd needs Fletcher-32. Both are mandatory here: an
    optional filter, h5py's default, is silently left out for a chunk that it cannot shrink.
    """
    properties = h5p.create(h5p.DATASET_CREATE)
    if compression == "gzip":
        properties.set_filter(h5z.FILTER_DEFLATE, h5z.FLAG_MANDATORY, (LEVEL,))
    else:
        require_zstd()
        properties.set_filter(ZSTD_FILTER, h5z.FLAG_MANDATORY, (LEVEL,))
        properties.set_fletcher32()
    return properties


def create_group(parent: h5py.Group, name: str) -> h5py.Group:
    """Make a group that carries no time."""
    creation = h5p.create(h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    return h5py.Group(h5g.create(parent.id, name.encode(), gcpl=creation))


class Space(NamedTuple):
    """Extent, type and cut of a dataset."""

    shape: tuple[int, ...]
    dtype: Any
    chunks: tuple[int, ...]


def create_dataset(group: h5py.Group, name: str, *, space: Space, compression: str) -> h5py.Dataset:
    """Make a dataset of a space, which may be empty, that carries no time."""
    if 0 in space.shape:
        # HDF5 cannot chunk nothing.
        return group.create_dataset(name, shape=space.shape, dtype=space.dtype, track_times=False)
    return group.create_dataset(
        name,
        **space._asdict(),
        dcpl=dataset_properties(compression),
        track_times=False,
    )


def chunk_count(dataset: h5py.Dataset) -> int:
    """Return how many chunks a dataset is cut into."""
    return prod(
        -(-extent // cut) for extent, cut in zip(dataset.shape, dataset.chunks, strict=True)
    )


def filters(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the numbers of a dataset's filters, in the order of writing."""
    properties = dataset.id.get_create_plist()
    return tuple(properties.get_filter(place)[0] for place in range(properties.get_nfilters()))


def require_zstd() -> None:
    """Make the zstd filter available.

    Raises
    ------
    MissingDependency
        The package hdf5plugin is not installed.
    """
    if h5z.filter_avail(ZSTD_FILTER):
        return
    try:
        import hdf5plugin  # noqa: F401  -- registers its filters
    except ImportError as error:
        raise MissingDependency(
            "zstd in HDF5 needs the package hdf5plugin",
            next_step="pip install 'featurestore[hdf5-zstd]'",
        ) from error


def encode_attribute(value: object) -> str | int | float:
    """Return an attribute as HDF5 keeps it: a number, a text, or JSON as text.

    A text that could be taken for JSON, or that NUL would cut short, becomes a JSON string, so
    that `decode_attribute` cannot err.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, str) and ("\0" in value or _parse(value) is not _NOT_JSON):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return json.dumps(value)
    return value


def decode_attribute(stored: str | int | float) -> object:
    """Return what `encode_attribute` was given."""
    if not isinstance(stored, str):
        return stored
    value = _parse(stored)
    return stored if value is _NOT_JSON else value


def write_attributes(target: h5py.Group, attributes: Mapping[str, str | int | float]) -> None:
    """Give an object attributes that `encode_attribute` made, and their checksum."""
    for name, value in attributes.items():
        if isinstance(value, str):
            utf8 = value.encode()
            target.attrs.create(name, np.bytes_(utf8), dtype=text_dtype([utf8]))
        else:
            target.attrs[name] = value
    checksum = attributes_checksum(attributes).encode()
    target.attrs.create(CHECKSUM, np.bytes_(checksum), dtype=text_dtype([checksum]))


def read_attributes(source: h5py.Group) -> dict[str, object]:
    """Return an object's attributes, decoded.

    Raises
    ------
    ValueError, KeyError, OSError, RuntimeError
        They are not those that `write_attributes` wrote.
    """
    stored = {name: value.item() for name, value in source.attrs.items()}
    texts = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in stored.items()
    }
    recorded = texts.pop(CHECKSUM)
    if attributes_checksum(texts) != recorded:
        raise ValueError(f"its attributes do not match their {CHECKSUM}")
    return {name: decode_attribute(value) for name, value in texts.items()}


def attributes_checksum(stored: Mapping[str, str | int | float]) -> str:
    """Return the SHA-256 of attributes as HDF5 keeps them.

    Over name, NUL, text, NUL of each in the order of the names' UTF-8; a number as JSON.
    """
    digest = hashlib.sha256()
    for name in sorted(stored, key=str.encode):
        value = stored[name]
        text = value if isinstance(value, str) else json.dumps(value)
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()


_NOT_JSON = object()


def _parse(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return _NOT_JSON


def _refuse_constant(name: str) -> object:
    # Python would take NaN and Infinity for JSON; no other language does.
    raise ValueError(name)
