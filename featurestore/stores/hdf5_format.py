"""How a store's values lie in HDF5: data types, filters and attributes as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np
from h5py import h5p, h5z

from featurestore.errors import MissingDependency
from featurestore.stores.version import CHECKSUM

CHUNK_ROWS = 16
COLUMN_CHUNK_ROWS = 16_384
LEVEL = 1
"""Of gzip and of zstd."""

IDS_CHECKSUM = "sha256"
"""Attribute of `sample_ids`: HDF5 keeps texts in a heap that no filter guards."""

ZSTD_FILTER = 32015
"""Source: registered filters of The HDF Group."""

TEXT = h5py.string_dtype("utf-8")


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

    A text that could be taken for JSON becomes a JSON string, so `decode_attribute` cannot err.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, str) and _parse(value) is not _NOT_JSON:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return json.dumps(value)
    return value


def decode_attribute(stored: object) -> object:
    """Return what `encode_attribute` was given."""
    if isinstance(stored, np.generic):
        return stored.item()
    if isinstance(stored, str):
        value = _parse(stored)
        return stored if value is _NOT_JSON else value
    raise ValueError(f"no attribute of a store is a {type(stored).__name__}")


def attributes_checksum(stored: Mapping[str, object]) -> str:
    """Return the SHA-256 of all attributes but the checksum itself, as HDF5 keeps them.

    Over name, NUL, text, NUL of each in the order of the names' UTF-8; a number as JSON.
    """
    pieces = []
    for name in sorted(stored.keys() - {CHECKSUM}, key=str.encode):
        value = stored[name]
        text = value if isinstance(value, str) else json.dumps(_plain(value))
        pieces += [name, text]
    return texts_checksum(pieces)


def texts_checksum(texts: Iterable[str]) -> str:
    """Return the SHA-256 of the UTF-8 of all texts, a NUL after each."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


_NOT_JSON = object()


def _parse(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return _NOT_JSON


def _refuse_constant(name: str) -> object:
    # Python would take NaN and Infinity for JSON; no other language does.
    raise ValueError(name)
