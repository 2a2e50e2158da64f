"""What the conformance suites of stores share: how a format makes a store and damages one."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from featurestore.stores import SUFFIXES, create_store, open_store
from featurestore.stores.contract import StoreLayout, StoreReader, StoreWriter
from featurestore.testing.store_rows import (
    Contents,
    SplitRows,
    layout_of,
    read_contents,
    sparse_rows,
    write_splits,
)


class StoreKit:
    """How stores of one format are made, and where their chunks lie; a suite's base."""

    store_format: ClassVar[str]
    flips: ClassVar[int] = 200
    """About how many bits the suite flips, spread over all files of a store."""

    def create(self, path: Path, layout: StoreLayout) -> StoreWriter:
        """Return a writer of the format; override for another configuration of it."""
        return create_store(self.store_format, path, layout)

    def open(self, path: Path) -> StoreReader:
        """Open a store; override to read what was written here in another way."""
        return open_store(path)

    def contents(self, path: Path) -> Contents:
        """Return all that a store holds, read as `open` reads."""
        return read_contents(path, open_reader=self.open)

    def shown(self, path: Path) -> str:
        """Return how errors of what `open` opened last name the store."""
        return path.name

    def locate_chunk(
        self, store: Path, split: str, chunk: int, *, view: int | None = None
    ) -> tuple[Path, int, int]:
        """Return file, offset and size of one chunk of features, or of a view of them."""
        raise NotImplementedError

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Where the test's store comes to lie."""
        return tmp_path / f"a set{SUFFIXES[self.store_format]}"

    @pytest.fixture
    def splits(self) -> dict[str, SplitRows]:
        """Several blocks and an odd end, one row, and none; the first with views."""
        return {
            "train": sparse_rows(150, views=2),
            "validation": sparse_rows(1, seed=1),
            "test": sparse_rows(0, seed=2),
        }

    def write(
        self,
        path: Path,
        splits: dict[str, SplitRows],
        attributes: dict[str, object] | None = None,
        *,
        blocks_at_once: int = 1,
    ) -> None:
        """Write a whole store."""
        writer = self.create(path, layout_of(splits, attributes))
        write_splits(writer, splits, blocks_at_once=blocks_at_once)
        writer.close()


class flipped:  # noqa: N801  -- reads as a verb in `with flipped(...)`
    """One bit of a file is the other way round while the context lasts."""

    def __init__(self, file: Path, place: int, *, bit: int) -> None:
        self._file, self._place, self._bit = file, place, bit

    def __enter__(self) -> None:
        self._flip()

    def __exit__(self, *_: object) -> None:
        self._flip()

    def _flip(self) -> None:
        content = bytearray(self._file.read_bytes())
        content[self._place] ^= 1 << self._bit
        self._file.write_bytes(content)
