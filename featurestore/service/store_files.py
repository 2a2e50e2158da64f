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
from collections.abc import Iterator, Mapping
from pathlib import Path

from featurestore.catalogue import RUNS, checksums_path, record_path
from featurestore.digests import sha256_hex
from featurestore.errors import IntegrityError, NotFound
from featurestore.names import nfc
from featurestore.service.beneath import is_plain, open_beneath
from featurestore.service.contract import Gone
from featurestore.service.live_catalogue import Signature, file_signature, read_record
from featurestore.service.stored_file import StoredFile
from featurestore.stores import SUFFIXES

_LISTS = 64  # kept in memory, those used longest ago go first
_ATTEMPTS = 5
_METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
_STORES = tuple(SUFFIXES.values())
_RECORD, _CHECKSUMS = ".json", ".sha256"
_LINE = re.compile(r"([0-9a-f]{64})  (.*)")


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


@dataclasses.dataclass(frozen=True)
class _Listed:
    """What a record and its checksum list say, as long as `signature` is that of the record.

    `files` has for each path within the store, which is "" for a store that is a file, the digest
    and the steps from the dataset's folder.
    """

    signature: Signature
    name: str
    record: bytes
    checksums: bytes
    checksums_sha256: str
    files: Mapping[str, tuple[str, tuple[str, ...]]]


class StoreFiles:
    """Opens files of the committed stores of one cache. Any thread may ask."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._lists: OrderedDict[str, _Listed] = OrderedDict()

    def open(self, address: Address) -> StoredFile:
        """Return a file of a committed store, open; the caller closes it.

        Below the dataset's folder no link is followed.

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
        folder, store, ending = self._place(address)
        for _ in range(_ATTEMPTS):
            listed = self._listed(folder, store)
            if listed is None or listed.name != nfc(address.name):
                break
            found = _opened(address, folder, listed, ending=ending)
            if found is not None:
                return found
        raise _gone(address)

    def open_at_once(self, address: Address) -> StoredFile | None:
        """As `open`, if it is done with a few calls that name a path; None where it takes more.

        Fit for an event loop, where it does not wait for a thread: that took longer than the calls.
        """
        folder, store, ending = self._place(address)
        path = os.path.join(folder, store)
        signature = file_signature(path + _RECORD)
        listed = None if signature is None else self._known(path, signature)
        if listed is None or listed.name != nfc(address.name):
            return None
        return _opened(address, folder, listed, ending=ending)

    def _place(self, address: Address) -> tuple[str, str, str]:
        """Return the folder of the dataset, the store's file name and what stands behind it."""
        store, ending = _without_ending(address.store)
        dataset = nfc(address.dataset)
        plain = is_plain(store) and is_plain(dataset) and dataset != RUNS
        if not (plain and store.endswith(_STORES)):
            raise NotFound(f"no store {address.store!r} of feature set {address.name!r}")
        return os.path.join(self._cache, dataset), store, ending

    def _known(self, path: str, signature: Signature) -> _Listed | None:
        with self._lock:
            known = self._lists.get(path)
            if known is None or known.signature != signature:
                return None
            self._lists.move_to_end(path)
            return known

    def _listed(self, folder: str, store: str) -> _Listed | None:
        """Return what the record of a store says, read again where it is another; None: no record.

        Raises
        ------
        IntegrityError, Conflict
            The record or the list cannot be used.
        """
        path = os.path.join(folder, store)
        for _ in range(_ATTEMPTS):
            signature = file_signature(path + _RECORD)
            if signature is None:
                return None
            known = self._known(path, signature)
            if known is not None:
                return known
            try:
                listed = _read_list(Path(path), signature)
            except FileNotFoundError as error:
                if file_signature(path + _RECORD) != signature:
                    continue
                raise IntegrityError(
                    f"{path}: its record is there, its checksum list is not",
                    next_step="embed the dataset again",
                ) from error
            except IntegrityError:
                if file_signature(path + _RECORD) != signature:
                    continue  # it was replaced while it was read
                raise
            if file_signature(path + _RECORD) == signature:
                self._keep(path, listed)
                return listed
        return None

    def _keep(self, path: str, listed: _Listed) -> None:
        with self._lock:
            self._lists[path] = listed
            self._lists.move_to_end(path)
            while len(self._lists) > _LISTS:
                self._lists.popitem(last=False)


def _opened(address: Address, folder: str, listed: _Listed, *, ending: str) -> StoredFile | None:
    """Return a file of the version that `listed` is of; None if that has been replaced."""
    if ending:
        return _beside(address, listed, ending)
    known = listed.files.get(address.path)
    if known is None:
        what = address.path or "the folder itself"
        raise NotFound(
            f"store {address.store} of feature set {address.name} has no file {what!r}",
            next_step=f"its checksum list, {address.store}{_CHECKSUMS}, names them all",
        )
    digest, steps = known
    record = os.path.join(folder, steps[0] + _RECORD)
    try:
        file = open_beneath(folder, steps)
    except FileNotFoundError as error:
        if file_signature(record) != listed.signature:
            return None
        raise IntegrityError(
            f"feature set {address.name}: file {'/'.join(steps)} is lost",
            next_step=f"fs verify {address.name}",
        ) from error
    try:
        size_bytes = os.fstat(file.fileno()).st_size
        still = file_signature(record) == listed.signature
    except BaseException:
        file.close()
        raise
    if not still:
        file.close()
        return None
    return StoredFile(file, size_bytes, digest, _media_type(steps[-1]), lasting=True)


def _without_ending(store: str) -> tuple[str, str]:
    for ending in (_RECORD, _CHECKSUMS):
        if store.endswith(ending):
            return nfc(store.removesuffix(ending)), ending
    return nfc(store), ""


def _beside(address: Address, listed: _Listed, ending: str) -> StoredFile:
    if address.path:
        raise NotFound(f"{address.store!r} of feature set {address.name!r} is no folder")
    if ending == _RECORD:
        # It is another when the set becomes current again, or has other unreadable images.
        found, digest, lasting = listed.record, sha256_hex(listed.record), False
    else:
        found, digest, lasting = listed.checksums, listed.checksums_sha256, True
    return StoredFile(found, len(found), digest, _media_type(ending), lasting)


def _read_list(store: Path, signature: Signature) -> _Listed:
    record_file = record_path(store)
    with open_beneath(store.parent, [record_file.name]) as file:
        record_bytes = file.readall()
    record = read_record(record_file)
    with open_beneath(store.parent, [checksums_path(store).name]) as file:
        checksums = file.readall()
    found = sha256_hex(checksums)
    if found != record.checksums_sha256:
        raise IntegrityError(
            f"feature set {record.name}: expected a checksum list of SHA-256 "
            f"{record.checksums_sha256}, found {found}",
            next_step=f"fs verify {record.name}",
        )
    if record.store.name != store.name:
        raise IntegrityError(
            f"{record_file}: expected the record of {store.name}, found {record.store.name}'s",
            next_step=f"remove {record_file} and embed the dataset again",
        )
    return _Listed(
        signature=signature,
        name=record.name,
        record=record_bytes,
        checksums=checksums,
        checksums_sha256=found,
        files=dict(_files(checksums, store.name)),
    )


def _files(checksums: bytes, store: str) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    for line in checksums.decode("utf-8", "replace").split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        digest, path = match.groups()
        steps = tuple(path.split("/"))
        if steps[0] == store and all(map(is_plain, steps)):
            yield "/".join(steps[1:]), (digest, steps)


def _media_type(name: str) -> str:
    if name.endswith(".json"):
        return "application/json"
    return "text/plain" if name.endswith(_CHECKSUMS) else "application/octet-stream"


def _gone(address: Address) -> NotFound:
    what = f"feature set {address.name!r} has no store {address.store!r} here"
    if address.path and address.path.rpartition("/")[2] not in _METADATA:
        return Gone(f"{what}: it has been replaced and collected, or never was")
    return NotFound(f"{what}, or no longer")
