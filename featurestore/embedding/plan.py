"""Deciding what must be computed. Pure: no model, no disk, no clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from featurestore.catalogue import Quarantined
from featurestore.executors.contract import Unit, Version
from featurestore.manifest import Manifest
from featurestore.recipe import Views

# Whole chunks of either store, and at most this many rows are lost to a kill.
UNIT_ROWS = 256
UNIT_BYTES = 256 * 1024**2  # a first layer at 224 pixels in float32 is 13 MB a row

VIEWED = "train"
"""The split that has views: validation and test images are never augmented."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What one embedding will do.

    Parameters
    ----------
    units
        What runs through the network, each version of each digest once, in manifest order.
    reused
        Rows whose features exist already, under any name.
    repeated
        Rows whose bytes another row of this plan brings to the network.
    views_reused, views_repeated
        The same of views.
    quarantined
        Samples already known to be unreadable.
    """

    units: tuple[Unit, ...]
    reused: int
    repeated: int
    views_reused: int = 0
    views_repeated: int = 0
    quarantined: tuple[Quarantined, ...]

    @property
    def to_compute(self) -> int:
        """Number of images to run through the network as they are."""
        return sum(version is None for unit in self.units for _, version in unit.rows())

    @property
    def views_to_compute(self) -> int:
        """Number of views to run through the network."""
        return sum(version is not None for unit in self.units for _, version in unit.rows())


@dataclasses.dataclass(frozen=True)
class _Image:
    """One image of a unit in the making."""

    digest: bytes
    path: Path
    sample_id: str
    versions: tuple[Version, ...]


def cut_to_fit(units: tuple[Unit, ...], *, row_bytes: int) -> tuple[Unit, ...]:
    """Cut units whose features would fill more than 256 MiB into pieces that do not."""
    most = max(1, UNIT_BYTES // row_bytes)
    return tuple(_unit(piece) for unit in units for piece in _pieces(_images(unit), most))


def digest_keys(digests: np.ndarray) -> np.ndarray:
    """View (n, 32) uint8 digests as n comparable 32-byte keys."""
    return np.ascontiguousarray(digests, np.uint8).view("S32").ravel()


def wanted_keys(split: str, sha256: np.ndarray, views: Views | None) -> Iterator[np.ndarray]:
    """Yield the keys, (n, 32) each, of what a split's rows need features of.

    First of the images, whose (n, 32) digests are given, then of each view where the split has any.
    """
    yield sha256
    if views is not None and split == VIEWED:
        for view in range(views.count):
            yield views.digests(sha256, view)


def plan_embedding(
    manifest: Manifest,
    *,
    available: np.ndarray,
    quarantined: Mapping[str, str],
    views: Views | None = None,
    unit_rows: int = UNIT_ROWS,
) -> Plan:
    """Subtract what exists from what the manifest names, and cut the rest into units.

    The units of a plan made after some of them were staged are the remaining ones, unchanged:
    that is why a resumed embedding ends with the bytes of an undisturbed one. So a unit is whole
    as soon as it has `unit_rows` rows, whatever comes after it; views of one image stay together.

    Parameters
    ----------
    available
        (m, 32) uint8 digests that have features under the recipe, in any order: of images, and
        those that `Views.digests` gives of views.
    quarantined
        SHA-256 (hexadecimal) to reason, for bytes known to be unreadable. Only bytes that lack
        features count, but then every sample with them: another version of a library may have
        read the image and not its views.
    """
    have = np.unique(digest_keys(available))
    found = {
        split: np.stack(
            [np.isin(digest_keys(keys), have) for keys in wanted_keys(split, part.sha256, views)],
            axis=1,
        )
        for split, part in manifest.splits.items()
    }
    refused = _refused(manifest, found, quarantined)
    missing: dict[bytes, _Image] = {}
    skipped: list[Quarantined] = []
    reused, repeated = [0, 0], [0, 0]  # images, views
    for split, part in manifest.splits.items():
        for row, known in enumerate(found[split].tolist()):
            digest = part.sha256[row].tobytes()
            if digest in refused:
                skipped.append(Quarantined(part.sample_ids[row], digest.hex(), refused[digest]))
                continue
            image = missing.get(digest) or _Image(digest, part.paths[row], part.sample_ids[row], ())
            lacking = []
            for at, exists in enumerate(known):
                version = at - 1 if at else None
                if exists:
                    reused[at > 0] += 1
                elif version in image.versions:
                    repeated[at > 0] += 1
                else:
                    lacking.append(version)
            if lacking:
                versions = (*image.versions, *lacking)
                missing[digest] = dataclasses.replace(image, versions=versions)
    return Plan(
        units=tuple(map(_unit, _full_units(missing.values(), unit_rows))),
        reused=reused[0],
        repeated=repeated[0],
        views_reused=reused[1],
        views_repeated=repeated[1],
        quarantined=tuple(skipped),
    )


def _refused(
    manifest: Manifest, found: Mapping[str, np.ndarray], quarantined: Mapping[str, str]
) -> dict[bytes, str]:
    """Return the unreadable digests that lack features of any version, with their reasons."""
    unread = {bytes.fromhex(digest): reason for digest, reason in quarantined.items()}
    if not unread:
        return {}
    lacking = {
        part.sha256[row].tobytes()
        for split, part in manifest.splits.items()
        for row in np.flatnonzero(~found[split].all(axis=1)).tolist()
    }
    return {digest: reason for digest, reason in unread.items() if digest in lacking}


def _full_units(images: Iterable[_Image], unit_rows: int) -> Iterator[list[_Image]]:
    unit: list[_Image] = []
    rows = 0
    for image in images:
        unit.append(image)
        rows += len(image.versions)
        if rows >= unit_rows:
            yield unit
            unit, rows = [], 0
    if unit:
        yield unit


def _pieces(images: Iterable[_Image], most: int) -> Iterator[list[_Image]]:
    piece: list[_Image] = []
    rows = 0
    for image in images:
        for start in range(0, len(image.versions), most):
            part = image.versions[start : start + most]
            if piece and rows + len(part) > most:
                yield piece
                piece, rows = [], 0
            piece.append(dataclasses.replace(image, versions=part))
            rows += len(part)
    if piece:
        yield piece


def _images(unit: Unit) -> Iterator[_Image]:
    for at, (path, sample_id) in enumerate(zip(unit.paths, unit.sample_ids, strict=True)):
        yield _Image(unit.digests[at].tobytes(), path, sample_id, unit.versions_of(at))


def _unit(images: Sequence[_Image]) -> Unit:
    digests = b"".join(image.digest for image in images)
    return Unit(
        digests=np.frombuffer(digests, np.uint8).reshape(-1, 32),
        paths=tuple(image.path for image in images),
        sample_ids=tuple(image.sample_id for image in images),
        versions=tuple(image.versions for image in images),
    )
