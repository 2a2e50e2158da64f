"""The files of committed stores, opened such that all bytes under one name are of one version.

A store's name pins dataset, recipe and the start of the fingerprint, not the bytes: a set whose
store was lost is written again under the same name. What is sent is therefore held to the record:
a file counts only if the record that named its digest stood before and after it was opened. A
commit and a collection remove the record before they touch a store, and write it after; so what was
opened in between is what the record tells of, and stays so for as long as it is open.
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from io import BytesIO, FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from featurestore.catalogue import RUNS, checksums_path, record_path
from featurestore.digests import sha256_hex
from featurestore.errors import IntegrityError, NotFound
from featurestore.names import nfc
from featurestore.service.beneath import is_plain, open_beneath
from featurestore.service.contract import Gone
from featurestore.service.live_catalogue import Signature, file_signature, read_record
from featurestore.stores import SUFFIXES

_LISTS = 64  # kept in memory, those used longest ago go first
_ATTEMPTS = 5
_METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
_RECORD, _CHECKSUMS = ".json", ".sha256"


class Readable(Protocol):
    """An open file, or bytes that stand for one."""

    def seek(self, offset: int, /) -> int:
        """Go to a byte."""
        ...

    def read(self, size: int, /) -> bytes | None:
        """Return up to `size` bytes; none at the end."""
        ...

    def close(self) -> None:
        """Let go of it; more than once is no error."""
        ...


@dataclasses.dataclass(frozen=True)
class Address:
    """Which file is asked for: `store` in the folder of `dataset`, and `path` within it.

    `store` is the store's own file name, or that with ``.json`` for its record or ``.sha256`` for
    its checksum list, which have no `path`. Nothing of it is trusted.
    """

    dataset: str
    recipe: str
    store: str
    path: str = ""

    @property
    def name(self) -> str:
        """The feature set's name."""
        return f"{self.dataset}/{self.recipe}"


@dataclasses.dataclass(frozen=True, eq=False)
class StoredFile:
    """One file, open. `lasting`: its bytes will never be others under this name and digest."""

    file: Readable
    size_bytes: int
    sha256: str
    media_type: str
    lasting: bool


@dataclasses.dataclass(frozen=True)
class _Listed:
    """What a record and its checksum list say; `digests` by path within the store."""

    signature: Signature
    name: str
    record: bytes
    checksums: bytes
    checksums_sha256: str
    digests: Mapping[str, str]


class StoreFiles:
    """Opens files of the committed stores of one cache. Any thread may ask."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._lists: OrderedDict[Path, _Listed] = OrderedDict()

    def open(self, address: Address) -> StoredFile:
        """Return a file of a committed store, open; the caller closes it.

        Raises
        ------
        NotFound
            No such set is committed, or it has no such file.
        Gone
            No such set is committed (any more), and a piece of it is asked for that only those
            know who have read its metadata.
        IntegrityError, Conflict
            Record, checksum list or file are damaged, lost or a newer version's.
        """
        base, ending = _without_ending(address.store)
        suffix = Path(base).suffix
        parts = (nfc(address.dataset), base)
        if suffix not in SUFFIXES.values() or not all(map(is_plain, parts)) or parts[0] == RUNS:
            raise NotFound(f"no store {address.store!r} of feature set {address.name!r}")
        for _ in range(_ATTEMPTS):
            try:
                listed = self._listed(Path(*parts))
            except FileNotFoundError:
                break
            if listed.name != nfc(address.name):
                break
            if ending:
                return _beside(address, listed, ending)
            found = self._open_listed(address, parts, listed)
            if found is not None:
                return found
        raise _gone(address, is_folder=suffix == SUFFIXES["zarr"] and not ending)

    def _open_listed(
        self, address: Address, parts: tuple[str, str], listed: _Listed
    ) -> StoredFile | None:
        """Return a file of the version that `listed` is of; None if that has been replaced."""
        digest = listed.digests.get(address.path)
        if digest is None:
            what = address.path or "the folder itself"
            raise NotFound(
                f"store {address.store} of feature set {address.name} has no file {what!r}",
                next_step=f"its checksum list, {address.store}{_CHECKSUMS}, names them all",
            )
        file: FileIO | None = None
        try:
            within = address.path.split("/") if address.path else []
            file = open_beneath(self._cache, [*parts, *within])
            size_bytes = os.fstat(file.fileno()).st_size
            if self._signature(Path(*parts)) == listed.signature:
                found = StoredFile(file, size_bytes, digest, _media_type(address.path), True)
                file = None
                return found
        except FileNotFoundError as error:
            if self._signature(Path(*parts)) == listed.signature:
                raise IntegrityError(
                    f"feature set {address.name}: {address.store}/{address.path} is lost",
                    next_step=f"fs verify {address.name}",
                ) from error
        finally:
            if file is not None:
                file.close()
        return None

    def _listed(self, store: Path) -> _Listed:
        """Return what the record of a store says, read again where the record is another.

        Raises
        ------
        FileNotFoundError
            There is no record.
        """
        for attempt in range(_ATTEMPTS):
            signature = self._signature(store)
            if signature is None:
                break
            with self._lock:
                known = self._lists.get(store)
                if known is not None and known.signature == signature:
                    self._lists.move_to_end(store)
                    return known
            try:
                listed = self._read_list(store, signature)
            except FileNotFoundError:
                continue
            except IntegrityError:
                if self._signature(store) == signature or attempt == _ATTEMPTS - 1:
                    raise
                continue
            if self._signature(store) == signature:
                with self._lock:
                    self._lists[store] = listed
                    while len(self._lists) > _LISTS:
                        self._lists.popitem(last=False)
                return listed
        raise FileNotFoundError(f"no record of {store}")

    def _read_list(self, store: Path, signature: Signature) -> _Listed:
        with open_beneath(self._cache, record_path(store).parts) as file:
            bytes_ = file.readall()
        record = read_record(self._cache / record_path(store))
        with open_beneath(self._cache, checksums_path(store).parts) as file:
            checksums = file.readall()
        if sha256_hex(checksums) != record.checksums_sha256:
            raise IntegrityError(
                f"feature set {record.name}: expected a checksum list of SHA-256 "
                f"{record.checksums_sha256}, found {sha256_hex(checksums)}",
                next_step=f"fs verify {record.name}",
            )
        if record.store.name != store.name:
            raise IntegrityError(
                f"the record of {store.name} is of another store: {record.store.name}"
            )
        return _Listed(
            signature=signature,
            name=record.name,
            record=bytes_,
            checksums=checksums,
            checksums_sha256=record.checksums_sha256,
            digests=MappingProxyType(dict(_entries(checksums, store.name))),
        )

    def _signature(self, store: Path) -> Signature | None:
        """Return what tells one record file from the next; None where there is none."""
        return file_signature(self._cache / record_path(store))


def _without_ending(store: str) -> tuple[str, str]:
    for ending in (_RECORD, _CHECKSUMS):
        if store.endswith(ending):
            return nfc(store.removesuffix(ending)), ending
    return nfc(store), ""


def _beside(address: Address, listed: _Listed, ending: str) -> StoredFile:
    if address.path:
        raise NotFound(f"{address.store!r} of feature set {address.name!r} is no folder")
    if ending == _RECORD:
        bytes_, digest = listed.record, sha256_hex(listed.record)
    else:
        bytes_, digest = listed.checksums, listed.checksums_sha256
    kind = "application/json" if ending == _RECORD else "text/plain; charset=utf-8"
    # The record of a set changes when it becomes current again, or loses unreadable images.
    return StoredFile(BytesIO(bytes_), len(bytes_), digest, kind, ending != _RECORD)


def _entries(checksums: bytes, store: str) -> list[tuple[str, str]]:
    """Return (path within the store, digest) of each line; "" is the store itself, a file."""
    entries = []
    for line in checksums.decode("utf-8", "replace").split("\n"):
        digest, _, path = line.partition("  ")
        # A digest goes into a header.
        known = re.fullmatch("[0-9a-f]{64}", digest)
        if known and (path == store or path.startswith(f"{store}/")):
            entries.append((path[len(store) + 1 :], digest))
    return entries


def _media_type(path: str) -> str:
    return "application/json" if path.endswith(".json") else "application/octet-stream"


def _gone(address: Address, *, is_folder: bool) -> NotFound:
    what = f"feature set {address.name!r} has no store {address.store!r} here"
    piece = is_folder and address.path and address.path.rpartition("/")[2] not in _METADATA
    return (
        Gone(f"{what}: it has been replaced and collected, or never was")
        if piece
        else NotFound(f"{what}, or no longer")
    )
