"""A store put together from files that were fetched, and checked before anybody sees it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featurestore.catalogue import PULLED_FROM, Record, checksums_path
from featurestore.digests import sha256_hex
from featurestore.embedding.commit import INCOMPLETE, remove_store, store_files
from featurestore.embedding.plan import VIEWED, digest_keys
from featurestore.errors import Conflict, IntegrityError
from featurestore.manifest import Manifest, ManifestSplit
from featurestore.remote.records import ListedFile
from featurestore.remote.transfer import add_copy, digests
from featurestore.stores import durable, open_store
from featurestore.stores.contract import StoreReader

_HASHED_BYTES = 256 * 2**20  # a second of hashing; of a larger store only sizes are read


def is_whole(record: Record, *, jobs: int, every_byte: bool) -> bool:
    """Say whether a store in the cache is what its record and checksum list say.

    Of one of more than 256 MiB only names and the size of all files are held to them, unless
    `every_byte`.
    """
    try:
        listing = checksums_path(record.store).read_bytes()
        if sha256_hex(listing) != record.checksums_sha256:
            return False
        lines = (line.partition("  ") for line in listing.decode().splitlines())
        listed = {record.store.parent / name: digest for digest, _, name in lines}
        found = store_files(record.store)
        if {*found} != listed.keys():
            return False
        if sum(path.stat().st_size for path in found) != record.stored_bytes:
            return False
    except (OSError, ValueError):
        return False
    if record.stored_bytes > _HASHED_BYTES and not every_byte:
        return True
    return digests([*listed], jobs=jobs) == [*listed.values()]


def build_store(record: Record, files: Sequence[ListedFile], *, staging: Path, jobs: int) -> Path:
    """Put a store together beside its place, and return where: every file hashed again, and synced.

    Parameters
    ----------
    record
        Its `store` is the place, in the cache that `staging` lies in.

    Raises
    ------
    IntegrityError
        A file is not what the list says, or all are not as many bytes as the record says.
    OSError
        The disk is full or cannot be written.
    """
    final = record.store
    final.parent.mkdir(parents=True, exist_ok=True)
    durable.sync_directory(final.parent.parent)
    building = final.with_name(INCOMPLETE + final.name)
    remove_store(building)
    paths = [building / file.path if file.path else building for file in files]
    for file, path in zip(files, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        add_copy(staging / file.sha256, path)
    for file, path, found in zip(files, paths, digests(paths, jobs=jobs), strict=True):
        if found != file.sha256:
            raise IntegrityError(
                f"{path}: expected digest {file.sha256}, found {found}",
                next_step="check the disk, then run the same command again",
            )
    size_bytes = sum(path.stat().st_size for path in paths)
    if size_bytes != record.stored_bytes:
        raise _differs(record, f"{record.stored_bytes} bytes", f"{size_bytes}")
    # Files are synced since they were fetched. To do it again, now that they have one more name,
    # made this step two to three times as long.
    for folder, _, _ in os.walk(building, topdown=False):
        durable.sync_directory(Path(folder))
    return building


def check_store(record: Record, building: Path) -> None:
    """Hold what a store says, and its rows but for the features, to its record.

    Features are not read: their bytes are those that the service has the digests of.

    Raises
    ------
    IntegrityError
        It is no store, or of another feature set than the record.
    """
    reader = open_store(building)
    try:
        for field, expected in (
            ("fingerprint", record.fingerprint),
            ("manifest_fingerprint", record.manifest_fingerprint),
            ("recipe_fingerprint", record.recipe.fingerprint),
            ("name", record.name),
        ):
            found = reader.attributes.get(field)
            if found != expected:
                raise _differs(record, f"{field} {expected}", str(found))
        shapes = {split: _shape(reader, split) for split in reader.splits}
        views = {split: record.views if split == VIEWED else 0 for split in record.rows}
        wanted = {
            split: (rows, views[split], record.feature_shape, record.recipe.dtype)
            for split, rows in record.rows.items()
        }
        if shapes != wanted:
            raise _differs(record, str(wanted), str(shapes))
        manifest = _manifest(record, reader)
    finally:
        reader.close()
    if manifest != record.manifest_fingerprint:
        raise _differs(record, f"rows of manifest {record.manifest_fingerprint}", manifest)


def refuse_other_images(record: Record, building: Path, records: Sequence[Record]) -> None:
    """Keep two datasets of one name from becoming versions of one, as an embedding does.

    Raises
    ------
    Conflict
        The newest set of that name here was embedded from images that are still there, and shares
        less than half of them with the one that was pulled.
    """
    siblings = [each for each in records if each.clean_name == record.clean_name]
    if not siblings:
        return
    newest = max(siblings, key=lambda each: each.sequence)
    source = str(newest.provenance["source"])
    embedded_here = PULLED_FROM not in newest.provenance and Path(source).exists()
    if not embedded_here or not newest.store.exists():
        return
    before, now = (_image_digests(path) for path in (newest.store, building))
    shared = int(np.isin(digest_keys(now), digest_keys(before)).sum())
    if 2 * shared < min(len(now), len(before)):
        raise Conflict(
            f"{newest.name} here holds another dataset, embedded from {source}: the one that was "
            f"pulled shares {shared} of {len(now)} images with it",
            next_step="pull it into another cache with --cache DIR",
        )


def _shape(reader: StoreReader, split: str) -> tuple[int, int, tuple[int, ...], str]:
    part = reader.split(split)
    return part.rows, part.views, tuple(part.feature_shape), str(part.dtype)


def _manifest(record: Record, reader: StoreReader) -> str:
    """Return the fingerprint of the rows that a store has."""
    parts = {}
    for split in reader.splits:
        part = reader.split(split)
        labels = part.labels()
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(record.class_names):
            raise _differs(record, f"labels of {len(record.class_names)} classes", "others")
        parts[split] = ManifestSplit(
            sample_ids=tuple(str(sample) for sample in part.sample_ids()),
            labels=labels,
            sha256=part.sha256(),
            paths=(Path(),) * part.rows,
        )
    try:
        return Manifest(record.class_names, parts).fingerprint
    except ValueError as error:
        raise _differs(record, "rows of a manifest", str(error)) from error


def _image_digests(store: Path) -> np.ndarray:
    reader = open_store(store)
    try:
        found = [reader.split(split).sha256() for split in reader.splits]
    finally:
        reader.close()
    return np.concatenate([np.empty((0, 32), np.uint8), *found])


def _differs(record: Record, expected: str, found: str) -> IntegrityError:
    return IntegrityError(
        f"the store of {record.name} that was pulled is not that of its record: expected "
        f"{expected}, found {found}",
        next_step="on the machine that serves it: fs verify",
    )
