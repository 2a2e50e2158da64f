"""Zarr stores keep the contract, with a file per chunk and with shards."""

import numpy as np

from featurestore.stores.zarr_store import ZarrWriter
from featurestore.testing.stores import StoreConformance


class TestZarr(StoreConformance):
    store_format = "zarr"

    def locate_chunk(self, store, split, chunk, *, view=None):
        file = store / split / "features" / f"c.{chunk}.0.0.0"
        if view is not None:
            file = store / split / "views" / "features" / f"c.{view}.{chunk}.0.0.0"
        return file, 0, file.stat().st_size


class TestShardedZarr(StoreConformance):
    store_format = "zarr"

    def create(self, path, layout):
        return ZarrWriter(path, layout, shard_above=100)

    def locate_chunk(self, store, split, chunk, *, view=None):
        file = store / split / "features" / "c.0.0.0.0"
        if view is not None:
            file = store / split / "views" / "features" / f"c.{view}.0.0.0.0"
        index = np.frombuffer(file.read_bytes()[-260:-4], "<u8").reshape(16, 2)
        return file, int(index[chunk, 0]), int(index[chunk, 1])
