"""What is known of the rows of a map beside their features, over all splits one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from featurestore.catalogue import Record
from featurestore.errors import Conflict, NotFound
from featurestore.features import open_record
from featurestore.training.run_record import predictions_name
from featurestore.training.runs import Run

NO_ANSWER = 0xFFFF


@dataclasses.dataclass(frozen=True, eq=False)
class MapRows:
    """Rows of all splits in the set's order; a position counts through them.

    Parameters
    ----------
    starts
        Position of each split's first row.
    labels, sample_ids, digests
        (N,), (N,) texts, (N, 32) uint8.
    """

    record: Record
    starts: Mapping[str, int]
    labels: np.ndarray
    sample_ids: np.ndarray
    digests: np.ndarray

    @classmethod
    def read(cls, record: Record) -> MapRows:
        """Read them from a set's store; no feature is read.

        Raises
        ------
        IntegrityError
            The store is missing or damaged.
        """
        starts, at = {}, 0
        with open_record(record) as features:
            splits = [features[name] for name in features.splits]
            for split in splits:
                starts[split.name] = at
                at += len(split)
            return cls(
                record,
                starts,
                np.concatenate([split.labels for split in splits]),
                np.concatenate([split.sample_ids for split in splits]),
                np.concatenate([split.sha256 for split in splits]),
            )

    def __len__(self) -> int:
        return len(self.labels)

    def position(self, split: str, row: int) -> int:
        """Return the position of a split's row.

        Raises
        ------
        NotFound
            There is no such split or row.
        """
        rows = self.record.rows.get(split)
        if rows is None:
            raise NotFound(
                f"feature set {self.record.name} has no split {split!r}: "
                f"it has {', '.join(self.starts)}"
            )
        if not 0 <= row < rows:
            raise NotFound(
                f"feature set {self.record.name}: row {row} is not in split {split}, "
                f"which has {rows} rows from 0"
            )
        return self.starts[split] + row

    def place(self, position: int) -> tuple[str, int]:
        """Return the split and the row that a position means."""
        for split, start in reversed(list(self.starts.items())):
            if position >= start:
                return split, position - start
        raise IndexError(f"position {position} is before every row")

    def of_bytes(self, sha256: bytes) -> np.ndarray:
        """Return the positions of the rows whose images have these bytes' digest."""
        return np.flatnonzero((self.digests == np.frombuffer(sha256, np.uint8)).all(axis=1))

    def answers(self, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """Return what a run answered for each row, and with which probability.

        (N,) uint16 numbers of classes and (N,) float32; `NO_ANSWER` and NaN where it has none.

        Raises
        ------
        Conflict
            The run was judged on other images.
        NotFound, IntegrityError
            As `Run.predictions`.
        """
        classes = np.full(len(self), NO_ANSWER, np.uint16)
        probabilities = np.full(len(self), np.nan, np.float32)
        self._check(run)
        for split, start in self.starts.items():
            if predictions_name(split) not in run.files:
                continue
            found = run.predictions(split)
            rows = slice(start, start + self.record.rows[split])
            names = self.sample_ids[rows].tolist()
            if [str(name) for name in found.sample_ids] != names:
                raise Conflict(
                    f"run {run.id}: its answers for split {split} are for other images than those "
                    f"of feature set {self.record.name}"
                )
            classes[rows] = found.probabilities.argmax(axis=1)
            probabilities[rows] = found.probabilities.max(axis=1)
        return classes, probabilities

    def _check(self, run: Run) -> None:
        if run.features.manifest_fingerprint != self.record.manifest_fingerprint:
            raise Conflict(
                f"run {run.id}: expected the images of feature set {self.record.name}, manifest "
                f"{self.record.manifest_fingerprint[:12]}, found "
                f"{run.features.manifest_fingerprint[:12]}",
                next_step="ask for a run of this set, which its map lists",
            )
