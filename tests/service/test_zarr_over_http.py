"""Stock readers of Zarr and HDF5 on a served cache, over a real socket."""

import os
import re
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import aiohttp
import fsspec
import h5py
import numpy as np
import pytest
import zarr
from committed_stores import commit_list, commit_rows, few_rows

import featurestore as fs
from featurestore.catalogue import Catalogue
from featurestore.collect import find_garbage, remove_garbage
from featurestore.embedding.commit import checksum_lines, remove_store
from featurestore.service.app import create_app
from featurestore.service.contract import ServiceSettings
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore.testing.serving import serve, serve_app
from featurestore.testing.store_rows import sparse_rows

ROWS, SHAPE = 1300, (4, 4, 32)  # two shards; a chunk of 64 rows takes about 20 kB


class Counted:
    """An application that notes which paths were asked for, with what, and what was sent."""

    def __init__(self, app):
        self.app = app
        self.sent = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = size = 0

        async def counted(message):
            nonlocal status, size
            status = message.get("status", status)
            size += len(message.get("body", b"")) if scope["method"] != "HEAD" else 0
            await send(message)

        await self.app(scope, receive, counted)
        self.sent.append((scope["method"], scope["path"], status, size))

    def of(self, pattern):
        return [each for each in self.sent if re.search(pattern, each[1])]


@pytest.fixture(scope="module")
def rows():
    return {"train": sparse_rows(ROWS, SHAPE, seed=3), "test": sparse_rows(70, SHAPE, seed=4)}


@pytest.fixture(scope="module")
def served(tmp_path_factory, rows):
    """A cache with one set in both formats, and another that is sharded."""
    cache = tmp_path_factory.mktemp("cache")
    records = {
        "zarr": commit_rows(cache, rows),
        "hdf5": commit_rows(cache, rows, store_format="hdf5"),
        "sharded": commit_rows(cache, rows, dataset="sharded", shard_above=64),
    }
    app = Counted(create_app(ServiceSettings(cache=cache)))
    with serve_app(app) as url:
        yield app, {name: url_of(url, record) for name, record in records.items()}


def url_of(url, record):
    return f"{url}/v1/feature-sets/{record.name}/store/{record.store.name}"


@pytest.mark.parametrize("kind", ["zarr", "sharded"])
def test_stock_zarr_reads_what_was_stored(served, rows, kind):
    app, urls = served
    app.sent.clear()
    group = zarr.open(urls[kind], mode="r")
    assert group.metadata.consolidated_metadata is not None
    found = {each[1].partition("/store/")[2] for each in app.sent if each[2] == 200}
    assert found == {f"{urls[kind].rpartition('/')[2]}/zarr.json"}  # all metadata came in one file
    assert sorted(name for name, _ in group.members()) == ["test", "train"]
    for split, expected in rows.items():
        found = group[split]
        assert found["features"][:].tobytes() == expected.features.tobytes()
        assert np.array_equal(found["labels"][:], expected.labels)
        assert np.array_equal(found["sha256"][:], expected.sha256)
        assert tuple(found["sample_ids"][:]) == expected.sample_ids


def test_reading_rows_of_one_chunk_moves_that_chunk(served, rows):
    app, urls = served
    features = zarr.open(urls["zarr"], mode="r")["train/features"]
    app.sent.clear()
    assert np.array_equal(features[130:140], rows["train"].features[130:140])
    ((_, path, status, size),) = [each for each in app.sent if each[0] == "GET"]
    assert path.endswith("/train/features/c.2.0.0.0")
    assert status == 200
    assert 0 < size < rows["train"].features[128:192].nbytes


def test_reading_rows_of_one_chunk_of_a_shard_moves_little_more_than_that(served, rows):
    app, urls = served
    features = zarr.open(urls["sharded"], mode="r")["train/features"]
    assert features.shards[0] == 1024
    app.sent.clear()
    assert np.array_equal(features[130:140], rows["train"].features[130:140])
    got = [each for each in app.sent if each[0] == "GET"]
    assert {each[1].rpartition("/")[2] for each in got} == {"c.0.0.0.0"}
    assert {each[2] for each in got} == {206}
    whole = rows["train"].features[:1024].nbytes
    assert 0 < sum(each[3] for each in got) < whole / 8  # its index of 16 entries, and one chunk


def test_stock_h5py_reads_parts_of_the_file(served, rows):
    app, urls = served
    app.sent.clear()
    with fsspec.open(urls["hdf5"], block_size=2**14) as stream, h5py.File(stream) as file:
        size = stream.size
        found = file["train/features"]
        assert np.array_equal(found[130:140], rows["train"].features[130:140])
        assert {each[2] for each in app.of(r"\.h5$") if each[0] == "GET"} <= {206}
        assert sum(each[3] for each in app.sent) < size / 3
        assert found[:].tobytes() == rows["train"].features.tobytes()
        assert tuple(file["test/sample_ids"].asstr()[:]) == rows["test"].sample_ids


def test_a_store_that_is_collected_is_no_array_of_zeros(tmp_path):
    """Stock zarr takes a chunk that is not found for one of zeros, and says nothing."""
    record = commit_rows(tmp_path, few_rows())
    with serve(ServiceSettings(cache=tmp_path)) as url:
        features = zarr.open(url_of(url, record), mode="r")["train/features"]
        assert features[:64].any()
        remove_store(record.store)
        with pytest.raises(aiohttp.ClientResponseError, match="410"):
            features[:]
        with pytest.raises(FileNotFoundError):
            zarr.open(url_of(url, record), mode="r")


@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody remove an open file")
def test_a_file_that_is_collected_while_it_is_sent_is_sent_to_its_end(tmp_path):
    record = commit_big_file(tmp_path)
    whole = record.store.read_bytes()
    with serve(ServiceSettings(cache=tmp_path)) as url:
        with urllib.request.urlopen(url_of(url, record)) as answer:
            first = answer.read(1000)
            assert str(record.store) in open_files()  # what the socket holds is not all of it
            remove_store(record.store)
            assert first + answer.read() == whole
        deadline = time.monotonic() + 10
        while str(record.store) in open_files() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert str(record.store) not in open_files()


def test_a_client_that_leaves_lets_go_of_the_file(tmp_path):
    record = commit_big_file(tmp_path)
    with serve(ServiceSettings(cache=tmp_path)) as url:
        with urllib.request.urlopen(url_of(url, record)) as answer:
            answer.read(1000)
            assert str(record.store) in open_files()
        deadline = time.monotonic() + 10
        while str(record.store) in open_files() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert str(record.store) not in open_files()


def commit_big_file(cache):
    """Commit a store of one file, far larger than what sockets hold; nobody looks into it."""
    record = commit_rows(cache, few_rows(), store_format="hdf5")
    record.store.write_bytes(np.random.default_rng(0).bytes(2**24))
    commit_list(record, checksum_lines(record.store, record.store.name))
    return record


def open_files():
    """Return the paths of the files that this process has open, where the system tells."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("this system does not list open files")
    found = set()
    for descriptor in descriptors.iterdir():
        with suppress(OSError):
            found.add(str(descriptor.readlink()).removesuffix(" (deleted)"))
    return found


def test_readers_see_one_version_while_the_set_is_replaced_and_collected(tmp_path):
    """Every whole read is one version's, whatever is embedded and collected meanwhile."""
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    write_image_folder(photos)
    versions = {}  # features of all splits by the store's name

    def embed(number):
        changed = photos / "train" / "cats" / "changed.jpg"
        changed.write_bytes(encode(photograph(0, index=1000 + number)))
        fs.embed(photos, fs.EmbedSettings(), cache=cache, choose=TinyChoice)
        record = Catalogue(cache).find("photos")
        versions[record.store.name] = contents(zarr.open(record.store, mode="r"))
        remove_garbage(cache, find_garbage(cache))

    def contents(group):
        return {
            split: (found["features"][:].tobytes(), tuple(found["sample_ids"][:]))
            for split, found in group.members()
        }

    embed(0)
    whole, cut_short, stop = {}, [], threading.Event()

    def read(url):
        while not stop.is_set():
            record = Catalogue(cache).find("photos")
            try:
                group = zarr.open(url_of(url, record), mode="r")
                time.sleep(0.05)  # so that most collections fall between metadata and chunks
                found = contents(group)
            except (FileNotFoundError, aiohttp.ClientResponseError) as error:
                cut_short.append(error)
                continue
            whole.setdefault(record.store.name, []).append(found)

    with serve(ServiceSettings(cache=cache)) as url:
        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read, url) for _ in range(2)]
            try:
                for number in range(1, 60):
                    embed(number)
                    if number >= 5 and cut_short and whole:
                        break
                    time.sleep(0.3 * (number % 3 == 0))  # long enough for a whole read
            finally:
                stop.set()
        for reader in readers:
            reader.result()
    assert len(versions) == number + 1
    assert whole
    for name, reads in whole.items():
        assert all(found == versions[name] for found in reads)
    assert cut_short  # or nothing was collected while it was read, and nothing was tested
