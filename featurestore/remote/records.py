"""Records and checksum lists from elsewhere: nothing in them becomes a path or a number unchecked.

A service may be damaged, of another version, or somebody else's. What is made of its answers here
leads nowhere outside the set's own store, and has the types that the rest of the library relies on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from featurestore.catalogue import Quarantined, Record, dataset_name
from featurestore.digests import sha256_hex
from featurestore.embedding.commit import content_names, store_path
from featurestore.errors import Conflict, FeatureStoreError, IntegrityError, InvalidInput
from featurestore.manifest import SPLITS
from featurestore.recipe import Recipe
from featurestore.stores import SUFFIXES

_DIGEST = re.compile(r"[0-9a-f]{64}")
_RECIPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}")
_LONGEST_PART_BYTES = 200
_SHOWN = 80


@dataclasses.dataclass(frozen=True)
class ListedFile:
    """One file of a store: its path in it ("" for a store that is one file), and its SHA-256."""

    path: str
    sha256: str


def check_set_name(name: str) -> None:
    """Refuse a name that no feature set has: it becomes a folder and a file name.

    Raises
    ------
    ValueError
        What is wrong with it.
    """
    dataset, _, recipe = name.partition("/")
    try:
        plain = dataset_name(dataset) == dataset
    except InvalidInput:
        plain = False
    if not plain or not _RECIPE_NAME.fullmatch(recipe):
        raise ValueError(f"expected a feature set's name, found {_shown(name)}")


def parse_record(content: bytes, *, subject: str) -> Record:
    """Return the record that a service sent; its `store` is relative: ``dataset/file-name``.

    Parameters
    ----------
    subject
        Where it was sent from, for messages.

    Raises
    ------
    IntegrityError
        It is no record, its fingerprint is not that of its parts, or a field holds what no record
        does.
    Conflict
        It was written by a newer version.
    """
    try:
        record = Record.parse(content, path=Path("record"))
        _check(record)
    except Conflict:
        raise
    except IntegrityError as error:
        raise _damaged(subject, error.message) from error
    except FeatureStoreError as error:
        raise _damaged(subject, error.message) from error
    except Exception as error:  # of one record, which may hold anything
        raise _damaged(subject, str(error) or type(error).__name__) from error
    place = store_path(
        Path(), name=record.name, fingerprint=record.fingerprint, store_format=record.store_format
    )
    if record.store.name != place.name:
        raise _damaged(subject, f"expected store {place.name}, found {_shown(record.store.name)}")
    return dataclasses.replace(record, store=place)


def parse_checksums(content: bytes, record: Record, *, subject: str) -> tuple[ListedFile, ...]:
    """Return the files of a store that its checksum list names, in its order.

    Raises
    ------
    IntegrityError
        It is not the list that the record was written with, or names what is no file of the store.
    """
    if sha256_hex(content) != record.checksums_sha256:
        raise _damaged(
            subject,
            f"expected a checksum list of SHA-256 {record.checksums_sha256}, "
            f"found {sha256_hex(content)}",
        )
    store = record.store.name
    try:
        files = tuple(_listed(line, store) for line in content.decode().split("\n")[:-1])
        _check_tree(files, is_folder=record.store_format == "zarr")
    except ValueError as error:
        raise _damaged(subject, f"checksum list: {error}") from error
    return files


def _listed(line: str, store: str) -> ListedFile:
    digest, _, name = line.partition("  ")
    path = "" if name == store else name.removeprefix(f"{store}/")
    if not _DIGEST.fullmatch(digest) or (path == name and path):
        raise ValueError(f"expected a digest and a file of {store}, found {_shown(line)}")
    if path and not all(_is_plain(part) for part in path.split("/")):
        raise ValueError(f"{_shown(path)} is no name of a file")
    return ListedFile(path, digest)


def _is_plain(part: str) -> bool:
    """Whether it may be the name of a file on every system, and of none that is unfinished."""
    return (
        re.fullmatch(r'[^\x00-\x1f\x7f/\\:<>"|?*]+', part) is not None
        and not part.startswith(".")
        and not part.endswith((".", " "))
        and len(part.encode()) <= _LONGEST_PART_BYTES
    )


def _check_tree(files: tuple[ListedFile, ...], *, is_folder: bool) -> None:
    """Refuse a list that is no store: a name twice, or one that is a file and a folder."""
    if not files or (not is_folder and files != (ListedFile("", files[0].sha256),)):
        raise ValueError(f"expected {'files' if is_folder else 'one file'}, found {len(files)}")
    paths = {file.path for file in files}
    # Some systems hold names apart by their letters' case only, some not at all.
    if ("" in paths and is_folder) or len({path.casefold() for path in paths}) != len(files):
        raise ValueError("a file is named twice")
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"."}
    if paths & folders:
        raise ValueError(f"{_shown(min(paths & folders))} is a file and a folder")


def _damaged(subject: str, what: str) -> IntegrityError:
    return IntegrityError(
        f"{subject}: {what}", next_step="on the machine that serves it: fs verify"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _check(record: Record) -> None:
    """Refuse a record of which a field is not what a commit writes."""
    for field, holds in _FIELDS.items():
        value = getattr(record, field)
        if not holds(value):
            raise ValueError(f"field {field}: {_shown(value)} is not what a record has there")
    for part in dataclasses.fields(Recipe):
        value = getattr(record.recipe, part.name)
        if part.name not in ("size", "augmentation") and not isinstance(value, str):
            raise ValueError(f"recipe, {part.name}: expected a text, found {_shown(value)}")
    if any(side < 1 for side in record.recipe.size):
        raise ValueError(f"recipe, size: expected pixels, found {_shown(record.recipe.size)}")
    check_set_name(record.name)
    if record.name.partition("/")[2] != record.recipe.name:
        raise ValueError(f"name: expected one that ends in {record.recipe.name}")
    contents = {
        name for split in record.rows for name in content_names(split, record.recipe.augmentation)
    }
    if set(record.content_sha256) != contents:
        raise ValueError("content_sha256: expected one of each split and view")


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def _is_mapping(value: object, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and holds(item) for key, item in value.items()
    )


def _is_quarantined(entry: Quarantined) -> bool:
    return (
        isinstance(entry.sample_id, str)
        and isinstance(entry.reason, str)
        and (entry.sha256 is None or _is_digest(entry.sha256))
    )


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "store_format": lambda value: value in SUFFIXES,
    "sequence": _is_count,
    "fingerprint": _is_digest,
    "manifest_fingerprint": _is_digest,
    "source_fingerprint": _is_digest,
    "checksums_sha256": _is_digest,
    "class_names": lambda value: all(map(_is_text, value)),
    "rows": lambda value: _is_mapping(value, lambda n: _is_count(n, 1)) and set(value) <= {*SPLITS},
    "feature_shape": lambda value: value and all(_is_count(axis, 1) for axis in value),
    "quarantine": lambda value: all(map(_is_quarantined, value)),
    "provenance": lambda value: (
        _is_mapping(value, lambda _: True) and {"source", "weights"} <= set(value)
    ),
    "committed_at": _is_time,
    "content_sha256": lambda value: _is_mapping(value, _is_digest),
    "stored_bytes": lambda value: _is_count(value, 1),
}
