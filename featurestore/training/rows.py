"""Rows made of other rows: some of them, all in memory, or all with other labels."""

from __future__ import annotations

import numpy as np

from featurestore.training.contract import SampleRows

# Rows that lie closer are read in one piece, gaps and all: stores decode whole chunks.
_GAP_ROWS = 64
_PIECE_ROWS = 1024


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


class Subset:
    """Some of the rows, in their order: those at `positions`, (n,) int64, ascending and unique.

    Holds no features: each `read` reads the chunks that its rows lie in.
    """

    def __init__(self, rows: SampleRows, positions: np.ndarray) -> None:
        if len(positions) and (
            positions[0] < 0 or positions[-1] >= len(rows) or (np.diff(positions) < 1).any()
        ):
            raise ValueError(f"positions must ascend within {len(rows)} rows")
        self._rows = rows
        self._positions = positions
        self.labels = rows.labels[positions]

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._rows.feature_shape

    @property
    def sample_ids(self) -> np.ndarray:
        """(N,) strings."""
        ids: np.ndarray = self._rows.sample_ids[self._positions]
        return ids

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop of the subset."""
        wanted = self._positions[start:stop]
        features = np.empty((len(wanted), *self.feature_shape), self._rows.read(0, 0).dtype)
        for first, last in _pieces(wanted):
            piece = wanted[first:last]
            rows = self._rows.read(int(piece[0]), int(piece[-1]) + 1)
            features[first:last] = rows[piece - piece[0]]
        return features

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every row of the subset, and the labels."""
        return self.read(0, len(self)), self.labels


class Loaded:
    """The same rows, read once and held in memory as they are stored."""

    def __init__(self, rows: SampleRows) -> None:
        self._features, self.labels = rows.load()
        self.sample_ids = rows.sample_ids

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._features.shape[1:]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop, not copied."""
        return self._features[start:stop]

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every row, not copied, and the labels."""
        return self._features, self.labels


def stored_bytes(rows: SampleRows) -> int:
    """Return what the features of all rows take in memory as they are stored."""
    return len(rows) * rows.read(0, min(1, len(rows))).nbytes


def _pieces(positions: np.ndarray) -> list[tuple[int, int]]:
    """Cut ascending positions where a gap is wide or a piece long: (first, last) of each piece."""
    pieces: list[tuple[int, int]] = []
    first = 0
    for at in range(1, len(positions) + 1):
        if (
            at == len(positions)
            or positions[at] - positions[at - 1] > _GAP_ROWS
            or positions[at] - positions[first] >= _PIECE_ROWS
        ):
            pieces.append((first, at))
            first = at
    return pieces
