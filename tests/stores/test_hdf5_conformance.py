"""HDF5 stores keep the contract, compressed with gzip and with zstd."""

import h5py

from featurestore.stores.hdf5_store import Hdf5Writer
from featurestore.testing.stores import StoreConformance


class TestHdf5(StoreConformance):
    store_format = "hdf5"

    def locate_chunk(self, store, split, chunk):
        with h5py.File(store) as file:
            info = file[split]["features"].id.get_chunk_info(chunk)
            return store, info.byte_offset, info.size


class TestHdf5WithZstd(TestHdf5):
    def create(self, path, layout):
        return Hdf5Writer(path, layout, compression="zstd")
