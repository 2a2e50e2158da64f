"""Heads of runs in memory: loaded once, let go of by size, gone with their run."""

import asyncio
import shutil
import threading
import zipfile
from contextlib import AsyncExitStack

import numpy as np
import pytest

from featurestore.errors import IntegrityError, NotFound
from featurestore.recipe import Recipe
from featurestore.service.heads import LoadedHeads, unpacked_bytes
from featurestore.testing.rows import MemoryFeatures, blobs
from featurestore.training import runs as runs_module
from featurestore.training.runs import load_run
from featurestore.training.sklearn_settings import NearestCentroidSettings
from featurestore.training.train import TrainOptions, train

ROWS = {split: blobs(12, n_classes=2, seed=seed) for seed, split in enumerate(("train", "test"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three runs whose model files are of one size or nearly; the tests only read them."""
    cache = tmp_path_factory.mktemp("heads")
    features = MemoryFeatures(ROWS, ("cats", "dogs"))
    for name in ("a", "b", "c"):
        run = train(features, NearestCentroidSettings(), cache=cache, options=TrainOptions())
        run.path.rename(run.path.with_name(name))
    return cache


@pytest.fixture
def cache(made, tmp_path):
    shutil.copytree(made, tmp_path / "cache")
    return tmp_path / "cache"


class Told:
    """What was last told of loaded heads."""

    heads, model_bytes = 0, 0

    def heads_loaded(self, heads, model_bytes):
        self.heads, self.model_bytes = heads, model_bytes


@pytest.fixture
def loads(monkeypatch):
    """The ids of the runs whose model was loaded, in order, as they were."""
    found = []
    load = runs_module.Run.load_head

    def counted(run):
        found.append(run.id)
        return load(run)

    monkeypatch.setattr(runs_module.Run, "load_head", counted)
    return found


def run_of(cache, name):
    return load_run(cache / "runs" / name)


def size_of(cache, name="a"):
    return unpacked_bytes(run_of(cache, name).model_path)


def with_heads(test, max_bytes=2**30):
    """Run a coroutine function on heads, and close them."""
    told = Told()

    async def main():
        heads = LoadedHeads(max_bytes, counts=told)
        try:
            return await test(heads, told)
        finally:
            await heads.close()
            assert (told.heads, told.model_bytes) == (0, 0)

    return asyncio.run(main())


async def use(heads, run):
    async with heads.lease(run) as head:
        return head


def test_a_head_gives_the_probabilities_that_the_run_recorded(cache):
    run = run_of(cache, "a")
    rows, _ = ROWS["test"].load()

    async def test(heads, told):
        async with heads.lease(run) as head:
            assert head.recipe == Recipe.from_dict(run.features.recipe).clean
            return await head.probabilities([None, *rows, None])

    first, *found, last = with_heads(test)
    assert first is None and last is None
    np.testing.assert_array_equal(np.stack(found), run.predictions("test").probabilities)


def test_no_readable_image_asks_no_head(cache):
    async def test(heads, told):
        async with heads.lease(run_of(cache, "a")) as head:
            return await head.probabilities([None, None])

    assert with_heads(test) == [None, None]


def test_several_requests_at_once_load_a_head_once(cache, loads):
    async def test(heads, told):
        found = await asyncio.gather(*(use(heads, run_of(cache, "a")) for _ in range(20)))
        assert all(head is found[0] for head in found)
        assert await use(heads, run_of(cache, "a")) is found[0]
        assert (told.heads, told.model_bytes) == (1, size_of(cache))

    with_heads(test)
    assert loads == ["a"]


def test_the_head_used_longest_ago_goes_first(cache, loads):
    runs = {name: run_of(cache, name) for name in "abc"}

    async def test(heads, told):
        for name in "abac":
            await use(heads, runs[name])
        assert {head.run.id for head in heads.loaded} == {"a", "c"}
        assert told.heads == 2
        for name in "acb":
            await use(heads, runs[name])

    with_heads(test, max_bytes=2 * max(size_of(cache, name) for name in "abc"))
    assert loads == ["a", "b", "c", "b"]


def test_a_packed_model_counts_in_full(tmp_path):
    packed, plain = tmp_path / "model.skops", tmp_path / "model.keras"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", bytes(100_000))
        file.writestr("schema.json", "{}")
    plain.write_bytes(b"abc")
    assert packed.stat().st_size < 1000
    assert (unpacked_bytes(packed), unpacked_bytes(plain)) == (100_002, 3)


def test_heads_in_use_stay_beyond_the_bound(cache, loads):
    runs = {name: run_of(cache, name) for name in "abc"}

    async def test(heads, told):
        async with AsyncExitStack() as open_leases:
            for name in "abc":
                await open_leases.enter_async_context(heads.lease(runs[name]))
            assert {head.run.id for head in heads.loaded} == {"a", "b", "c"}
        assert heads.loaded == []
        assert told.heads == 0

    with_heads(test, max_bytes=1)
    assert loads == ["a", "b", "c"]


def test_a_removed_run_is_gone_though_its_head_is_in_memory(cache):
    run = run_of(cache, "a")

    async def test(heads, told):
        async with heads.lease(run) as head:
            shutil.rmtree(run.path)
            rows, _ = ROWS["test"].load()
            await head.probabilities(rows)  # whoever has it already is served
            with pytest.raises(NotFound, match="gone"):
                await use(heads, run)
        with pytest.raises(NotFound, match="gone"):
            await use(heads, run)
        assert heads.loaded == []

    with_heads(test)


def test_a_run_that_was_never_loaded_and_is_gone_is_not_found(cache):
    run = run_of(cache, "a")
    shutil.rmtree(run.path)

    async def test(heads, told):
        with pytest.raises(NotFound):
            await use(heads, run)

    with_heads(test)


def test_a_damaged_model_is_refused_until_it_is_whole_again(cache):
    run = run_of(cache, "a")
    whole = run.model_path.read_bytes()
    run.model_path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    async def test(heads, told):
        for found in await asyncio.gather(
            *(use(heads, run) for _ in range(3)), return_exceptions=True
        ):
            assert isinstance(found, IntegrityError)
        assert heads.loaded == []
        run.model_path.write_bytes(whole)
        assert (await use(heads, run)).run is run

    with_heads(test)


def test_another_run_under_the_id_of_a_removed_one_is_loaded_anew(cache, loads):
    old = run_of(cache, "a")
    other = MemoryFeatures({"train": blobs(12, n_classes=2, seed=7)}, ("cats", "dogs"))
    made = train(other, NearestCentroidSettings(), cache=cache)

    async def test(heads, told):
        await use(heads, old)
        shutil.rmtree(old.path)
        made.path.rename(old.path)
        new = await use(heads, run_of(cache, "a"))
        assert new.run.files != old.files

    with_heads(test)
    assert loads == ["a", "a"]


def test_a_client_that_leaves_does_not_take_the_head_from_others(cache, monkeypatch):
    run = run_of(cache, "a")
    going, load = threading.Event(), runs_module.Run.load_head
    monkeypatch.setattr(runs_module.Run, "load_head", lambda run: (going.wait(10), load(run))[1])

    async def test(heads, told):
        leaving, staying = (asyncio.create_task(use(heads, run)) for _ in range(2))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.sleep(0.01)
        going.set()
        assert (await staying).run is run
        with pytest.raises(asyncio.CancelledError):
            await leaving

    with_heads(test)


def test_a_failed_load_that_nobody_waited_for_is_not_remembered(cache, monkeypatch):
    run = run_of(cache, "a")
    going, load = threading.Event(), runs_module.Run.load_head

    def fail(run):
        going.wait(10)
        raise IntegrityError("not now")

    async def test(heads, told):
        monkeypatch.setattr(runs_module.Run, "load_head", fail)
        leaving = asyncio.create_task(use(heads, run))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.sleep(0.01)
        going.set()
        await asyncio.sleep(0.05)
        monkeypatch.setattr(runs_module.Run, "load_head", load)
        assert (await use(heads, run)).run is run

    with_heads(test)


def test_weights_of_the_start_are_looked_for_again_only_in_other_records(cache, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "featurestore.service.heads.weights_of_start",
        lambda run, records: asked.append(records) or ("random:0",),
    )
    first, second = [], []

    async def test(heads, told):
        async with heads.lease(run_of(cache, "a")) as head:
            for records in (first, first, second):
                assert await head.other_weights(records) == ("random:0",)

    with_heads(test)
    assert len(asked) == 2 and asked[0] is first and asked[1] is second
