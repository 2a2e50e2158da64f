"""What every store must do, whatever its format: subclass `StoreConformance` in a test module."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import Conflict, IntegrityError
from featurestore.stores import durable, version
from featurestore.testing.faults import count_operations, fail_operation
from featurestore.testing.store_kit import flipped
from featurestore.testing.store_rows import (
    SplitRows,
    file_bytes,
    layout_of,
    sparse_rows,
    write_splits,
)
from featurestore.testing.store_views import ViewConformance

EXTREMES = {
    "float16": [65504, -65504, 6.104e-05, 5.96e-08, -5.96e-08, 0.0, -0.0, 0.33325, 1.001],
    "float32": [3.4028235e38, -3.4028235e38, 1.1754944e-38, 1.4e-45, -1.4e-45, 0.0, -0.0, 1e-3],
}
"""Largest, smallest normal and subnormal values, both zeros, and values that need every bit.

Source: IEEE 754-2019, binary16 and binary32.
"""

ATTRIBUTES: dict[str, object] = {
    "recipe": {"backbone": "vgg16", "size": [150, 150], "augmentation": None, "views": 1},
    "class_names": [f"клас {number} 😺" for number in range(5000)],
    "quarantine": [],
    "fingerprint": "0" * 64,
    "number": 12,
    "fraction": 0.1,
    "flag": True,
    "nothing": None,
    "huge": 2**80,
    "empty": "",
    "looks like JSON": '{"a": 1}',
    "looks like a number": "12",
    "with NUL": "a\0b",
}
"""More than 64 KiB of one attribute, every JSON type, and texts that an encoding could confuse."""


class StoreConformance(ViewConformance):
    """The contract of `featurestore.stores.contract`, test by test.

    A subclass says how stores of its format are made and where their chunks lie.
    """

    # What is written is read

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    @pytest.mark.parametrize("shape", [(7,), (2, 3, 8), (2, 5)])
    def test_rows_come_back_bit_for_bit(
        self, path: Path, shape: tuple[int, ...], dtype: str
    ) -> None:
        """Features, labels, ids and digests of any shape and type are what was written."""
        splits = {"train": sparse_rows(150, shape, dtype), "test": sparse_rows(3, shape, dtype)}
        self.write(path, splits)
        assert self.contents(path)[1] == splits

    def test_empty_and_single_rows_come_back(
        self, path: Path, splits: dict[str, SplitRows]
    ) -> None:
        """A split of one row and one of none keep shape, type and place among the splits."""
        self.write(path, splits)
        assert self.contents(path)[1] == splits
        with closing(self.open(path)) as reader:
            assert reader.splits == ("train", "validation", "test")

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_extreme_values_come_back_bit_for_bit(self, path: Path, dtype: str) -> None:
        """No value is rounded, flushed to zero or stripped of its sign."""
        features = np.tile(np.array(EXTREMES[dtype], dtype=dtype), (20, 1))
        base = sparse_rows(20)
        rows = SplitRows(features, base.labels, base.sample_ids, base.sha256)
        self.write(path, {"train": rows})
        assert self.contents(path)[1]["train"] == rows

    def test_every_slice_is_the_slice(self, path: Path) -> None:
        """Reads that start or end at, just before or just after a chunk boundary are exact."""
        rows = sparse_rows(150, (5,))
        self.write(path, {"train": rows})
        with closing(self.open(path)) as reader:
            split = reader.split("train")
            edges = {0, 1, 149, 150}
            for edge in range(split.chunk_rows, 150, split.chunk_rows):
                edges |= {edge - 1, edge, edge + 1}
            for start in edges:
                for stop in (stop for stop in edges if stop >= start):
                    read = split.read(start, stop)
                    assert read.dtype == np.float16
                    np.testing.assert_array_equal(read, rows.features[start:stop])

    @pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 151)])
    def test_slices_outside_are_refused(self, path: Path, start: int, stop: int) -> None:
        """Unlike a list, a split never returns fewer rows than asked for."""
        self.write(path, {"train": sparse_rows(150)})
        with (
            closing(self.open(path)) as reader,
            pytest.raises(ValueError, match="150"),
        ):
            reader.split("train").read(start, stop)

    def test_threads_read_the_same_rows(self, path: Path) -> None:
        """Reads from several threads do not disturb each other."""
        rows = sparse_rows(150)
        self.write(path, {"train": rows})
        with closing(self.open(path)) as reader, ThreadPoolExecutor(4) as pool:
            split = reader.split("train")
            reads = pool.map(lambda start: split.read(start, start + 10), [*range(0, 140, 10)] * 4)
            for place, read in enumerate(reads):
                start = place % 14 * 10
                np.testing.assert_array_equal(read, rows.features[start : start + 10])

    def test_attributes_come_back(self, path: Path) -> None:
        """Any JSON comes back as it was, with the format version added."""
        self.write(path, {"train": sparse_rows(1)}, ATTRIBUTES)
        version = {"featurestore": {"format_version": 1}}
        assert self.contents(path)[0] == {**ATTRIBUTES, **version}

    def test_storage_adds_up(self, path: Path, splits: dict[str, SplitRows]) -> None:
        """Sizes are those of the features and of the files."""
        self.write(path, splits)
        with closing(self.open(path)) as reader:
            storage = reader.storage()
        assert storage["logical_bytes"] == sum(
            rows.features.nbytes + (0 if rows.views is None else rows.views.nbytes)
            for rows in splits.values()
        )
        assert storage["file_bytes"] == sum(map(len, file_bytes(path).values()))
        assert 0 < storage["stored_bytes"] < storage["file_bytes"]

    # Bytes are determined

    def test_same_rows_give_the_same_bytes(
        self, tmp_path: Path, splits: dict[str, SplitRows]
    ) -> None:
        """Neither when nor in what pieces rows are written shows in any file."""
        one, other = tmp_path / "one", tmp_path / "other"
        self.write(one, splits, ATTRIBUTES)
        self.write(other, splits, ATTRIBUTES, blocks_at_once=4)
        assert file_bytes(one) == file_bytes(other)

    def test_order_of_blocks_does_not_matter(self, tmp_path: Path) -> None:
        """A store written back to front holds the same rows."""
        rows = sparse_rows(150)
        writer = self.create(tmp_path / "store", layout_of({"train": rows}))
        block = writer.block_rows("train")
        for start in reversed(range(0, 150, block)):
            writer.write_features("train", start, rows.features[start : start + block])
        writer.write_rows(
            "train", labels=rows.labels, sample_ids=rows.sample_ids, sha256=rows.sha256
        )
        writer.close()
        assert self.contents(tmp_path / "store")[1] == {"train": rows}

    # Damage is noticed

    def test_flipped_bit_in_a_chunk_names_the_rows(
        self, path: Path, splits: dict[str, SplitRows]
    ) -> None:
        """A flip anywhere in a chunk is an error with store, split and rows; others still read."""
        self.write(path, splits)
        with closing(self.open(path)) as reader:
            chunk_rows = reader.split("train").chunk_rows
        file, offset, size = self.locate_chunk(path, "train", 1)
        for place in np.linspace(offset, offset + size - 1, 25).astype(int):
            with (
                flipped(file, int(place), bit=int(place) % 8),
                closing(self.open(path)) as reader,
            ):
                split = reader.split("train")
                with pytest.raises(IntegrityError) as caught:
                    split.read(0, 150)
                for text in (
                    self.shown(path),
                    "train",
                    f"rows {chunk_rows} to {2 * chunk_rows - 1}",
                ):
                    assert text in str(caught.value)
                np.testing.assert_array_equal(
                    split.read(0, chunk_rows), splits["train"].features[:chunk_rows]
                )
        assert self.contents(path)[1] == splits

    def test_flipped_bit_anywhere_is_never_silent(
        self, path: Path, splits: dict[str, SplitRows]
    ) -> None:
        """Whatever bit of whatever file flips, reading fails or returns what was written."""
        self.write(path, splits, {"class_names": ["cat", "dog"]})
        expected = self.contents(path)
        noticed = 0
        files = file_bytes(path)
        for name, content in files.items():
            for place in range(0, len(content), max(1, len(content) * len(files) // self.flips)):
                with flipped(path / name, place, bit=place % 8):
                    try:
                        assert self.contents(path) == expected, f"byte {place} of {name}"
                    except (IntegrityError, Conflict):
                        noticed += 1
        assert noticed >= 0.3 * self.flips

    def test_truncated_file_is_an_error(self, path: Path, splits: dict[str, SplitRows]) -> None:
        """A file cut short at any place fails to read, or was not needed."""
        self.write(path, splits)
        expected = self.contents(path)
        noticed = 0
        for name, content in file_bytes(path).items():
            for size in {0, 1, len(content) // 2, len(content) - 1}:
                (path / name).write_bytes(content[:size])
                try:
                    assert self.contents(path) == expected, f"{name} cut to {size} bytes"
                except IntegrityError:
                    noticed += 1
            (path / name).write_bytes(content)
        assert noticed >= 4

    def test_missing_rows_at_close_are_an_error(self, path: Path) -> None:
        """A block, or the columns, never written is an error that names the rows."""
        rows = sparse_rows(150)
        writer = self.create(path, layout_of({"train": rows}))
        block = writer.block_rows("train")
        writer.write_features("train", 0, rows.features[:block])
        with pytest.raises(IntegrityError, match="train"):
            writer.close()
        writer.abort()

    # Versions

    def test_newer_format_is_refused(
        self, path: Path, splits: dict[str, SplitRows], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store of a later format says which version it has and how to upgrade."""
        newer = version.NEWEST_VERSION + 1
        with monkeypatch.context() as later:
            later.setattr(version, "version_for", lambda *, views: newer)
            self.write(path, splits)
        with pytest.raises(Conflict, match=rf"version {newer}(.|\n)*upgrade"):
            self.open(path)

    def test_older_format_is_read(
        self, path: Path, splits: dict[str, SplitRows], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store outlives the format it was written in."""
        self.write(path, splits)
        monkeypatch.setattr(version, "NEWEST_VERSION", version.NEWEST_VERSION + 1)
        assert self.contents(path)[1] == splits

    # Writers

    def test_unfinished_store_does_not_open(self, path: Path, splits: dict[str, SplitRows]) -> None:
        """Until close returned there is no store, though every row is written."""
        writer = self.create(path, layout_of(splits))
        write_splits(writer, splits)
        with pytest.raises(IntegrityError, match="never finished"):
            self.open(path)
        writer.abort()
        assert not path.exists()

    def test_abort_spares_a_finished_store(self, path: Path, splits: dict[str, SplitRows]) -> None:
        """Aborting late, as clean-up code does, deletes nothing."""
        writer = self.create(path, layout_of(splits))
        write_splits(writer, splits)
        writer.close()
        writer.abort()
        assert self.contents(path)[1] == splits

    def test_existing_path_is_left_alone(self, path: Path, splits: dict[str, SplitRows]) -> None:
        """A writer never opens what is there."""
        self.write(path, splits)
        before = file_bytes(path)
        with pytest.raises(FileExistsError):
            self.create(path, layout_of(splits))
        assert file_bytes(path) == before

    @pytest.mark.parametrize("misuse", ["between blocks", "type", "shape", "beyond", "twice"])
    def test_features_out_of_place_are_refused(self, path: Path, misuse: str) -> None:
        """Nothing is cast, broadcast, cut off or overwritten."""
        rows = sparse_rows(150)
        writer = self.create(path, layout_of({"train": rows}))
        block = writer.block_rows("train")
        whole = rows.features
        writer.write_features("train", 0, whole[:block])
        start, features = {
            "between blocks": (block + 1, whole[block + 1 :]),
            "type": (block, whole[block:].astype(np.float32)),
            "shape": (block, whole[block:, :1]),
            "beyond": (block, whole),
            "twice": (0, whole),
        }[misuse]
        with pytest.raises(ValueError, match="train"):
            writer.write_features("train", start, features)
        writer.abort()

    @pytest.mark.parametrize("bad", ["NUL \0", "surrogate \ud800", None])
    def test_ids_that_cannot_be_stored_are_refused(self, path: Path, bad: str | None) -> None:
        """An id that a format would cut or mangle, or one too few, is an error."""
        rows = sparse_rows(3)
        writer = self.create(path, layout_of({"train": rows}))
        sample_ids = [*rows.sample_ids[:2], *([] if bad is None else [bad])]
        with pytest.raises(ValueError, match="sample id"):
            writer.write_rows(
                "train", labels=rows.labels, sample_ids=sample_ids, sha256=rows.sha256
            )
        writer.abort()

    # Disks that fail

    def test_every_failing_operation_is_an_os_error(self, tmp_path: Path) -> None:
        """Whichever operation the disk refuses: its own error, no store, and a clean retry."""
        splits = {"train": sparse_rows(70, views=2), "test": sparse_rows(0)}
        whole = tmp_path / "whole"
        total = count_operations(lambda: self.write(whole, splits))
        assert total > 5
        for k in range(total):
            path = tmp_path / f"failed {k}"
            writer = None
            with fail_operation(k) as log, pytest.raises(OSError) as caught:
                writer = self.create(path, layout_of(splits))
                write_splits(writer, splits)
                writer.close()
            assert log.failed
            assert caught.value.errno == errno.ENOSPC
            if writer is not None:
                self._assert_absent_or_whole(path, splits)
                writer.abort()
            assert not path.exists()
            if k % 7 == 0:
                self.write(path, splits)
                assert file_bytes(path) == file_bytes(whole)

    def test_everything_is_synced_after_it_is_written(
        self, path: Path, splits: dict[str, SplitRows], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When close returns, the last operation on every file and folder was a sync."""
        synced: set[tuple[int, int]] = set()
        sync = durable.sync

        def note(descriptor: int) -> None:
            status = os.fstat(descriptor)
            synced.add((status.st_dev, status.st_ino))
            sync(descriptor)

        writer = self.create(path, layout_of(splits))
        write_splits(writer, splits)
        monkeypatch.setattr(durable, "sync", note)
        writer.close()
        for each in _tree(path):
            status = each.stat()
            if os.name != "nt" or each.is_file():
                assert (status.st_dev, status.st_ino) in synced, each

    def _assert_absent_or_whole(self, path: Path, splits: dict[str, SplitRows]) -> None:
        try:
            _, found = self.contents(path)
        except IntegrityError:
            return
        # What failed came after the last byte that matters, such as a sync.
        assert found == splits


def _tree(path: Path) -> Iterator[Path]:
    yield path
    yield path.parent
    if path.is_dir():
        yield from path.rglob("*")
