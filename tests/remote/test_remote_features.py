"""Feature sets over HTTP: the same as local ones, never a mixture, and what is asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scripted_server import Clock, Scripted, between

import featurestore as fs
from featurestore.catalogue import Catalogue, checksums_path
from featurestore.errors import IntegrityError, InvalidInput, NotFound
from featurestore.remote.connection import Connection
from featurestore.remote.pacing import Unreachable
from featurestore.remote.remote_features import Reading, open_remote
from featurestore.service.contract import ServiceSettings
from featurestore.stores import create_store
from featurestore.stores.zarr_store import ZarrWriter
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import write_image_folder
from featurestore.testing.served_stores import ServedStores
from featurestore.testing.serving import serve
from featurestore.testing.store_rows import layout_of, sparse_rows, write_splits
from featurestore.training.heads import DenseSettings, LogisticSettings, SgdSettings
from featurestore.training.train import TrainOptions, train

PROBLEM = {"Content-Type": "application/problem+json"}
SPLITS = {"train": 100, "validation": 20, "test": 20}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A served cache with a set in each format, the first with views; tests only read it."""
    root = tmp_path_factory.mktemp("remote")
    write_image_folder(root / "photos", splits=SPLITS)
    embed = TinyEmbedder(root / "photos", root / "cache")
    embed(views=2)
    embed(name="in-hdf5", store="hdf5")
    with serve(ServiceSettings(cache=root / "cache")) as url:
        yield root / "cache", url


@pytest.fixture
def there(made):
    with fs.connect(made[1]) as there:
        yield there


@pytest.fixture
def through(made):
    """Open a set through a server that spoils answers, or notes what is asked."""

    def opened(server, name="photos", *, kept_bytes=0):
        clock = Clock()
        connections = [Connection(server.url, pacing=clock.pacing()) for _ in range(2)]
        reading = Reading(connection=connections[0], within=connections[1], kept_bytes=kept_bytes)
        return open_remote(name, reading)

    return opened


def file_of(store, name):
    return store.joinpath(*name.split("/")) if name else store


@pytest.mark.parametrize("name", ["photos", "in-hdf5"])
def test_the_same_set_is_opened_there_and_here(made, there, name):
    here = fs.open(name, cache=made[0])
    with there.open(name) as remote, here:
        assert isinstance(remote, fs.FeatureSet)
        assert remote.splits == here.splits == ("train", "validation", "test")
        for what in ("name", "fingerprint", "manifest_fingerprint", "recipe", "class_names"):
            assert getattr(remote, what) == getattr(here, what)
        assert dataclasses.replace(remote.record, store=here.record.store) == here.record
        assert remote.storage() == here.storage()
        for split in here.splits:
            far, near = remote[split], here[split]
            assert repr(far) == repr(near)
            np.testing.assert_array_equal(far.load()[0], near.load()[0])
            np.testing.assert_array_equal(far[[3, -1, 3]], near[[3, -1, 3]])
            for what in ("labels", "sample_ids", "sha256"):
                np.testing.assert_array_equal(getattr(far, what), getattr(near, what))
            for view in range(near.views):
                np.testing.assert_array_equal(far.load_view(view)[0], near.load_view(view)[0])
        assert remote["train"].views == (2 if name == "photos" else 0)


def test_it_says_where_it_lies(made, there):
    with there.open("photos") as remote:
        assert remote.url.startswith(f"{made[1]}/v1/feature-sets/photos/")
        assert remote.url in repr(remote)
        with pytest.raises(InvalidInput, match=f"fs pull {made[1]} photos/"):
            _ = remote.path


@pytest.mark.parametrize(
    ("name", "settings", "memory_bytes"),
    [
        ("photos", LogisticSettings(), 2**30),
        ("photos", SgdSettings(epochs=3), 2**30),
        ("photos", SgdSettings(epochs=3), 2**17),  # not all rows at once
        ("photos", DenseSettings(epochs=2, units=4), 2**30),
        ("in-hdf5", LogisticSettings(), 2**30),
        ("in-hdf5", SgdSettings(epochs=3), 2**17),
    ],
    ids=["logistic", "sgd", "sgd streamed", "dense", "logistic on hdf5", "sgd streamed from hdf5"],
)
def test_a_head_trained_over_the_network_has_the_same_numbers(
    made, there, tmp_path, name, settings, memory_bytes
):
    options = TrainOptions(seed=3, memory_bytes=memory_bytes)
    with fs.open(name, cache=made[0]) as here:
        near = train(here, settings, cache=tmp_path / "near", options=options)
    with there.open(name) as remote:
        far = train(remote, settings, cache=tmp_path / "far", options=options)
    assert far.features == near.features
    assert far.metrics == near.metrics
    for split in SPLITS:
        np.testing.assert_array_equal(
            far.predictions(split).probabilities, near.predictions(split).probabilities
        )


def test_a_head_trained_on_views_over_the_network_has_the_same_numbers(made, there, tmp_path):
    options = TrainOptions(views=2)
    with fs.open("photos", cache=made[0]) as here, there.open("photos") as remote:
        near = train(here, LogisticSettings(), cache=tmp_path, options=options)
        far = train(remote, LogisticSettings(), cache=tmp_path, options=options)
    assert (far.features, far.augmentation) == (near.features, near.augmentation)
    assert far.metrics == near.metrics


def test_what_is_kept_is_not_asked_for_again(made, through):
    with between(made[1]) as server:
        split = through(server, kept_bytes=2**20)["train"]
        split.load()
        asked = len(server.asked)
        first = split.load()[0]
        assert len(server.asked) == asked
        bare = through(server)["train"]
        bare.load()
        asked = len(server.asked)
        np.testing.assert_array_equal(bare.load()[0], first)
        assert len(server.asked) > asked


def test_kept_bytes_bound_what_is_kept(made, through):
    cache, url = made
    record = Catalogue(cache).find("photos")
    chunk = file_of(record.store, "train/features/c.0.0.0.0").stat().st_size
    with between(url) as server:
        split = through(server, kept_bytes=2 * chunk + chunk // 2)["train"]
        split.read(0, 200)
        before = len(server.asked)
        split.read(0, 200)
        # Of four chunks, the last is small.
        assert 1 <= len(server.asked) - before <= 2


def test_a_few_rows_take_the_chunk_that_they_lie_in(made, through):
    with between(made[1]) as server:
        split = through(server)["train"]
        before = len(server.asked)
        split.read(70, 75)
        paths = [asked.path for asked in server.asked[before:]]
        assert len(paths) == 1
        assert paths[0].endswith("/train/features/c.1.0.0.0")


def test_a_chunk_of_a_shard_is_read_without_the_rest(tmp_path):
    rows = sparse_rows(300, (50,))
    writer = ZarrWriter(tmp_path / "store.zarr", layout_of({"train": rows}), shard_above=100)
    write_splits(writer, {"train": rows})
    writer.close()
    (tmp_path / "cache").mkdir()
    with (
        serve(ServiceSettings(cache=tmp_path / "cache")) as url,
        between(url) as server,
    ):
        served = ServedStores(tmp_path / "cache", server.url)
        split = served.open(tmp_path / "store.zarr", store_format="zarr").split("train")
        server.asked.clear()
        np.testing.assert_array_equal(split.read(130, 140), rows.features[130:140])
        ranges = [asked.headers.get("Range") for asked in server.asked]
        assert ranges[0] is None  # the size
        assert all(each is not None for each in ranges[1:])
        assert len(ranges) == 3  # then the index, and the chunk
        served.close()


def replace(cache, *, forget_old):
    """Give the first training chunk of `photos` other bytes, as an embedding elsewhere might."""
    record = Catalogue(cache).find("photos")
    store = record.store
    if forget_old:
        record.path.unlink()
        return
    one, other = (file_of(store, f"train/features/c.{n}.0.0.0") for n in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in (one, other)}
    lines = checksums_path(store).read_text().splitlines()
    for at, line in enumerate(lines):
        path = store.parent / line.partition("  ")[2]
        if path in digests:
            lines[at] = f"{digests[path]}  {line.partition('  ')[2]}"
    checksums = "".join(f"{line}\n" for line in lines).encode()
    record.path.unlink()
    checksums_path(store).write_bytes(checksums)
    record.path.write_bytes(
        dataclasses.replace(
            record, checksums_sha256=hashlib.sha256(checksums).hexdigest()
        ).to_json()
    )


@pytest.mark.parametrize("forget_old", [True, False], ids=["collected", "same name"])
def test_a_set_that_was_replaced_is_never_mixed_with_the_old(tmp_path, through, forget_old):
    write_image_folder(tmp_path / "photos", splits={"train": 70})
    cache = tmp_path / "cache"
    TinyEmbedder(tmp_path / "photos", cache)()
    with serve(ServiceSettings(cache=cache)) as url, between(url) as server:
        remote = through(server)
        old = remote["train"].read(128, 140)
        replace(cache, forget_old=forget_old)
        with pytest.raises(NotFound, match=r"split train, rows 0 to 63(.|\n)*open the feature set"):
            remote["train"].read(0, 10)
        if not forget_old:  # this file is what it was
            np.testing.assert_array_equal(remote["train"].read(128, 140), old)
            through(server)["train"].load()


def test_a_set_replaced_while_it_is_opened_is_opened_anew(made, through):
    lists = []

    def spoil(asked, answer):
        if asked.path.endswith(".sha256"):
            lists.append(asked)
            if len(lists) == 1:
                return Scripted(404, b'{"detail": "gone"}', PROBLEM)
        return answer

    with between(made[1], spoil) as server:
        through(server)["train"].load()
    assert len(lists) == 2


@pytest.mark.parametrize("store_format", ["zarr", "hdf5"])
def test_a_service_that_is_gone_is_told_with_split_and_rows(tmp_path, store_format):
    rows = sparse_rows(150, (10_000,), "float32")
    path = tmp_path / "store"
    writer = create_store(store_format, path, layout_of({"train": rows}))
    write_splits(writer, {"train": rows})
    writer.close()
    broken = []

    def spoil(asked, answer):
        if broken:
            answer.cut, answer.reset = 0, True
        return answer

    (tmp_path / "cache").mkdir()
    with (
        serve(ServiceSettings(cache=tmp_path / "cache")) as url,
        between(url, spoil) as server,
    ):
        served = ServedStores(tmp_path / "cache", server.url, pacing=Clock().pacing())
        split = served.open(path, store_format=store_format).split("train")
        broken.append(True)
        with pytest.raises(Unreachable, match=rf"split train, rows \d+ to \d+.*{server.url}"):
            split.read(64, 128)
        broken.clear()
        np.testing.assert_array_equal(split.read(64, 128), rows.features[64:128])
        served.close()


def test_bytes_damaged_on_the_way_are_not_taken(made, through):
    def spoil(asked, answer):
        if "features/c.1." in asked.path:
            answer.body = answer.body[:-20] + bytes([answer.body[-20] ^ 1]) + answer.body[-19:]
        return answer

    with between(made[1], spoil) as server:
        split = through(server)["train"]
        split.read(0, 64)
        with pytest.raises(IntegrityError, match=rf"{server.url}.*split train, rows 64 to 127"):
            split.load()


def test_a_pulled_set_is_the_one_that_was_open(there, tmp_path):
    with there.open("photos") as remote:
        there.pull("photos", cache=tmp_path)
        with fs.open("photos", cache=tmp_path) as here:
            assert here.fingerprint == remote.fingerprint
            np.testing.assert_array_equal(here["test"].load()[0], remote["test"].load()[0])


def test_connecting_loads_no_heavy_library():
    code = (
        "import sys, featurestore\n"
        "featurestore.connect('http://127.0.0.1:1')\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'fastapi', 'starlette', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout == "[]\n"
