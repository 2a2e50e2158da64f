"""The format version that every store carries, and the errors of a store that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.errors import Conflict, FeatureStoreError, IntegrityError
from featurestore.stores.files import StoreFiles

NEWEST_VERSION = 2
"""Newest version of stores, and of their records, that this installation reads and writes.

`docs/format.md` describes both file formats in every version.
"""

CHECKSUM = "metadata_sha256"
"""Attribute with which a store guards its own metadata. Every format version keeps it."""


@dataclass(frozen=True)
class StoredRows:
    """Consecutive rows of one array of a split, for messages."""

    split: str
    array: str
    rows: range

    def __str__(self) -> str:
        rows = self.rows
        extent = f"rows {rows.start} to {rows.stop - 1}" if rows else "its rows"
        return f"split {self.split}, {extent} of {self.array}"


def version_for(*, views: bool) -> int:
    """Return the version that a store, or its record, is written in: the oldest that can tell all.

    So a feature set without views has the bytes that it had before there were views, and older
    installations go on reading it.
    """
    return 2 if views else 1


def stamp(attributes: Mapping[str, object], *, views: bool) -> dict[str, object]:
    """Return a JSON copy of `attributes` that says which format version it is written in.

    Parameters
    ----------
    views
        Whether any split has them.

    Raises
    ------
    ValueError
        A value JSON cannot hold, or a name or version that is not the caller's to choose.
    """
    version = version_for(views=views)
    if CHECKSUM in attributes:
        raise ValueError(f"attribute {CHECKSUM!r} is the store's own")
    text = json.dumps(dict(attributes), allow_nan=False, ensure_ascii=False)
    stamped: dict[str, object] = json.loads(text.encode())
    section = stamped.setdefault("featurestore", {})
    if not isinstance(section, dict):
        raise ValueError("attribute 'featurestore' must be a JSON object")
    claimed = section.setdefault("format_version", version)
    if claimed != version:
        raise ValueError(f"this writer writes format {version}, the attributes say {claimed}")
    return stamped


def refuse_newer(attributes: Mapping[str, object], *, files: StoreFiles) -> None:
    """Pass a store of this format version or an older one.

    Raises
    ------
    Conflict
        A newer version: this installation cannot know what its fields mean.
    IntegrityError
        No version at all: not a store of this package.
    """
    section = attributes.get("featurestore")
    version = section.get("format_version") if isinstance(section, dict) else None
    if not isinstance(version, int):
        raise unreadable(files, "its attributes carry no format version")
    if version > NEWEST_VERSION:
        raise Conflict(
            f"store {files.place} has format version {version}; "
            f"this installation reads up to {NEWEST_VERSION}",
            next_step="pip install --upgrade featurestore",
        )


def unreadable(files: StoreFiles, reason: str) -> IntegrityError:
    """Return the error for a store that does not open."""
    return IntegrityError(
        f"store {files.place} is damaged or was never finished: {reason}", next_step=files.remedy
    )


def damaged_rows(files: StoreFiles, rows: StoredRows, reason: str) -> IntegrityError:
    """Return the error for rows whose stored bytes are not what was written."""
    return IntegrityError(f"store {files.place}, {rows}: {reason}", next_step=files.remedy)


def while_reading(rows: StoredRows, error: FeatureStoreError) -> FeatureStoreError:
    """Return an error of the same kind, of files that lie elsewhere, that says which rows."""
    return type(error)(f"{rows}: {error.message}", next_step=error.next_step)
