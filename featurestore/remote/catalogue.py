"""What a service holds: its feature sets, and where the files of one lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurestore.catalogue import Record, record_path
from featurestore.embedding.commit import store_path
from featurestore.errors import IntegrityError, NotFound
from featurestore.remote.connection import Connection, quoted
from featurestore.remote.paging import list_all
from featurestore.remote.records import ListedFile, check_set_name, parse_checksums, parse_record
from featurestore.stores import STORE_FORMATS, SUFFIXES

LONGEST_LIST = 1 << 28
"""Bytes of a record or checksum list: of more than a million files, or quarantined images."""

_SETS = "feature-sets"
_MOST = 2**63


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteSet:
    """A feature set as a service lists it; the fields are those of `Record`."""

    name: str
    fingerprint: str
    store_format: str
    rows: Mapping[str, int]
    views: int
    feature_shape: tuple[int, ...]
    quarantined: int
    stored_bytes: int
    committed_at: str


@dataclasses.dataclass(frozen=True)
class RemoteStore:
    """One version of a feature set in one format, on a service."""

    name: str
    fingerprint: str
    store_format: str

    @property
    def place(self) -> Path:
        """Where the store lies in a cache: ``dataset/file-name``."""
        return store_path(
            Path(), name=self.name, fingerprint=self.fingerprint, store_format=self.store_format
        )

    def url_path(self, file: str = "", *, ending: str = "") -> str:
        """Return the path, on a service, of a file of the store.

        Parameters
        ----------
        file
            Its path in the store; "" for a store that is one file.
        ending
            ``.json`` for the record beside the store, ``.sha256`` for its checksum list.
        """
        dataset, _, recipe = self.name.partition("/")
        inside = file.split("/") if file else []
        store = self.place.name + ending
        return quoted("v1", _SETS, dataset, recipe, "store", store, *inside)


def list_sets(connection: Connection) -> list[RemoteSet]:
    """Return the newest version of each feature set of a service, once per store format.

    Raises
    ------
    IntegrityError
        An entry is none.
    NotFound, InvalidInput, Conflict, Unreachable
        As `Connection.ask`.
    """
    path = quoted("v1", _SETS)
    entries = list_all(connection, path, of="feature_sets")
    return [_entry(each, subject=connection.url + path) for each in entries]


def list_problems(connection: Connection) -> list[str]:
    """Return what a service says of records that it cannot read and does not list."""
    problems = connection.get_json(quoted("v1", _SETS), query={"limit": "1"}).get("problems")
    entries = problems if isinstance(problems, list) else []
    details = [each.get("detail") for each in entries if isinstance(each, dict)]
    return [detail for detail in details if isinstance(detail, str)]


def find_set(
    connection: Connection, wanted: str, *, store_format: str | None = None
) -> RemoteStore:
    """Return the one feature set that `wanted` means: a name, or the start of one or a fingerprint.

    Parameters
    ----------
    store_format
        None is Zarr, or HDF5 where that is all there is.

    Raises
    ------
    NotFound
        There is none, or not in that format.
    InvalidInput
        Several are meant, or what answers is no service.
    IntegrityError
        The answer is no feature set.
    """
    segments = wanted.split("/")
    if not all(segments) or len(segments) > 2:
        raise NotFound(f"no feature set {wanted!r}", next_step=f"fs ls --remote {connection.url}")
    path = quoted("v1", _SETS, *segments)
    try:
        found = _entry(connection.get_json(path), subject=connection.url + path)
    except NotFound as error:
        raise NotFound(error.message, next_step=f"fs ls --remote {connection.url}") from error
    return RemoteStore(found.name, found.fingerprint, store_format or found.store_format)


def fetch_record(connection: Connection, store: RemoteStore) -> Record:
    """Return the record of a store; its `store` is relative, as in `RemoteStore.place`.

    Raises
    ------
    NotFound
        The service has it no more, or not in that format.
    IntegrityError, Conflict
        As `parse_record`; and where it is that of another store.
    """
    path = store.url_path(ending=".json")
    try:
        content = connection.get_bytes(path, limit_bytes=LONGEST_LIST)
    except NotFound as error:
        others = " or ".join(each for each in STORE_FORMATS if each != store.store_format)
        raise NotFound(
            f"{connection.url} has no {store.store_format} store of {store.name} "
            f"{store.fingerprint[:8]}",
            next_step=f"fs ls --remote {connection.url}; perhaps --format {others}",
        ) from error
    record = parse_record(content, subject=connection.url + path)
    found = RemoteStore(record.name, record.fingerprint, record.store_format)
    if found != store:
        raise IntegrityError(
            f"{connection.url}{path}: expected the record of {store.name} "
            f"{store.fingerprint[:8]}, found that of {record.name} {record.fingerprint[:8]}",
            next_step="on the machine that serves it: fs verify",
        )
    assert record_path(store.place) == record.path
    return record


def fetch_checksums(connection: Connection, record: Record) -> tuple[bytes, tuple[ListedFile, ...]]:
    """Return the checksum list of a record's store as it is, and the files that it names.

    Raises
    ------
    NotFound
        The service has it no more.
    IntegrityError
        As `parse_checksums`.
    """
    store = RemoteStore(record.name, record.fingerprint, record.store_format)
    path = store.url_path(ending=".sha256")
    content = connection.get_bytes(path, limit_bytes=LONGEST_LIST)
    return content, parse_checksums(content, record, subject=connection.url + path)


def _entry(fields: Any, *, subject: str) -> RemoteSet:
    """Return what a service says of a feature set; fields that we do not know are left out."""
    try:
        found = RemoteSet(
            name=_typed(fields["name"], str),
            fingerprint=_typed(fields["fingerprint"], str),
            store_format=_typed(fields["store_format"], str),
            rows={_typed(key, str): _count(n) for key, n in fields["rows"].items()},
            views=_count(fields["views"]),
            feature_shape=tuple(_count(axis) for axis in fields["feature_shape"]),
            quarantined=_count(fields["quarantined"]),
            stored_bytes=_count(fields["stored_bytes"]),
            committed_at=_typed(fields["committed_at"], str),
        )
        check_set_name(found.name)
        _check_choice(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{subject} lists what is no feature set: {error}",
            next_step="give both sides one version: pip install -U featurestore",
        ) from error
    return found


def _check_choice(found: RemoteSet) -> None:
    if found.store_format not in SUFFIXES:
        raise ValueError(f"expected one of {', '.join(SUFFIXES)}, found {found.store_format!r}")
    digits: Sequence[str] = found.fingerprint
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ValueError(f"expected a fingerprint, found {found.fingerprint!r}")


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value


def _count(value: Any) -> int:
    found: int = _typed(value, int)
    if not 0 <= found < _MOST:
        raise ValueError(f"expected a number from 0 to {_MOST - 1}")
    return found
