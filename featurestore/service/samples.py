"""The samples of feature sets, row by row: what each is called, labelled, and made of."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict

import numpy as np

from featurestore.catalogue import Record
from featurestore.features import open_record

_KEPT_SPLITS = 12


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """The rows of one split, in the feature set's order.

    Parameters
    ----------
    ids
        (N,) strings.
    labels
        (N,) int64.
    digests
        (N, 32) uint8: SHA-256 of the images' bytes.
    """

    ids: np.ndarray
    labels: np.ndarray
    digests: np.ndarray

    def sha256(self, row: int) -> str:
        """Return the digest of one row's image, hexadecimal."""
        return bytes(self.digests[row]).hex()


class SampleIndex:
    """Reads the samples of splits and keeps those asked for last. Any thread may ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Samples] = OrderedDict()
        self._lock = threading.Lock()

    def kept(self, record: Record, split: str) -> Samples | None:
        """Return a split's samples if they need not be read."""
        with self._lock:
            key = (record.fingerprint, split)
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def read(self, record: Record, split: str) -> Samples:
        """Return a split's samples; the first time, they are read from the store.

        Raises
        ------
        NotFound
            The feature set has no such split.
        IntegrityError
            Its store is missing or damaged.
        """
        found = self.kept(record, split)
        if found is not None:
            return found
        with open_record(record) as features:
            rows = features[split]
            found = Samples(rows.sample_ids, rows.labels, rows.sha256)
        with self._lock:
            self._kept[record.fingerprint, split] = found
            while len(self._kept) > _KEPT_SPLITS:
                self._kept.popitem(last=False)
        return found
