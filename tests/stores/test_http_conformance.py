"""Stores keep the contract of readers over HTTP: written here, read from a cache that is served."""

import pytest
import test_hdf5_conformance
import test_zarr_conformance

from featurestore.service.contract import ServiceSettings
from featurestore.testing.served_stores import ServedStores
from featurestore.testing.serving import serve


class OverHttp:
    flips = 30  # each is a store of its own, copied, committed and served

    # What a writer promises no reader changes; these take long.
    test_every_failing_operation_is_an_os_error = None
    test_memory_stays_that_of_a_block = None
    test_everything_is_synced_after_it_is_written = None
    test_same_rows_give_the_same_bytes = None

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _served(cls, tmp_path_factory):
        cache = tmp_path_factory.mktemp("cache")
        with serve(ServiceSettings(cache=cache)) as url:
            cls.served = ServedStores(cache, url)
            yield
            cls.served.close()

    def open(self, path):
        return self.served.open(path, store_format=self.store_format)

    def shown(self, path):
        del path  # its copy is served under another name
        return self.served.url


class TestZarrOverHttp(OverHttp, test_zarr_conformance.TestZarr):
    test_truncated_file_is_an_error = None  # shards have all these files, and longer ones


class TestShardedZarrOverHttp(OverHttp, test_zarr_conformance.TestShardedZarr):
    pass


class TestHdf5OverHttp(OverHttp, test_hdf5_conformance.TestHdf5):
    pass
