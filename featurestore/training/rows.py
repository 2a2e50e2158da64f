"""Rows made of other rows: some of them, or all with other labels."""

from __future__ import annotations

import numpy as np

from featurestore.training.contract import SampleRows


class Relabelled:
    """The same rows under other labels, (N,) int64."""

    def __init__(self, rows: SampleRows, labels: np.ndarray) -> None:
        self._rows = rows
        self.labels = labels

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._rows.feature_shape

    @property
    def sample_ids(self) -> np.ndarray:
        """(N,) strings."""
        return self._rows.sample_ids

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop."""
        return self._rows.read(start, stop)

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every row, and the labels."""
        return self._rows.load()[0], self.labels
