"""Deciding what must be computed. Pure: no model, no disk, no clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from featurestore.catalogue import Quarantined
from featurestore.executors.contract import Unit
from featurestore.manifest import Manifest

# Whole chunks of either store, and at most this many images are lost to a kill.
UNIT_ROWS = 256
UNIT_BYTES = 256 * 1024**2  # a first layer at 224 pixels in float32 is 13 MB a row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What one embedding will do.

    Parameters
    ----------
    units
        The images to run through the network, each digest once, in manifest order.
    reused
        Rows whose features exist already, under any name.
    repeated
        Rows whose bytes another row of this plan brings to the network.
    quarantined
        Samples already known to be unreadable.
    """

    units: tuple[Unit, ...]
    reused: int
    repeated: int
    quarantined: tuple[Quarantined, ...]

    @property
    def to_compute(self) -> int:
        """Number of images to run through the network."""
        return sum(len(unit) for unit in self.units)


def cut_to_fit(units: tuple[Unit, ...], *, row_bytes: int) -> tuple[Unit, ...]:
    """Cut units whose features would fill more than 256 MiB into pieces that do not."""
    most = max(1, UNIT_BYTES // row_bytes)
    return tuple(
        Unit(
            digests=unit.digests[start : start + most],
            paths=unit.paths[start : start + most],
            sample_ids=unit.sample_ids[start : start + most],
        )
        for unit in units
        for start in range(0, len(unit), most)
    )


def digest_keys(digests: np.ndarray) -> np.ndarray:
    """View (n, 32) uint8 digests as n comparable 32-byte keys."""
    return np.ascontiguousarray(digests, np.uint8).view("S32").ravel()


def plan_embedding(
    manifest: Manifest,
    *,
    available: np.ndarray,
    quarantined: Mapping[str, str],
    unit_rows: int = UNIT_ROWS,
) -> Plan:
    """Subtract what exists from what the manifest names, and cut the rest into units.

    The units of a plan made after some of them were staged are the remaining ones, unchanged:
    that is why a resumed embedding ends with the bytes of an undisturbed one.

    Parameters
    ----------
    available
        (m, 32) uint8 digests that have features under the recipe, in any order.
    quarantined
        SHA-256 (hexadecimal) to reason, for bytes known to be unreadable.
    """
    have = np.unique(digest_keys(available))
    refused = {bytes.fromhex(digest): reason for digest, reason in quarantined.items()}
    seen: set[bytes] = set()
    rows: list[tuple[bytes, Path, str]] = []
    skipped: list[Quarantined] = []
    reused = repeated = 0
    for part in manifest.splits.values():
        found = np.isin(digest_keys(part.sha256), have)
        for row, exists in enumerate(found.tolist()):
            digest = part.sha256[row].tobytes()
            if exists:
                reused += 1
            elif digest in refused:
                skipped.append(Quarantined(part.sample_ids[row], digest.hex(), refused[digest]))
            elif digest in seen:
                repeated += 1
            else:
                seen.add(digest)
                rows.append((digest, part.paths[row], part.sample_ids[row]))
    units = tuple(
        Unit(
            digests=np.frombuffer(b"".join(row[0] for row in piece), np.uint8).reshape(-1, 32),
            paths=tuple(row[1] for row in piece),
            sample_ids=tuple(row[2] for row in piece),
        )
        for piece in (rows[start : start + unit_rows] for start in range(0, len(rows), unit_rows))
    )
    return Plan(units=units, reused=reused, repeated=repeated, quarantined=tuple(skipped))
