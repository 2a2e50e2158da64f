"""Rows for a fit in epochs: held in memory where a budget allows, else read from disk each epoch.

Either way the same rows come in the same order in pieces of the same sizes, so the fit is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np

from featurestore.errors import InvalidInput
from featurestore.training.contract import EpochRows, Rows
from featurestore.training.pools import Pool, epoch_pools, largest_pool, read_pool

Piece = tuple[np.ndarray, np.ndarray]
"""Features (N, *feature_shape) as stored, and labels (N,)."""


@runtime_checkable
class StoredVersions(Protocol):
    """`EpochRows` whose versions are stored: they are held, or read, as other rows are."""

    @property
    def resident_rows(self) -> int:
        """How many rows holding all versions takes."""

    def settled(self, *, held: bool, ahead: bool) -> Rows:
        """Return the same `EpochRows`, held or read as `Residence` has it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residence:
    """Which rows a fit holds in memory from start to end.

    Parameters
    ----------
    ahead
        Of a training split on disk, the next pool is read while the rows of one are trained on:
        two are in memory.
    """

    train: bool
    validation: bool
    ahead: bool


def plan_residence(
    train: Rows, validation: Rows | None, *, memory_bytes: int, head: str
) -> Residence:
    """Decide what is held so that features as stored take at most `memory_bytes`.

    Pieces on their way to a step, tens of megabytes, come on top. Of stored versions all are held
    or none; `EpochRows` of another kind bound their memory themselves, and count for nothing here.

    Raises
    ------
    InvalidInput
        Not even one pool of training rows fits.
    """
    validation_bytes = 0 if validation is None else _stored_bytes(validation, len(validation))
    if isinstance(train, EpochRows) and not isinstance(train, StoredVersions):
        return Residence(train=False, validation=validation_bytes <= memory_bytes, ahead=False)
    resident = train.resident_rows if isinstance(train, StoredVersions) else len(train)
    train_bytes = _stored_bytes(train, resident)
    if train_bytes <= memory_bytes:
        whole = train_bytes + validation_bytes <= memory_bytes
        return Residence(train=True, validation=whole, ahead=False)
    pool = largest_pool(len(train), row_values=_values(train))
    pool_bytes = _stored_bytes(train, pool)
    if pool_bytes > memory_bytes:
        raise InvalidInput(
            f"head {head}: expected memory for {pool} rows at once, {_mebibytes(pool_bytes)}, "
            f"found {memory_bytes // 2**20}MiB",
            next_step=f"allow more: --memory {_mebibytes(pool_bytes)}",
        )
    return Residence(
        train=False,
        validation=2 * pool_bytes + validation_bytes <= memory_bytes,
        ahead=2 * pool_bytes <= memory_bytes,
    )


class RowSource:
    """One split as pieces of consecutive rows, in stored order or in that of an epoch.

    Parameters
    ----------
    held
        Read every row once, now, and keep them.
    ahead
        As `Residence.ahead`; of no effect where rows are held.
    """

    def __init__(self, rows: Rows, *, held: bool, ahead: bool = False) -> None:
        if isinstance(rows, StoredVersions):
            rows = rows.settled(held=held, ahead=ahead)
        self._rows = rows
        self._ahead = ahead
        # Of epoch rows those without augmentation are read once, for a scale.
        self._held = rows.load()[0] if held and not isinstance(rows, EpochRows) else None
        self.dtype = rows.read(0, 1).dtype

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._rows.feature_shape

    @property
    def row_values(self) -> int:
        """Number of values in one row."""
        return _values(self._rows)

    def in_order(self, piece_rows: int) -> Iterator[Piece]:
        """Yield every row as stored, `piece_rows` at a time; the last piece may be smaller."""
        labels = self._rows.labels
        for start in range(0, len(self), piece_rows):
            stop = min(start + piece_rows, len(self))
            features = (
                self._rows.read(start, stop) if self._held is None else self._held[start:stop]
            )
            yield features, labels[start:stop]

    def epoch(self, rng: np.random.Generator, piece_rows: int, *, epoch: int) -> Iterator[Piece]:
        """Yield every row once in the order of `epoch_pools`, `piece_rows` at a time.

        No piece has rows of two pools: the last of each may be smaller. Take all of them before
        the next use of `rng`. `epoch` counts from 1: rows that are `EpochRows` differ by it.
        """
        pools = epoch_pools(len(self), row_values=self.row_values, rng=rng)
        if isinstance(self._rows, EpochRows):
            yield from self._rows.pieces(pools, epoch=epoch, piece_rows=piece_rows)
        elif self._held is not None:
            for pool in pools:
                yield from _pieces(self._held, self._rows.labels, pool.rows, piece_rows)
        else:
            yield from read_pieces(self._rows, pools, piece_rows, ahead=self._ahead)


def read_pieces(
    rows: Rows, pools: Iterator[Pool], piece_rows: int, *, ahead: bool
) -> Iterator[Piece]:
    """Read pool by pool, and yield the rows of each in its order, `piece_rows` at a time.

    With `ahead` the next pool is read while the rows of one are in use: two are in memory.
    """
    if not ahead:
        for pool in pools:
            yield from _pieces(*read_pool(rows, pool), pool.order, piece_rows)
        return
    # A thread is enough: reading and decoding let go of the interpreter's lock.
    with ThreadPoolExecutor(1, thread_name_prefix="pool") as reader:
        pool = next(pools)
        reading = reader.submit(read_pool, rows, pool)
        for following in pools:
            features, labels = reading.result()
            reading = reader.submit(read_pool, rows, following)
            yield from _pieces(features, labels, pool.order, piece_rows)
            del features, labels  # or three pools would be in memory
            pool = following
        yield from _pieces(*reading.result(), pool.order, piece_rows)


def _pieces(
    features: np.ndarray, labels: np.ndarray, order: np.ndarray, piece_rows: int
) -> Iterator[Piece]:
    for start in range(0, len(order), piece_rows):
        wanted = order[start : start + piece_rows]
        yield features[wanted], labels[wanted]


def _values(rows: Rows) -> int:
    return int(np.prod(rows.feature_shape))


def _stored_bytes(rows: Rows, count: int) -> int:
    return rows.read(0, 1).nbytes * count if count else 0


def _mebibytes(size_bytes: int) -> str:
    return f"{-(-size_bytes // 2**20)}MiB"
