"""What a store is told and what it tells: rows to write, and all that a reader returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurestore.stores import open_store
from featurestore.stores.contract import (
    SplitLayout,
    SplitReader,
    StoreLayout,
    StoreReader,
    StoreWriter,
)


@dataclass(frozen=True, eq=False)
class SplitRows:
    """All of one split, as a store should give it back."""

    features: NDArray[np.generic]
    labels: NDArray[np.int64]
    sample_ids: tuple[str, ...]
    sha256: NDArray[np.uint8]
    views: NDArray[np.generic] | None = None

    def layout(self) -> SplitLayout:
        """Return the split's layout."""
        features = self.features
        views = 0 if self.views is None else len(self.views)
        return SplitLayout(len(features), features.shape[1:], features.dtype.name, views=views)

    def __eq__(self, other: object) -> bool:
        # By bytes, so that -0.0 is not 0.0.
        return isinstance(other, SplitRows) and self._bytes() == other._bytes()

    def _bytes(self) -> tuple[object, ...]:
        arrays = [self.features, self.labels, self.sha256]
        if self.views is not None:
            arrays.append(self.views)
        return (*((each.dtype, each.shape, each.tobytes()) for each in arrays), self.sample_ids)


Contents = tuple[dict[str, object], dict[str, SplitRows]]
"""Attributes, and rows by split in order."""


def sparse_rows(
    rows: int,
    feature_shape: tuple[int, ...] = (2, 3, 8),
    dtype: str = "float16",
    *,
    seed: int = 0,
    views: int = 0,
) -> SplitRows:
    """Return made-up rows whose features are mostly zeros, as after a rectifier."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, *feature_shape)) - 1
    return SplitRows(
        features=np.maximum(values, 0).astype(dtype),
        labels=random.integers(0, 1000, rows),
        sample_ids=tuple(f"Kätzchen {seed}/图 {row}.jpg" for row in range(rows)),
        sha256=random.integers(0, 256, (rows, 32), dtype=np.uint8),
        views=_sparse((views, *values.shape), dtype, seed=seed) if views else None,
    )


def _sparse(shape: tuple[int, ...], dtype: str, *, seed: int) -> NDArray[np.generic]:
    # From a generator of its own: a row's other columns are the same with views and without.
    random = np.random.default_rng([seed, *shape])
    return np.maximum(random.standard_normal(shape) - 1, 0).astype(dtype)


def layout_of(
    splits: Mapping[str, SplitRows], attributes: Mapping[str, object] | None = None
) -> StoreLayout:
    """Return the layout of a store with these splits."""
    return StoreLayout(
        splits={name: rows.layout() for name, rows in splits.items()}, attributes=attributes or {}
    )


def write_splits(
    writer: StoreWriter, splits: Mapping[str, SplitRows], *, blocks_at_once: int = 1
) -> None:
    """Write all splits front to back, views after features, and leave the writer open."""
    for name, rows in splits.items():
        step = writer.block_rows(name) * blocks_at_once
        for start in range(0, len(rows.features), step):
            writer.write_features(name, start, rows.features[start : start + step])
        for view, features in enumerate(() if rows.views is None else rows.views):
            for start in range(0, len(features), step):
                writer.write_views(name, view, start, features[start : start + step])
        writer.write_rows(name, labels=rows.labels, sample_ids=rows.sample_ids, sha256=rows.sha256)


def read_contents(
    path: Path, *, open_reader: Callable[[Path], StoreReader] = open_store
) -> Contents:
    """Return all that a store holds."""
    reader = open_reader(path)
    try:
        splits = {}
        for name in reader.splits:
            split = reader.split(name)
            splits[name] = SplitRows(
                features=split.read(0, split.rows),
                labels=split.labels(),
                sample_ids=tuple(split.sample_ids().tolist()),
                sha256=split.sha256(),
                views=_read_views(split) if split.views else None,
            )
        return dict(reader.attributes), splits
    finally:
        reader.close()


def _read_views(split: SplitReader) -> NDArray[np.generic]:
    return np.stack([split.read_view(view, 0, split.rows) for view in range(split.views)])


def file_bytes(path: Path) -> dict[str, bytes]:
    """Return every file of a store by its path in it; "" for a store that is one file."""
    if path.is_file():
        return {"": path.read_bytes()}
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return {each.relative_to(path).as_posix(): each.read_bytes() for each in files}
