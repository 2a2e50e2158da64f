"""Finding the features that exist: in staging and in committed sets of the same recipe."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

import numpy as np

from featurestore.catalogue import Record
from featurestore.embedding.plan import digest_keys
from featurestore.errors import IntegrityError, NotFound
from featurestore.recipe import Recipe
from featurestore.stores import open_store
from featurestore.stores.contract import SplitReader
from featurestore.stores.staging import StagedShard, Staging

# Decoded blocks kept while rows are gathered. Rows mostly come in the order they were computed, so
# a few blocks are enough; 256 MiB here showed as 190 MiB more at 20,000 images than at 2,000.
_KEPT_BYTES = 64 * 1024**2


class RowSource(Protocol):
    """Rows of one recipe that are already computed."""

    digests: np.ndarray
    block_rows: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop as (stop - start, *feature_shape)."""


class StagedRows:
    """The rows of one staged shard."""

    def __init__(self, shard: StagedShard) -> None:
        self._shard = shard
        self.digests = shard.digests
        self.block_rows = max(1, len(shard.digests))

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `RowSource.read`."""
        rows: np.ndarray = self._shard.read()[start:stop]
        return rows


class CommittedRows:
    """The rows of one split of a committed feature set, or one view of them, and whose they are."""

    def __init__(self, split: SplitReader, record: Record, *, view: int | None = None) -> None:
        self.record = record
        self.view = view
        self._split = split
        self.digests = split.sha256()
        views = record.recipe.augmentation
        if view is not None and views is not None:
            self.digests = views.digests(self.digests, view)
        self.block_rows = max(64, split.chunk_rows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `RowSource.read`."""
        if self.view is not None:
            return self._split.read_view(self.view, start, stop)
        return self._split.read(start, stop)


class Rows:
    """Features by digest, gathered from many sources; memory is bounded."""

    def __init__(self, sources: Sequence[RowSource]) -> None:
        self._sources = [source for source in sources if len(source.digests)]
        sizes = [len(source.digests) for source in self._sources]
        self.digests = (
            np.concatenate([source.digests for source in self._sources])
            if sizes
            else np.empty((0, 32), np.uint8)
        )
        keys = digest_keys(self.digests)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        self._row = np.concatenate([np.arange(size) for size in sizes] or [np.arange(0)])
        # Blocks are numbered through all sources.
        held = [-(-len(source.digests) // source.block_rows) for source in self._sources]
        self._first_block = np.cumsum([0, *held])[:-1]
        per_block = np.array([source.block_rows for source in self._sources], np.int64)
        self._block_number = np.repeat(self._first_block, sizes) + self._row // np.repeat(
            per_block, sizes
        )
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._kept_bytes = 0

    def feature_shape(self) -> tuple[int, ...]:
        """Return the shape of one row; there must be one."""
        return self._a_row.shape

    def row_bytes(self) -> int:
        """Return the size of one row; there must be one."""
        return self._a_row.nbytes

    @functools.cached_property
    def _a_row(self) -> np.ndarray:
        row: np.ndarray = self._block(0)[0][0].copy()  # the block need not stay
        return row

    def gather(self, digests: np.ndarray) -> np.ndarray:
        """Return the features of (n, 32) digests in their order, as (n, *feature_shape).

        Raises
        ------
        KeyError
            A digest has no features.
        IntegrityError
            A source's stored bytes are damaged.
        """
        wanted = digest_keys(digests)
        at = np.searchsorted(self._keys, wanted)
        found = at < len(self._keys)
        found[found] = self._keys[at[found]] == wanted[found]
        if not found.all():
            raise KeyError(digests[~found][0].tobytes().hex())
        if not len(digests):
            raise KeyError("no digest given")
        where = self._order[at]
        blocks = self._block_number[where]
        each, first, mine = np.unique(blocks, return_index=True, return_inverse=True)
        # What is kept first, before another block drops it; then as the digests come, so that the
        # block that the next ones go on in is read last.
        kept = [int(number) in self._blocks for number in each]
        out: np.ndarray | None = None
        for which in sorted(range(len(each)), key=lambda which: (not kept[which], first[which])):
            values, start = self._block(int(each[which]))
            if out is None:
                out = np.empty((len(digests), *values.shape[1:]), values.dtype)
            take = np.flatnonzero(mine == which)
            out[take] = values[self._row[where[take]] - start]
        assert out is not None
        return out

    def _block(self, number: int) -> tuple[np.ndarray, int]:
        """Return a block's rows, and which row of its source is the first of them."""
        at = int(np.searchsorted(self._first_block, number, side="right")) - 1
        source = self._sources[at]
        start = (number - int(self._first_block[at])) * source.block_rows
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number], start
        values = source.read(start, min(start + source.block_rows, len(source.digests)))
        self._blocks[number] = values
        self._kept_bytes += values.nbytes
        while self._kept_bytes > _KEPT_BYTES and len(self._blocks) > 1:
            _, dropped = self._blocks.popitem(last=False)
            self._kept_bytes -= dropped.nbytes
        return values, start


def existing_rows(
    staging: Staging,
    records: Sequence[Record],
    recipe: Recipe,
    *,
    readers: ExitStack,
    remove_leftovers: bool = True,
) -> tuple[list[StagedRows | CommittedRows], dict[str, str]]:
    """Return every source of rows and views under the recipe, and the digests once unreadable.

    A set with views gives its rows to one without, and the other way; views are those with the
    same ranges and seed. Stores stay open until `readers` is closed; one that does not open has no
    rows to give. The second value maps SHA-256 (hexadecimal) to reason, though another version may
    have read the image: `plan_embedding` asks for the features first.
    """
    sources: list[StagedRows | CommittedRows] = []
    known: dict[str, str] = {}
    for shard in staging.shards(remove_leftovers=remove_leftovers):
        sources.append(StagedRows(shard))
        known.update(shard.quarantined)
    committed, quarantined = _committed(records, recipe, readers=readers)
    return [*sources, *committed], known | quarantined


def committed_rows(
    records: Sequence[Record], recipe: Recipe, *, readers: ExitStack
) -> tuple[list[CommittedRows], dict[str, str]]:
    """Return the same of committed sets alone; of bytes that were unreadable, those without rows.

    `recipe` is a clean one: views are rows of nothing that a caller may name.
    """
    sources, known = _committed(records, recipe.clean, readers=readers)
    if known:
        for source in sources:
            for digest in source.digests:
                known.pop(digest.tobytes().hex(), None)
    return sources, known


def _committed(
    records: Sequence[Record], recipe: Recipe, *, readers: ExitStack
) -> tuple[list[CommittedRows], dict[str, str]]:
    sources: list[CommittedRows] = []
    known: dict[str, str] = {}
    for record in records:
        if record.recipe.clean != recipe.clean:
            continue
        try:
            reader = open_store(record.store)
        except (NotFound, IntegrityError):
            continue
        readers.callback(reader.close)
        for split in map(reader.split, reader.splits):
            sources.append(CommittedRows(split, record))
            views = range(min(record.recipe.views_as(recipe), split.views))
            sources.extend(CommittedRows(split, record, view=view) for view in views)
        known.update({e.sha256: e.reason for e in record.quarantine if e.sha256})
    return sources, known
