"""What a writer has been given so far: refuses what the layout does not allow, misses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import IntegrityError
from featurestore.names import is_unicode
from featurestore.stores.contract import SplitLayout

DIGEST_BYTES = 32


class SplitLedger:
    """Book-keeping of one split while it is written.

    Parameters
    ----------
    block_rows
        Rows of the smallest piece that is written on its own.
    """

    def __init__(self, split: str, layout: SplitLayout, *, block_rows: int) -> None:
        self.split = split
        self.layout = layout
        self.block_rows = block_rows
        # A line for the features, then one for each view.
        self._written = np.zeros((1 + layout.views, -(-layout.rows // block_rows)), dtype=bool)
        self._rows_written = False

    def check_features(
        self, start: int, features: NDArray[np.generic], *, view: int | None = None
    ) -> None:
        """Raise ValueError unless these features, or this view of them, may be written now."""
        if view is not None and not 0 <= view < self.layout.views:
            raise ValueError(
                f"split {self.split} has {self.layout.views} views, none of them {view}"
            )
        stop = start + len(features)
        expected = (len(features), *self.layout.feature_shape)
        if features.dtype != np.dtype(self.layout.dtype) or features.shape != expected:
            raise ValueError(
                f"split {self.split} takes {self.layout.dtype} rows of "
                f"{self.layout.feature_shape}, not {features.dtype} of {features.shape[1:]}"
            )
        whole_blocks = stop % self.block_rows == 0 or stop == self.layout.rows
        if start < 0 or start % self.block_rows or stop > self.layout.rows or not whole_blocks:
            raise ValueError(
                f"rows {start} to {stop} of split {self.split} ({self.layout.rows} rows) "
                f"are not whole blocks of {self.block_rows}"
            )
        if self._written[_line(view), self._blocks(start, stop)].any():
            what = "" if view is None else f"view {view} of "
            raise ValueError(
                f"{what}rows {start} to {stop} of split {self.split} are written already"
            )

    def note_features(self, start: int, stop: int, *, view: int | None = None) -> None:
        """Record that these rows' features, or this view of them, are written."""
        self._written[_line(view), self._blocks(start, stop)] = True

    def check_rows(
        self, *, labels: NDArray[np.int64], sample_ids: Sequence[str], sha256: NDArray[np.uint8]
    ) -> None:
        """Raise ValueError unless these columns may be written, now."""
        rows = self.layout.rows
        if self._rows_written:
            raise ValueError(f"the rows of split {self.split} are written already")
        if labels.shape != (rows,) or labels.dtype != np.int64:
            raise ValueError(f"split {self.split} takes {rows} int64 labels, not {labels.shape}")
        if sha256.shape != (rows, DIGEST_BYTES) or sha256.dtype != np.uint8:
            raise ValueError(
                f"split {self.split} takes ({rows}, {DIGEST_BYTES}) uint8 digests, "
                f"not {sha256.shape} {sha256.dtype}"
            )
        if len(sample_ids) != rows:
            raise ValueError(f"split {self.split} takes {rows} sample ids, not {len(sample_ids)}")
        for sample_id in sample_ids:
            # HDF5 ends a text at NUL; a lone surrogate has no UTF-8.
            if "\0" in sample_id or not is_unicode(sample_id):
                raise ValueError(f"sample id {sample_id!r} cannot be stored as UTF-8 without NUL")

    def note_rows(self) -> None:
        """Record that labels, sample ids and digests are written."""
        self._rows_written = True

    def require_complete(self, path: Path) -> None:
        """Raise IntegrityError if anything of the split was never written."""
        absent = np.argwhere(~self._written)
        if absent.size:
            line, block = absent[0].tolist()
            what = f"view {line - 1}" if line else "features"
            start = block * self.block_rows
            stop = min(start + self.block_rows, self.layout.rows)
            raise IntegrityError(
                f"store {path}: {what} of split {self.split}, rows {start} to {stop - 1}, "
                f"were never written ({len(absent)} of {self._written.size} blocks missing)"
            )
        if not self._rows_written:
            raise IntegrityError(
                f"store {path}: labels, ids and digests of split {self.split} were never written"
            )

    def _blocks(self, start: int, stop: int) -> slice:
        return slice(start // self.block_rows, -(-stop // self.block_rows))


def _line(view: int | None) -> int:
    return 0 if view is None else 1 + view
