"""Training rows with stored views: every epoch shows one view of each image.

Views are drawn for whole blocks of 64 rows, so an epoch reads one stored chunk for each. Nothing is
lost by it: the views of two images are drawn on their own, whatever their numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from featurestore.catalogue import Record
from featurestore.embedding.command import embed_command, with_views
from featurestore.errors import InvalidInput
from featurestore.recipe import Recipe
from featurestore.training.contract import SampleRows
from featurestore.training.pools import BLOCK_ROWS, Pool
from featurestore.training.streaming import Piece, read_pieces

AskedViews = int | Literal["all"]
"""How many views a fit is to see: the first so many of each image, or all."""

USUAL_VIEWS = 6
"""How many are advised to somebody who asks for all and has none."""

_DRAWS = 0x76696577
"""Keeps the draws apart from what else is drawn by the same seed."""


@runtime_checkable
class StoredViews(SampleRows, Protocol):
    """Rows whose images may have views: `featurestore.features.Split`, or rows made of it."""

    @property
    def views(self) -> int:
        """How many each image has, numbered from 0; 0 where there are none."""

    def read_view(self, view: int, start: int, stop: int) -> np.ndarray:
        """(stop - start, *feature_shape) of one view, as `read` gives the images themselves."""


def view_count(rows: SampleRows) -> int:
    """Return how many views each image of the rows has."""
    return rows.views if isinstance(rows, StoredViews) else 0


class ViewRows:
    """Rows of which an epoch shows one view each: `EpochRows`.

    Over each `views` epochs in a row every block shows every view once, in an order drawn by the
    seed. What epoch e shows follows from the seed, e and the number of rows, so a fit that goes on
    from a checkpoint needs to know nothing of the epochs before.

    `read` and `load` give the images themselves, which are never among what an epoch shows.

    Parameters
    ----------
    views
        Views 0 to views - 1 are shown; the rows may have more.
    """

    def __init__(self, rows: SampleRows, *, views: int, seed: int) -> None:
        if not isinstance(rows, StoredViews) or not 1 <= views <= rows.views:
            raise ValueError(f"expected 1 to {view_count(rows)} views, found {views}")
        self._rows = rows
        self._seed = seed
        self._ahead = False
        self._held: np.ndarray | None = None
        self.views = views

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._rows.feature_shape

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, of the images: their views share them."""
        return self._rows.labels

    @property
    def sample_ids(self) -> np.ndarray:
        """(N,) strings."""
        return self._rows.sample_ids

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return images start to stop without augmentation."""
        return self._rows.read(start, stop)

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every image without augmentation, and the labels."""
        return self._rows.load()

    def read_view(self, view: int, start: int, stop: int) -> np.ndarray:
        """Return one view of images start to stop."""
        return self._rows.read_view(view, start, stop)

    @property
    def resident_rows(self) -> int:
        """How many rows `settled` holds: those of every view."""
        return len(self) * self.views

    def settled(self, *, held: bool, ahead: bool) -> ViewRows:
        """Return the same rows, in memory or to be read pool by pool, as `Residence` has it."""
        settled = ViewRows(self._rows, views=self.views, seed=self._seed)
        settled._ahead = ahead
        if held:
            settled._held = self._read_all()
        return settled

    def pieces(self, pools: Iterator[Pool], *, epoch: int, piece_rows: int) -> Iterator[Piece]:
        """Yield this epoch's view of every row of the pools; see `EpochRows.pieces`.

        Held rows and rows from disk give the same pieces.
        """
        shown = _ShownRows(self._rows, self.shown(epoch))
        if self._held is None:
            yield from read_pieces(shown, pools, piece_rows, ahead=self._ahead)
            return
        for pool in pools:
            rows = pool.rows
            for start in range(0, len(rows), piece_rows):
                wanted = rows[start : start + piece_rows]
                views = shown.views[wanted // BLOCK_ROWS]
                yield self._held[views, wanted], self.labels[wanted]

    def shown(self, epoch: int) -> np.ndarray:
        """Return the view that each block of 64 rows shows in an epoch, counted from 1."""
        blocks = -(-len(self) // BLOCK_ROWS)
        turn, at = divmod(epoch - 1, self.views)
        rng = np.random.default_rng([self._seed, _DRAWS, turn])
        views: np.ndarray = rng.permuted(np.tile(np.arange(self.views), (blocks, 1)), axis=1)
        return views[:, at]

    def _read_all(self) -> np.ndarray:
        count = len(self)
        dtype = self._rows.read(0, 0).dtype
        held = np.empty((self.views, count, *self.feature_shape), dtype)
        step = 16 * BLOCK_ROWS  # never a view twice in memory
        for view in range(self.views):
            for start in range(0, count, step):
                stop = min(start + step, count)
                held[view, start:stop] = self._rows.read_view(view, start, stop)
        return held


class _ShownRows:
    """The rows as one epoch shows them: block b is that of view ``views[b]``."""

    def __init__(self, rows: StoredViews, views: np.ndarray) -> None:
        self._rows = rows
        self.views = views
        self.feature_shape = rows.feature_shape
        self.labels = rows.labels

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start to stop; neighbouring blocks of one view are read in one piece."""
        features = np.empty((stop - start, *self.feature_shape), self._rows.read(0, 0).dtype)
        views = self.views[start // BLOCK_ROWS : -(-stop // BLOCK_ROWS)]
        changes = [0, *(np.flatnonzero(np.diff(views)) + 1).tolist(), len(views)]
        first = start - start % BLOCK_ROWS
        for begin, end in itertools.pairwise(changes):
            low = max(start, first + begin * BLOCK_ROWS)
            high = min(stop, first + end * BLOCK_ROWS)
            features[low - start : high - start] = self._rows.read_view(
                int(views[begin]), low, high
            )
        return features

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every row, and the labels."""
        return self.read(0, len(self)), self.labels


def count_views(
    name: str, recipe: Recipe, asked: AskedViews, *, record: Record | None = None
) -> int:
    """Return how many views a fit on a feature set is to see.

    Parameters
    ----------
    record
        Of the set, for the whole command that embeds what is missing.

    Raises
    ------
    InvalidInput
        The set has no views, or fewer.
    """
    stored = recipe.augmentation
    if asked != "all" and asked < 1:
        raise InvalidInput(f"views: expected at least 1, found {asked}")
    if stored is not None and (asked == "all" or asked <= stored.count):
        return stored.count if asked == "all" else asked
    count = USUAL_VIEWS if asked == "all" else asked
    command = f"fs embed {name.partition('/')[0]} --views {count}"
    if record is not None:
        command = embed_command(record, recipe=with_views(recipe, count))
    if stored is None:
        raise InvalidInput(
            f"feature set {name} has no views of its training images",
            next_step=f"{command}, or leave --views out",
        )
    raise InvalidInput(
        f"feature set {name} has {stored.count} views of each training image, {asked} asked for",
        next_step=f"{command}, which computes only the new ones",
    )
