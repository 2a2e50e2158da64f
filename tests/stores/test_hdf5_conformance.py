"""HDF5 stores keep the contract, compressed with gzip and with zstd."""

import h5py

from featurestore.stores.hdf5_store import Hdf5Writer
from featurestore.testing.stores import StoreConformance


class TestHdf5(StoreConformance):
    store_format = "hdf5"

    def locate_chunk(self, store, split, chunk, *, view=None):
        with h5py.File(store) as file:
            if view is None:
                info = file[split]["features"].id.get_chunk_info(chunk)
            else:
                place = (view, 16 * chunk, 0, 0, 0)
                info = file[split]["views/features"].id.get_chunk_info_by_coord(place)
            return store, info.byte_offset, info.size


class TestHdf5WithZstd(TestHdf5):
    def create(self, path, layout):
        return Hdf5Writer(path, layout, compression="zstd")
