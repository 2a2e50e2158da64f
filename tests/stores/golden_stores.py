"""Writes the golden stores: `python tests/stores/golden_stores.py FOLDER`, once per format version.

Their rows are literal, so that no random generator has to stay the same for them to be checked.
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


def train_features() -> np.ndarray:
    """Return (70, 1, 2, 3) float16: row + channel / 4, zero where the sum of indices is odd."""
    row, height, width, channel = np.indices((TRAIN_ROWS, 1, 2, 3))
    even = (row + height + width + channel) % 2 == 0
    return np.where(even, row + channel / 4, 0).astype(np.float16)


def write_golden(writer) -> None:
    """Write 70 training rows, one test row and no validation rows."""
    train = train_features()
    step = writer.block_rows("train")
    for start in range(0, TRAIN_ROWS, step):
        writer.write_features("train", start, train[start : start + step])
    writer.write_features("test", 0, np.array([[[[1, 0, 0.5], [0, -0.0, 65504]]]], np.float16))
    for split, rows in (("train", TRAIN_ROWS), ("validation", 0), ("test", 1)):
        writer.write_rows(
            split,
            labels=np.arange(rows) % 2,
            sample_ids=[f"{split}/Bild {row} 犬.jpg" for row in range(rows)],
            sha256=np.repeat(np.arange(rows, dtype=np.uint8)[:, None], 32, axis=1),
        )
    writer.close()


def layout() -> StoreLayout:
    """Return the golden stores' layout."""
    rows = {"train": TRAIN_ROWS, "validation": 0, "test": 1}
    return StoreLayout(
        splits={name: SplitLayout(count, (1, 2, 3), "float16") for name, count in rows.items()},
        attributes=ATTRIBUTES,
    )


def main(folder: Path) -> None:
    """Write one store of each kind into a folder."""
    write_golden(ZarrWriter(folder / "unsharded.zarr", layout()))
    write_golden(ZarrWriter(folder / "sharded.zarr", layout(), shard_above=50))
    write_golden(Hdf5Writer(folder / "gzip.h5", layout()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
