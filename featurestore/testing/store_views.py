"""What every store must do with views; part of `featurestore.testing.stores.StoreConformance`."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import IntegrityError
from featurestore.stores.contract import SplitLayout, StoreLayout
from featurestore.testing.store_kit import StoreKit, flipped
from featurestore.testing.store_rows import layout_of, sparse_rows


class ViewConformance(StoreKit):
    """The contract of `write_views` and `read_view`, test by test."""

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    @pytest.mark.parametrize("shape", [(7,), (2, 3, 8), (2, 5)])
    def test_views_come_back_bit_for_bit(
        self, path: Path, shape: tuple[int, ...], dtype: str
    ) -> None:
        """Each view of each row is what was written for it, of any shape and type."""
        splits = {
            "train": sparse_rows(150, shape, dtype, views=3),
            "one view of one row": sparse_rows(1, shape, dtype, views=1),
            "none": sparse_rows(0, shape, dtype, views=2),
            "test": sparse_rows(3, shape, dtype),
        }
        splits = {name.replace(" ", "-"): rows for name, rows in splits.items()}
        self.write(path, splits)
        assert self.contents(path)[1] == splits
        with closing(self.open(path)) as reader:
            assert [reader.split(name).views for name in reader.splits] == [3, 1, 2, 0]
            assert reader.split("none").read_view(1, 0, 0).shape == (0, *shape)

    def test_every_slice_of_a_view_is_the_slice(self, path: Path) -> None:
        """Reads of a view start and end anywhere, as those of features do."""
        rows = sparse_rows(150, (5,), views=2)
        assert rows.views is not None
        self.write(path, {"train": rows})
        with closing(self.open(path)) as reader:
            split = reader.split("train")
            edges = [0, 1, split.chunk_rows - 1, split.chunk_rows, split.chunk_rows + 1, 149, 150]
            for start in edges:
                for stop in (stop for stop in edges if stop >= start):
                    for view in (0, 1):
                        read = split.read_view(view, start, stop)
                        assert read.dtype == np.float16
                        np.testing.assert_array_equal(read, rows.views[view, start:stop])

    @pytest.mark.parametrize(
        ("view", "start", "stop"), [(-1, 0, 1), (2, 0, 1), (1, -1, 3), (1, 3, 2), (1, 0, 151)]
    )
    def test_views_outside_are_refused(self, path: Path, view: int, start: int, stop: int) -> None:
        """A view that is not there is never another one, nor are its rows."""
        self.write(path, {"train": sparse_rows(150, views=2), "test": sparse_rows(3)})
        with closing(self.open(path)) as reader:
            with pytest.raises(ValueError, match="of the split"):
                reader.split("train").read_view(view, start, stop)
            with pytest.raises(ValueError, match="view 0 is not one of the 0"):
                reader.split("test").read_view(0, 0, 1)

    def test_threads_read_the_same_views(self, path: Path) -> None:
        """Reads of several views and of features from several threads do not disturb each other."""
        rows = sparse_rows(150, views=2)
        assert rows.views is not None
        self.write(path, {"train": rows})
        wanted = {0: rows.views[0], 1: rows.views[1], None: rows.features}
        with closing(self.open(path)) as reader, ThreadPoolExecutor(4) as pool:
            split = reader.split("train")
            places = [(view, start) for start in range(0, 140, 10) for view in wanted] * 2
            reads = pool.map(
                lambda place: (
                    split.read(place[1], place[1] + 10)
                    if place[0] is None
                    else split.read_view(place[0], place[1], place[1] + 10)
                ),
                places,
            )
            for (view, start), read in zip(places, reads, strict=True):
                np.testing.assert_array_equal(read, wanted[view][start : start + 10])

    def test_views_raise_the_version_and_change_nothing_else(self, tmp_path: Path) -> None:
        """A split's own features are read the same beside views, which format 2 brought."""
        bare, viewed = sparse_rows(70), sparse_rows(70, views=2)
        self.write(tmp_path / "bare", {"train": bare}, {"class_names": ["cat"]})
        self.write(tmp_path / "viewed", {"train": viewed}, {"class_names": ["cat"]})
        for name, number in (("bare", 1), ("viewed", 2)):
            attributes, splits = self.contents(tmp_path / name)
            assert attributes == {
                "class_names": ["cat"], "featurestore": {"format_version": number}
            }  # fmt: skip
            assert splits["train"].features.tobytes() == bare.features.tobytes()
            assert splits["train"].sample_ids == bare.sample_ids

    def test_views_are_written_in_any_order(self, path: Path) -> None:
        """Views may come before features, and the last view and block first."""
        rows = sparse_rows(150, views=2)
        assert rows.views is not None
        writer = self.create(path, layout_of({"train": rows}))
        block = writer.block_rows("train")
        for start in reversed(range(0, 150, block)):
            for view in (1, 0):
                writer.write_views("train", view, start, rows.views[view, start : start + block])
        writer.write_rows(
            "train", labels=rows.labels, sample_ids=rows.sample_ids, sha256=rows.sha256
        )
        for start in range(0, 150, block):
            writer.write_features("train", start, rows.features[start : start + block])
        writer.close()
        assert self.contents(path)[1] == {"train": rows}

    @pytest.mark.parametrize(
        "misuse", ["between blocks", "type", "shape", "beyond", "twice", "no such view", "negative"]
    )
    def test_views_out_of_place_are_refused(self, path: Path, misuse: str) -> None:
        """The rules of features hold for each view on its own."""
        rows = sparse_rows(150, views=2)
        writer = self.create(path, layout_of({"train": rows, "test": sparse_rows(150)}))
        block = writer.block_rows("train")
        whole = rows.features
        writer.write_views("train", 1, 0, whole[:block])
        view, start, features = {
            "between blocks": (1, block + 1, whole[block + 1 :]),
            "type": (1, block, whole[block:].astype(np.float32)),
            "shape": (1, block, whole[block:, :1]),
            "beyond": (1, block, whole),
            "twice": (1, 0, whole),
            "no such view": (2, 0, whole),
            "negative": (-1, 0, whole),
        }[misuse]
        with pytest.raises(ValueError, match="train"):
            writer.write_views("train", view, start, features)
        with pytest.raises(ValueError, match="test has 0 views"):
            writer.write_views("test", 0, 0, whole)
        writer.write_views("train", 0, 0, whole)
        writer.abort()

    @pytest.mark.parametrize("lacking", [0, 1])
    def test_view_never_written_is_an_error_at_close(self, path: Path, lacking: int) -> None:
        """A view of which rows are missing is named, and there is no store."""
        rows = sparse_rows(150, views=2)
        assert rows.views is not None
        writer = self.create(path, layout_of({"train": rows}))
        writer.write_features("train", 0, rows.features)
        writer.write_rows(
            "train", labels=rows.labels, sample_ids=rows.sample_ids, sha256=rows.sha256
        )
        writer.write_views("train", 1 - lacking, 0, rows.views[1 - lacking])
        with pytest.raises(IntegrityError, match=rf"view {lacking} of split train, rows 0 to"):
            writer.close()
        with pytest.raises(IntegrityError, match="never finished"):
            self.open(path)
        writer.abort()

    def test_memory_stays_that_of_a_block(self, path: Path) -> None:
        """Views written block by block take the memory of one, however many rows and views."""
        layout = SplitLayout(2 * 1024, (256,), "float32", views=8)
        writer = self.create(path, StoreLayout(splits={"train": layout}, attributes={}))
        block = writer.block_rows("train")
        features = sparse_rows(block, layout.feature_shape, layout.dtype).features
        tracemalloc.start()
        try:
            for view in range(layout.views):
                for start in range(0, layout.rows, block):
                    writer.write_views("train", view, start, features)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            writer.abort()
        # A block as bytes, compressed and as a file, and what any call takes.
        assert peak < 4 * features.nbytes + 2**18
        assert layout.views * layout.rows * layout.row_bytes > 3 * (4 * features.nbytes + 2**18)

    def test_flipped_bit_in_a_view_names_the_view_and_rows(self, path: Path) -> None:
        """Damage of a view's chunk is told with store, split, view and rows; others still read."""
        rows = sparse_rows(150, views=3)
        assert rows.views is not None
        self.write(path, {"train": rows})
        with closing(self.open(path)) as reader:
            chunk_rows = reader.split("train").chunk_rows
        file, offset, size = self.locate_chunk(path, "train", 1, view=2)
        for place in np.linspace(offset, offset + size - 1, 9).astype(int):
            with (
                flipped(file, int(place), bit=int(place) % 8),
                closing(self.open(path)) as reader,
            ):
                split = reader.split("train")
                with pytest.raises(IntegrityError) as caught:
                    split.read_view(2, 0, 150)
                extent = f"rows {chunk_rows} to {2 * chunk_rows - 1} of view 2"
                for text in (self.shown(path), "split train", extent):
                    assert text in str(caught.value)
                np.testing.assert_array_equal(split.read_view(1, 0, 150), rows.views[1])
                np.testing.assert_array_equal(
                    split.read_view(2, 0, chunk_rows), rows.views[2, :chunk_rows]
                )
                np.testing.assert_array_equal(split.read(0, 150), rows.features)
