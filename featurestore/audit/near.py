"""Every pair of rows at or above a cosine, in bounded memory.

A panel of rows is held in memory, normalised; the rows from its first on come by in strips, and
each strip is multiplied with the panel. So every pair is looked at once, and the store is read
about half as often as there are panels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from featurestore.errors import InvalidInput
from featurestore.training.contract import Rows

_STRIP_ROWS = 256
_HITS_AT_ONCE = 2**16
# Cosines in float32 were within 7e-7 of those in float64 for up to 100,000 columns. Rows that point
# exactly the same way must not be missed at a threshold of 1 for that.
_ROUNDING = 2e-6

Progress = Callable[[int, int], None]
"""Told pairs of rows looked at, and in all."""


@dataclasses.dataclass(frozen=True)
class Strip:
    """Rows start to stop of one split; `first` is the position of its first among all rows."""

    split: str
    start: int
    stop: int
    first: int

    @property
    def rows(self) -> int:
        """Rows of the strip."""
        return self.stop - self.start

    @property
    def last(self) -> int:
        """Position after its last row among all rows."""
        return self.first + self.rows


@dataclasses.dataclass(frozen=True)
class Panel:
    """Strips that are held together, and those that come by after them."""

    held: tuple[Strip, ...]
    passing: tuple[Strip, ...]

    @property
    def rows(self) -> int:
        """Rows held."""
        return sum(strip.rows for strip in self.held)


@dataclasses.dataclass(frozen=True)
class BlockSizes:
    """Most rows of a panel and of a strip."""

    panel_rows: int
    strip_rows: int


def fit_blocks(columns: int, *, memory_bytes: int) -> BlockSizes:
    """Return the largest blocks that fit: 4 bytes a value of a panel, 12 of a strip (as stored,
    in float32, and one copy), 5 a product of the two.

    Raises
    ------
    InvalidInput
        Not even one row and one row fit.
    """
    for strip_rows in (_STRIP_ROWS, 64, 16, 4, 1):
        left = memory_bytes - 12 * columns * strip_rows
        panel_rows = left // (4 * columns + 5 * strip_rows)
        if panel_rows >= strip_rows:
            return BlockSizes(panel_rows=panel_rows, strip_rows=strip_rows)
    raise InvalidInput(
        f"near duplicates: expected memory for two rows of {columns} values, "
        f"{16 * columns + 5} bytes, found {memory_bytes}",
        next_step="give more with --memory",
    )


def plan_blocks(rows: Mapping[str, int], sizes: BlockSizes) -> tuple[Panel, ...]:
    """Cut the rows of all splits, in their order, into panels; together they look at every pair."""
    strips: list[Strip] = []
    first = 0
    for split, count in rows.items():
        for start in range(0, count, sizes.strip_rows):
            stop = min(start + sizes.strip_rows, count)
            strips.append(Strip(split, start, stop, first))
            first += stop - start
    panels: list[Panel] = []
    begin = 0
    while begin < len(strips):
        end, held = begin, 0
        while end < len(strips) and (end == begin or held + strips[end].rows <= sizes.panel_rows):
            held += strips[end].rows
            end += 1
        panels.append(Panel(tuple(strips[begin:end]), tuple(strips[end:])))
        begin = end
    return tuple(panels)


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """What is known of each row beside its features, each (N,): rows of all splits in order.

    Parameters
    ----------
    splits, labels
        Numbers of the split and of the class.
    digests
        Equal where the bytes are: such pairs are identical, not near, and are passed over.
    """

    splits: np.ndarray
    labels: np.ndarray
    digests: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The pairs, by the positions of their rows among all.

    Parameters
    ----------
    first, second, similarity
        (kept,) of the pairs kept: those of different splits first, then the most similar.
    leaking
        (N,) bool: rows with a near pair in a later split.
    next_similarity
        As `NearDuplicates`.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    across: int
    within: int
    disagreeing: int
    leaking: np.ndarray
    next_similarity: float | None
    zero_rows: int


@dataclasses.dataclass(frozen=True)
class Search:
    """What to look for: pairs of cosine `threshold` or more; the first `keep` of them are named."""

    threshold: float
    keep: int


def find_near(
    splits: Mapping[str, Rows],
    known: Known,
    search: Search,
    *,
    panels: Sequence[Panel],
    progress: Progress | None = None,
) -> Found:
    """Look at every pair once. Cosines are of flattened features, in float32.

    Beside a panel and a strip, memory holds a few numbers a row and the pairs kept, however many
    there are.
    """
    gathered = _Gathered(known, search)
    looked_at, total = 0, _pairs(len(known.labels))
    for panel in panels:
        columns = prod(splits[panel.held[0].split].feature_shape)
        held = np.empty((panel.rows, columns), np.float32)
        origin = panel.held[0].first
        for strip in panel.held:
            rows = held[strip.first - origin : strip.last - origin]
            _normalised(splits, strip, out=rows)
            gathered.zero_rows += int(np.sum(~rows.any(axis=1)))
        for strip in panel.held:
            end = strip.last - origin
            products = held[:end] @ held[end - strip.rows : end].T
            own = products[end - strip.rows :]
            own[np.tril_indices(strip.rows)] = -np.inf  # each pair once, and no row with itself
            gathered.add(products, row=origin, column=strip.first)
            looked_at += (end - strip.rows) * strip.rows + _pairs(strip.rows)
            _tell(progress, looked_at, total)
        for strip in panel.passing:
            other = np.empty((strip.rows, columns), np.float32)
            _normalised(splits, strip, out=other)
            gathered.add(held @ other.T, row=origin, column=strip.first)
            looked_at += panel.rows * strip.rows
            _tell(progress, looked_at, total)
    return gathered.found()


def _pairs(rows: int) -> int:
    return rows * (rows - 1) // 2


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _normalised(splits: Mapping[str, Rows], strip: Strip, *, out: np.ndarray) -> None:
    """Write the strip's rows at length 1, rows of zeros as they are."""
    out[:] = splits[strip.split].read(strip.start, strip.stop).reshape(strip.rows, -1)
    _divide(out, np.maximum(out.max(axis=1), -out.min(axis=1)))  # or squares overflow or vanish
    _divide(out, np.linalg.norm(out, axis=1))


def _divide(rows: np.ndarray, lengths: np.ndarray) -> None:
    lengths[lengths == 0] = 1
    rows /= lengths[:, None]


class _Gathered:
    """Counts of pairs, and the first few of them."""

    def __init__(self, known: Known, search: Search) -> None:
        self._known = known
        self._search = search
        self._at_least = search.threshold - _ROUNDING
        self._first = np.empty(0, np.int64)
        self._second = np.empty(0, np.int64)
        self._similarity = np.empty(0, np.float32)
        self._leaking = np.zeros(len(known.labels), np.bool_)
        self._across = self._within = self._disagreeing = 0
        self._below = -np.inf
        self.zero_rows = 0

    def add(self, products: np.ndarray, *, row: int, column: int) -> None:
        """Take the cosines of rows `row` onwards with rows `column` onwards."""
        if not products.size:
            return
        largest = float(products.max())
        if largest < self._at_least:
            self._below = max(self._below, largest)
            return
        step = max(1, _HITS_AT_ONCE // products.shape[1])
        for start in range(0, len(products), step):
            part = products[start : start + step]
            near = part >= self._at_least
            self._below = max(self._below, float(part.max(initial=-np.inf, where=~near)))
            i, j = np.nonzero(near)
            self._take(i + (row + start), j + column, part[i, j])

    def _take(self, first: np.ndarray, second: np.ndarray, similarity: np.ndarray) -> None:
        known = self._known
        other = known.digests[first] != known.digests[second]
        first, second, similarity = first[other], second[other], similarity[other]
        across = known.splits[first] != known.splits[second]
        self._across += int(across.sum())
        self._within += int((~across).sum())
        self._disagreeing += int((known.labels[first] != known.labels[second]).sum())
        self._leaking[first[across]] = True  # rows are in the order of splits: the first is earlier
        self._first = np.concatenate([self._first, first])
        self._second = np.concatenate([self._second, second])
        self._similarity = np.concatenate([self._similarity, similarity])
        apart = known.splits[self._first] != known.splits[self._second]
        order = np.lexsort((self._second, self._first, -self._similarity, ~apart))
        kept = order[: self._search.keep]
        self._first, self._second = self._first[kept], self._second[kept]
        self._similarity = self._similarity[kept]

    def found(self) -> Found:
        return Found(
            first=self._first,
            second=self._second,
            similarity=np.minimum(self._similarity, 1.0),
            across=self._across,
            within=self._within,
            disagreeing=self._disagreeing,
            leaking=self._leaking,
            next_similarity=None if self._below == -np.inf else float(self._below),
            zero_rows=self.zero_rows,
        )
