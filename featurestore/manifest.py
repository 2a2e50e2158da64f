"""The manifest: a dataset as rows of (sample id, digest, label, split), in one order."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
_ROWS_PER_PIECE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ManifestSplit:
    """The rows of one split, as columns of equal length N, sorted by sample id (code points).

    Parameters
    ----------
    sample_ids
        Relative POSIX paths, NFC; unique within the manifest.
    labels
        (N,) int64: positions in the manifest's `class_names`.
    sha256
        (N, 32) uint8: digests of the files' bytes.
    paths
        Where the bytes lay when they were hashed. Not part of any identity.
    """

    sample_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    sha256: NDArray[np.uint8]
    paths: tuple[Path, ...]

    def __post_init__(self) -> None:
        rows = len(self.sample_ids)
        lengths = (len(self.labels), len(self.sha256), len(self.paths))
        if lengths != (rows, rows, rows) or self.sha256.shape[1:] != (32,):
            raise ValueError(f"columns of {rows} rows expected, found {lengths}")

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def digests(self) -> list[str]:
        """The digests as hexadecimal text, in row order."""
        text = self.sha256.tobytes().hex()
        return [text[start : start + 64] for start in range(0, len(text), 64)]

    def select(self, keep: NDArray[np.bool_]) -> ManifestSplit:
        """Return the rows where `keep`, (N,) bool, is true, in the same order."""
        rows = np.flatnonzero(keep).tolist()
        return ManifestSplit(
            sample_ids=tuple(self.sample_ids[row] for row in rows),
            labels=self.labels[keep],
            sha256=self.sha256[keep],
            paths=tuple(self.paths[row] for row in rows),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Manifest:
    """Which images make a dataset, with their labels and splits.

    Parameters
    ----------
    class_names
        Every class of the scanned dataset, sorted by code points. A class stays when its last
        image is dropped, so that dropping an image never renumbers a label.
    splits
        In the order train, validation, test; a split without rows is absent.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, ManifestSplit]

    def __post_init__(self) -> None:
        ordered = {name: self.splits[name] for name in SPLITS if name in self.splits}
        if len(ordered) != len(self.splits):
            raise ValueError(f"splits are {', '.join(SPLITS)}, found {', '.join(self.splits)}")
        if self.class_names != tuple(sorted(set(self.class_names))):
            raise ValueError("class names must be sorted and unique")
        kept = {name: split for name, split in ordered.items() if len(split)}
        object.__setattr__(self, "splits", kept)

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {name: len(split) for name, split in self.splits.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of the list of ``[sample_id, sha256, label, split]`` rows.

        Rows are ordered by split (train, validation, test), then by sample id. The text is made
        and hashed in pieces; it equals ``digests.fingerprint(list of rows)``.
        """
        digest = hashlib.sha256(b"[")
        encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
        piece: list[tuple[str, str, str, str]] = []
        separator = b""
        for row in self._ordered_rows():
            piece.append(row)
            if len(piece) == _ROWS_PER_PIECE:
                digest.update(separator + encode(piece)[1:-1].encode())
                separator = b","
                piece.clear()
        if piece:
            digest.update(separator + encode(piece)[1:-1].encode())
        digest.update(b"]")
        return digest.hexdigest()

    def _ordered_rows(self) -> Iterator[tuple[str, str, str, str]]:
        for name, split in self.splits.items():
            labels = (self.class_names[label] for label in split.labels.tolist())
            for sample_id, sha256, label in zip(
                split.sample_ids, split.digests, labels, strict=True
            ):
                yield sample_id, sha256, label, name

    def select(self, keep: Mapping[str, NDArray[np.bool_]]) -> Manifest:
        """Return the rows where ``keep[split]``, (N,) bool, is true; a split not named goes."""
        return Manifest(
            self.class_names,
            {name: self.splits[name].select(mask) for name, mask in keep.items()},
        )

    def without(self, digests: Collection[str]) -> Manifest:
        """Return the rows whose digest (hexadecimal) is not among `digests`."""
        if not digests:
            return self
        dropped = frozenset(digests)
        return self.select(
            {
                name: np.array([digest not in dropped for digest in split.digests], dtype=np.bool_)
                for name, split in self.splits.items()
            }
        )

    def only_classes_with_rows(self) -> Manifest:
        """Return the same rows with the classes that have any, labels renumbered to them.

        What a label means then follows from the rows, as the fingerprint does.
        """
        used = np.unique(np.concatenate([split.labels for split in self.splits.values()]))
        if len(used) == len(self.class_names):
            return self
        number = np.zeros(len(self.class_names), np.int64)
        number[used] = np.arange(len(used))
        return Manifest(
            tuple(self.class_names[label] for label in used.tolist()),
            {
                name: dataclasses.replace(split, labels=number[split.labels])
                for name, split in self.splits.items()
            },
        )
