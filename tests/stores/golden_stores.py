"""Writes the golden stores: `python tests/stores/golden_stores.py FOLDER`, per format version.

Format 1 has no views; in format 2 the training rows have two. Their rows are literal, so that no
random generator has to stay the same for them to be checked.
"""

import sys
from pathlib import Path

import numpy as np

from featurestore.stores.contract import SplitLayout, StoreLayout
from featurestore.stores.hdf5_store import Hdf5Writer
from featurestore.stores.zarr_store import ZarrWriter

ATTRIBUTES = {
    "class_names": ["cat", "犬"],
    "recipe": {"backbone": "tiny", "size": [8, 8]},
    "note": "golden",
}
TRAIN_ROWS = 70
VIEWS = {"format-1": 0, "format-2": 2}


def train_features() -> np.ndarray:
    """Return (70, 1, 2, 3) float16: row + channel / 4, zero where the sum of indices is odd."""
    row, height, width, channel = np.indices((TRAIN_ROWS, 1, 2, 3))
    even = (row + height + width + channel) % 2 == 0
    return np.where(even, row + channel / 4, 0).astype(np.float16)


def train_view(view: int) -> np.ndarray:
    """Return (70, 1, 2, 3) float16: the features, each that is not zero larger by 100 a view."""
    features = train_features()
    return np.where(features != 0, features + np.float16(100 * (view + 1)), 0).astype(np.float16)


def write_golden(writer, *, views: int) -> None:
    """Write 70 training rows, one test row and no validation rows."""
    train = train_features()
    step = writer.block_rows("train")
    for start in range(0, TRAIN_ROWS, step):
        writer.write_features("train", start, train[start : start + step])
    for view in range(views):
        for start in range(0, TRAIN_ROWS, step):
            writer.write_views("train", view, start, train_view(view)[start : start + step])
    writer.write_features("test", 0, np.array([[[[1, 0, 0.5], [0, -0.0, 65504]]]], np.float16))
    for split, rows in (("train", TRAIN_ROWS), ("validation", 0), ("test", 1)):
        writer.write_rows(
            split,
            labels=np.arange(rows) % 2,
            sample_ids=[f"{split}/Bild {row} 犬.jpg" for row in range(rows)],
            sha256=np.repeat(np.arange(rows, dtype=np.uint8)[:, None], 32, axis=1),
        )
    writer.close()


def layout(*, views: int) -> StoreLayout:
    """Return the golden stores' layout."""
    rows = {"train": TRAIN_ROWS, "validation": 0, "test": 1}
    return StoreLayout(
        splits={
            name: SplitLayout(count, (1, 2, 3), "float16", views=views if name == "train" else 0)
            for name, count in rows.items()
        },
        attributes=ATTRIBUTES,
    )


def main(folder: Path) -> None:
    """Write one store of each kind into a folder for each format version."""
    for version, views in VIEWS.items():
        target = folder / version
        target.mkdir()
        stores = (
            ZarrWriter(target / "unsharded.zarr", layout(views=views)),
            ZarrWriter(target / "sharded.zarr", layout(views=views), shard_above=50),
            Hdf5Writer(target / "gzip.h5", layout(views=views)),
        )
        for writer in stores:
            write_golden(writer, views=views)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
