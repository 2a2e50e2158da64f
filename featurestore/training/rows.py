"""Rows made of other rows: some of them, all in memory, or all with other labels.

Each has the views of the rows that it is made of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from featurestore.training.contract import EpochRows, SampleRows
from featurestore.training.pools import Pool
from featurestore.training.views import StoredViews, view_count

# Rows that lie closer are read in one piece, gaps and all: stores decode whole chunks.
_GAP_ROWS = 64
_PIECE_ROWS = 1024


def relabelled(rows: SampleRows, labels: np.ndarray) -> SampleRows:
    """Return the same rows under other labels, (N,) int64; they stay `EpochRows` if they are."""
    if isinstance(rows, EpochRows):
        return RelabelledEpochs(rows, labels)
    return Relabelled(rows, labels)


class Relabelled:
    """The same rows under other labels, (N,) int64."""

    def __init__(self, rows: SampleRows, labels: np.ndarray) -> None:
        self._rows = rows
        self.labels = labels

    @property
    def views(self) -> int:
        """How many views each image has; they have its label."""
        return view_count(self._rows)

    def read_view(self, view: int, start: int, stop: int) -> np.ndarray:
        """Return one view of rows start to stop."""
        return _read_view(self._rows, view, start, stop)

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


class RelabelledEpochs(Relabelled):
    """The same epochs under other labels."""

    def pieces(
        self, pools: Iterator[Pool], *, epoch: int, piece_rows: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield what the rows yield, each piece with the new labels of its rows."""
        if not isinstance(self._rows, EpochRows):
            raise TypeError("expected rows that differ by epoch")
        ahead: deque[np.ndarray] = deque()  # rows of pools that were taken and not yet yielded

        def noted() -> Iterator[Pool]:
            for pool in pools:
                ahead.append(pool.rows)
                yield pool

        for features, _ in self._rows.pieces(noted(), epoch=epoch, piece_rows=piece_rows):
            rows = ahead.popleft()
            yield features, self.labels[rows[: len(features)]]
            if len(features) < len(rows):
                ahead.appendleft(rows[len(features) :])


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

    @property
    def views(self) -> int:
        """How many views each image has."""
        return view_count(self._rows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop of the subset."""
        return self._read(self._rows.read, start, stop)

    def read_view(self, view: int, start: int, stop: int) -> np.ndarray:
        """Return one view of rows start to stop of the subset."""
        return self._read(
            lambda first, last: _read_view(self._rows, view, first, last), start, stop
        )

    def _read(self, read: Callable[[int, int], np.ndarray], start: int, stop: int) -> np.ndarray:
        wanted = self._positions[start:stop]
        features = np.empty((len(wanted), *self.feature_shape), self._rows.read(0, 0).dtype)
        for first, last in _pieces(wanted):
            piece = wanted[first:last]
            rows = read(int(piece[0]), int(piece[-1]) + 1)
            features[first:last] = rows[piece - piece[0]]
        return features

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every row of the subset, and the labels."""
        return self.read(0, len(self)), self.labels


class Loaded:
    """The same rows and the first `views` of their views, read once and held as stored."""

    def __init__(self, rows: SampleRows, *, views: int = 0) -> None:
        self._features, self.labels = rows.load()
        self._views = [_read_view(rows, view, 0, len(rows)) for view in range(views)]
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

    @property
    def views(self) -> int:
        """How many views are held."""
        return len(self._views)

    def read_view(self, view: int, start: int, stop: int) -> np.ndarray:
        """Return one view of rows start to stop, not copied."""
        return self._views[view][start:stop]

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every row, not copied, and the labels."""
        return self._features, self.labels


def stored_bytes(rows: SampleRows) -> int:
    """Return what the features of all rows take in memory as they are stored."""
    return len(rows) * rows.read(0, min(1, len(rows))).nbytes


def _read_view(rows: SampleRows, view: int, start: int, stop: int) -> np.ndarray:
    if not isinstance(rows, StoredViews):
        raise ValueError(f"these rows have no view {view}")
    return rows.read_view(view, start, stop)


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
