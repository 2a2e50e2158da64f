"""A scan becomes a manifest once every file has a digest."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featurestore.datasets.entries import Entry, Scan, Unreadable
from featurestore.errors import InvalidInput
from featurestore.manifest import SPLITS, Manifest, ManifestSplit
from featurestore.state import FileStat, HashedFile, StateFile, hash_file

_FILES_PER_TASK = 32
_FILES_PER_TRANSACTION = 8192
# Not the file's fault: the next file would fail likewise.
_OWN_TROUBLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_REASONS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "a folder, not a file",
    errno.EINVAL: "not a regular file",
}


class BuiltManifest(NamedTuple):
    """A manifest, and the samples that could not be read and so are not in it."""

    manifest: Manifest
    unreadable: tuple[Unreadable, ...]


def build_manifest(
    scan: Scan, *, state: StateFile | None = None, workers: int = 4
) -> BuiltManifest:
    """Read, or remember, the digest of every file of `scan`.

    The result does not depend on `workers` or on what `state` remembers. What was hashed is
    stored in `state` before this returns.

    Parameters
    ----------
    workers
        Threads that hash.

    Raises
    ------
    InvalidInput
        Not one file could be read.
    Conflict
        A file kept changing while it was read.
    OSError
        The state file cannot be used, or the process is out of file handles or memory.
    """
    digests: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    unknown = [entry.path for entry in scan.entries]
    begun = state.clock() if state is not None else 0.0
    if state is not None:
        stats = _stats(unknown, failed)
        digests = state.find(stats)
        unknown = [path for path in stats if path not in digests]
    hashed: list[HashedFile] = []
    for path, outcome in zip(unknown, hash_all(unknown, workers), strict=True):
        if isinstance(outcome, HashedFile):
            hashed.append(outcome)
            digests[path] = outcome.sha256
        else:
            failed[path] = outcome
        if state is not None and len(hashed) >= _FILES_PER_TRANSACTION:
            state.remember(
                hashed, hashed_since=begun
            )  # so that an interrupted run keeps what it has hashed
            hashed.clear()
    if state is not None:
        state.remember(hashed, hashed_since=begun)
    unreadable = [
        Unreadable(entry.sample_id, failed[entry.path])
        for entry in scan.entries
        if entry.path in failed
    ]
    readable = [entry for entry in scan.entries if entry.path in digests]
    if not readable:
        raise _nothing_readable(scan, [*scan.unreadable, *unreadable])
    return BuiltManifest(
        _manifest(scan.class_names, readable, digests),
        tuple(sorted([*scan.unreadable, *unreadable])),
    )


def _stats(paths: Sequence[str], failed: dict[str, str]) -> dict[str, FileStat]:
    stats: dict[str, FileStat] = {}
    for path in paths:
        try:
            stats[path] = FileStat.of(path)
        except OSError as error:
            failed[path] = _reason(error)
    return stats


def hash_all(paths: Sequence[str], workers: int) -> Iterator[HashedFile | str]:
    """Yield, in the order of `paths`, a digest or the reason why there is none."""

    def hash_part(start: int) -> list[HashedFile | str]:
        return [_hash_or_reason(path) for path in paths[start : start + _FILES_PER_TASK]]

    with ThreadPoolExecutor(max_workers=workers) as threads:
        for part in threads.map(hash_part, range(0, len(paths), _FILES_PER_TASK)):
            yield from part


def _hash_or_reason(path: str) -> HashedFile | str:
    try:
        return hash_file(path)
    except OSError as error:
        return _reason(error)


def _reason(error: OSError) -> str:
    if error.errno in _OWN_TROUBLE:
        raise error
    known = _REASONS.get(error.errno or 0)
    return known or f"cannot be read: {error.strerror or error}"


def _nothing_readable(scan: Scan, unreadable: Sequence[Unreadable]) -> InvalidInput:
    first = unreadable[0]
    return InvalidInput(
        f"{scan.root}: none of its {len(unreadable)} files can be read; "
        f"the first is {first.sample_id!r}: {first.reason}",
        next_step="check the paths and permissions of the dataset",
    )


def _manifest(
    class_names: tuple[str, ...], entries: Sequence[Entry], digests: dict[str, bytes]
) -> Manifest:
    number = {name: label for label, name in enumerate(class_names)}
    splits: dict[str, ManifestSplit] = {}
    for split in SPLITS:
        members = sorted(entry for entry in entries if entry.split == split)
        joined = b"".join(digests[entry.path] for entry in members)
        splits[split] = ManifestSplit(
            sample_ids=tuple(entry.sample_id for entry in members),
            labels=np.array([number[entry.label] for entry in members], dtype=np.int64),
            sha256=np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32),
            paths=tuple(Path(entry.path) for entry in members),
        )
    return Manifest(class_names, splits)
