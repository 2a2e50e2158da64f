"""Making a feature set exist: assemble, verify, sync, rename, and the record last."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from featurestore.catalogue import Quarantined, Record, checksums_path, record_path, set_fingerprint
from featurestore.digests import sha256_file, sha256_hex
from featurestore.embedding.plan import UNIT_BYTES, VIEWED, wanted_keys
from featurestore.embedding.provenance import found_again
from featurestore.embedding.rows import Rows
from featurestore.errors import IntegrityError
from featurestore.manifest import Manifest, ManifestSplit
from featurestore.recipe import Recipe, Views
from featurestore.stores import SUFFIXES, create_store, durable, open_store
from featurestore.stores.contract import SplitLayout, StoreLayout, StoreWriter

INCOMPLETE = ".incomplete-"
_READ_VALUES = 16 * 1024**2  # 32 MiB of float16
_WRITE_ROWS = 256  # several chunks in one call, which a store may compress in parallel
_GATHERED_BYTES = UNIT_BYTES  # what the versions of one piece of rows may take in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Commit:
    """What is to be committed: a manifest without its quarantined rows, under one recipe."""

    name: str
    manifest: Manifest
    source_fingerprint: str
    recipe: Recipe
    store_format: str
    compression: str | None
    quarantine: tuple[Quarantined, ...]
    provenance: Mapping[str, object]
    sequence: int
    committed_at: str

    @property
    def fingerprint(self) -> str:
        """Identity of the feature set."""
        return set_fingerprint(self.manifest.fingerprint, self.recipe)


def store_path(root: Path, *, name: str, fingerprint: str, store_format: str) -> Path:
    """Return where a feature set's store lies in a cache."""
    dataset, _, recipe = name.partition("/")
    return root / dataset / f"{recipe}-{fingerprint[:8]}{SUFFIXES[store_format]}"


def commit_set(commit: Commit, rows: Rows, *, root: Path) -> Record:
    """Write the store, verify it and make it visible. The caller holds the set's lock.

    When this returns, the store, its checksum list and its record are durable. Until then the
    feature set does not exist; what a killed commit leaves behind is removed by the next one.

    Raises
    ------
    IntegrityError
        What was read back is not what was written, or a row has no features.
    Conflict
        A record of a newer version stands where this one would.
    OSError
        The disk is full or cannot be written.
    """
    final = store_path(
        root, name=commit.name, fingerprint=commit.fingerprint, store_format=commit.store_format
    )
    final.parent.mkdir(parents=True, exist_ok=True)
    durable.sync_directory(root)
    committed = _already_committed(commit, final)
    if committed is not None:
        return relist(
            committed,
            source_fingerprint=commit.source_fingerprint,
            quarantine=commit.quarantine,
            sequence=commit.sequence,
            provenance=found_again(committed.provenance, commit.provenance),
        )
    building = final.with_name(INCOMPLETE + final.name)
    remove_store(building)
    shape = rows.feature_shape()
    written = _write(commit, rows, building, shape)
    _verify(building, commit, written)
    checksums = checksum_lines(building, final.name)
    record = Record(
        name=commit.name,
        store_format=commit.store_format,
        store=final,
        sequence=commit.sequence,
        fingerprint=commit.fingerprint,
        recipe=commit.recipe,
        manifest_fingerprint=commit.manifest.fingerprint,
        source_fingerprint=commit.source_fingerprint,
        class_names=commit.manifest.class_names,
        rows={split: len(part.sample_ids) for split, part in commit.manifest.splits.items()},
        feature_shape=shape,
        quarantine=commit.quarantine,
        provenance=commit.provenance,
        committed_at=commit.committed_at,
        content_sha256=written,
        checksums_sha256=sha256_hex(checksums),
        stored_bytes=sum(path.stat().st_size for path in store_files(building)),
    )
    make_visible(record, building, checksums)
    return record


def make_visible(record: Record, building: Path, checksums: bytes) -> None:
    """Put a store that is built, verified and synced in its place, and its record after it.

    The caller holds the set's lock. When this returns, all of it is durable.
    """
    remove_store(record.store)  # of a commit that never ended, or whose store has been lost
    durable.replace(building, record.store)
    durable.replace_file(checksums_path(record.store), checksums)
    durable.replace_file(record.path, record.to_json())


def _already_committed(commit: Commit, final: Path) -> Record | None:
    """Return the record of this very feature set, where its store is there."""
    try:
        record = Record.read(record_path(final))
    except FileNotFoundError:
        return None
    same = record.fingerprint == commit.fingerprint and record.class_names == (
        commit.manifest.class_names
    )
    return record if same and final.exists() else None


def relist(
    record: Record,
    *,
    source_fingerprint: str,
    quarantine: tuple[Quarantined, ...],
    sequence: int,
    provenance: Mapping[str, object] | None = None,
) -> Record:
    """Make a committed set current again, for a dataset that has the same readable images.

    Only its record changes, the features do not. What is said about their origin stays too unless
    `provenance` is given.
    """
    listed = dataclasses.replace(
        record,
        source_fingerprint=source_fingerprint,
        quarantine=quarantine,
        sequence=sequence,
        provenance=record.provenance if provenance is None else provenance,
    )
    durable.replace_file(listed.path, listed.to_json())
    return listed


def remove_store(store: Path) -> None:
    """Remove a store with what stands beside it; the record goes first, so none is ever torn."""
    record_path(store).unlink(missing_ok=True)
    checksums_path(store).unlink(missing_ok=True)
    durable.remove(store)


def store_files(store: Path) -> list[Path]:
    """Return the files of a store, sorted: one for HDF5, many for Zarr."""
    if not store.is_dir():
        return [store]
    return sorted(path for path in store.rglob("*") if path.is_file())


def checksum_lines(store: Path, name: str) -> bytes:
    """Return the store's checksum list, as ``sha256sum`` writes it, relative to its folder."""
    lines = []
    for path in store_files(store):
        inside = path.relative_to(store).as_posix() if store.is_dir() else ""
        lines.append(f"{sha256_file(path)}  {name}{'/' + inside if inside else ''}\n")
    return "".join(lines).encode()


def _write(commit: Commit, rows: Rows, path: Path, shape: tuple[int, ...]) -> dict[str, str]:
    manifest, views = commit.manifest, commit.recipe.augmentation
    layout = StoreLayout(
        splits={
            split: SplitLayout(
                len(part.sample_ids),
                shape,
                commit.recipe.dtype,
                views=views.count if views is not None and split == VIEWED else 0,
            )
            for split, part in manifest.splits.items()
        },
        attributes={
            "name": commit.name,
            "fingerprint": commit.fingerprint,
            "manifest_fingerprint": manifest.fingerprint,
            "recipe_fingerprint": commit.recipe.fingerprint,
            "recipe": commit.recipe.to_dict(),
            "class_names": list(manifest.class_names),
            "quarantine": [dataclasses.asdict(entry) for entry in commit.quarantine],
            "provenance": dict(commit.provenance),
        },
    )
    writer = create_store(commit.store_format, path, layout, compression=commit.compression)
    try:
        digests: dict[str, str] = {}
        for split, part in manifest.splits.items():
            digests |= _write_split(writer, split, part, rows, views)
        writer.close()
    except BaseException:
        writer.abort()
        raise
    return digests


def _write_split(
    writer: StoreWriter, split: str, part: ManifestSplit, rows: Rows, views: Views | None
) -> dict[str, str]:
    """Write the rows of a split with their views, and return the digests of either's features."""
    names = content_names(split, views)
    contents = [hashlib.sha256() for _ in names]
    count, block = len(part.sample_ids), writer.block_rows(split)
    values = math.prod(rows.feature_shape()) * len(names)
    step = block
    if values * _WRITE_ROWS <= _READ_VALUES:
        step *= max(1, _WRITE_ROWS // block)
    for start in range(0, count, step):
        sha256 = part.sha256[start : start + step]
        wanted = np.stack(list(wanted_keys(split, sha256, views)), axis=1)  # (rows, versions, 32)
        for at, features in _gathered(rows, wanted, part.sample_ids[start : start + step], names):
            contents[at].update(features.data)
            if at:
                writer.write_views(split, at - 1, start, features)
            else:
                writer.write_features(split, start, features)
    writer.write_rows(split, labels=part.labels, sample_ids=part.sample_ids, sha256=part.sha256)
    return {name: content.hexdigest() for name, content in zip(names, contents, strict=True)}


def _gathered(
    rows: Rows, wanted: np.ndarray, sample_ids: Sequence[str], names: Sequence[str]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each version's number and features, (n, *feature_shape), of (n, versions, 32) keys.

    The versions of an image were staged beside each other: one after the other, each shard would
    be read again for each. Those that fit into memory are gathered in one pass.
    """
    count, versions, _ = wanted.shape
    most = max(1, _GATHERED_BYTES // (count * rows.row_bytes()))
    for at in range(0, versions, most):
        keys = wanted[:, at : at + most]
        try:
            found = rows.gather(keys.reshape(-1, 32))
        except KeyError as error:
            missing = np.frombuffer(bytes.fromhex(error.args[0]), np.uint8)
            row, version = np.argwhere((keys == missing).all(axis=2))[0]
            raise IntegrityError(
                f"{names[at + version]}: expected features for image {sample_ids[row]}, found none",
                next_step="run the same command again",
            ) from error
        found = found.reshape(count, keys.shape[1], *found.shape[1:])
        for version in range(keys.shape[1]):
            yield at + version, np.ascontiguousarray(found[:, version])


def _verify(path: Path, commit: Commit, written: Mapping[str, str]) -> None:
    reader = open_store(path)
    try:
        for split, part in commit.manifest.splits.items():
            stored = reader.split(split)
            names = content_names(split, commit.recipe.augmentation)
            same = (
                stored.rows == len(part.sample_ids)
                and np.array_equal(stored.labels(), part.labels)
                and np.array_equal(stored.sha256(), part.sha256)
                and list(stored.sample_ids()) == list(part.sample_ids)
                and content_digests(split, stored, rows=stored.rows)
                == {name: written[name] for name in names}
            )
            if not same:
                raise IntegrityError(
                    f"{path}, split {split}: what was read back is not what was written",
                    next_step="check the disk, then run the same command again",
                )
    finally:
        reader.close()


def content_names(split: str, views: Views | None) -> list[str]:
    """Return the names under which a record has the digests of a split and of its views."""
    count = views.count if views is not None and split == VIEWED else 0
    return [split, *(f"{split}/views/{view}" for view in range(count))]


class ReadsFeatures(Protocol):
    """The part of a stored split that has its features, as `SplitReader` says."""

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Axes of one row."""

    @property
    def views(self) -> int:
        """Views of every row."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return features of rows start to stop."""

    def read_view(self, view: int, start: int, stop: int) -> np.ndarray:
        """Return one view of them."""


def content_digests(name: str, split: ReadsFeatures, *, rows: int) -> dict[str, str]:
    """Return the digests of a stored split's features and of each of its views, by name.

    Raises
    ------
    IntegrityError
        A chunk fails its checksum.
    """
    found = {name: _content_digest(split.read, rows, split.feature_shape)}
    for view in range(split.views):
        read = functools.partial(split.read_view, view)
        found[f"{name}/views/{view}"] = _content_digest(read, rows, split.feature_shape)
    return found


def _content_digest(
    read: Callable[[int, int], np.ndarray], rows: int, feature_shape: tuple[int, ...]
) -> str:
    """Return the SHA-256 of features in row order, little-endian as stored."""
    content = hashlib.sha256()
    block_rows = max(64, min(1024, _READ_VALUES // math.prod(feature_shape)))
    for start in range(0, rows, block_rows):
        content.update(np.ascontiguousarray(read(start, min(start + block_rows, rows))).data)
    return content.hexdigest()
