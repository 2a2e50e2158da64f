"""The embedding engine: the features of `fs embed`, each image computed once, for many clients."""

import asyncio
import dataclasses
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import featurestore as fs
from featurestore.catalogue import Catalogue
from featurestore.collect import find_garbage, remove_garbage
from featurestore.digests import sha256_hex
from featurestore.errors import Conflict, IntegrityError, InvalidInput, NotFound, UnstorableFeatures
from featurestore.features import open_features
from featurestore.online import ONLINE, OnlineCache
from featurestore.service.contract import Busy, Limits, NoCounts, ServiceSettings, TooLarge
from featurestore.service.embedder import Embedder
from featurestore.service.lookup import HotAnswers, answer_of
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import broken_images, encode, photograph, write_image_folder


@pytest.fixture
def made(tmp_path):
    """Photographs and a cache that holds their features."""
    write_image_folder(tmp_path / "photos")
    embed_folder(tmp_path / "photos", tmp_path / "cache")
    return tmp_path


def embed_folder(folder, cache):
    fs.embed(folder, fs.EmbedSettings(), cache=cache, choose=TinyChoice)


def new_images(count, *, first=500):
    return [encode(photograph(index % 2, index=first + index)) for index in range(count)]


def stored_images(made):
    return [path.read_bytes() for path in sorted((made / "photos").rglob("*.jpg"))]


def recipe_of(made, name="photos"):
    with open_features(name, cache=made / "cache") as features:
        return features.recipe


def expected(made, contents):
    """What `fs embed` stores of the same bytes, embedded as a dataset into another cache."""
    folder = made / "again"
    for index, content in enumerate(contents):
        target = folder / ("train" if index % 3 else "test") / ("ab"[index % 2])
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{index}.jpg").write_bytes(content)
    embed_folder(folder, made / "cache2")
    stored = {}
    with open_features("again", cache=made / "cache2") as features:
        for split in features.splits:
            rows, _ = features[split].load()
            keys = [digest.tobytes().hex() for digest in features[split].sha256]
            stored |= dict(zip(keys, rows, strict=True))
    return stored


class Built:
    """A network that counts how often it is built, and in what batches it computes."""

    def __init__(self, **options):
        self.options = options
        self.networks = []
        self.batches = []

    def __call__(self, recipe):
        network = Watched(self.batches, dtype=recipe.dtype, **self.options)
        self.networks.append(network)
        return network


class Watched(TinyNetwork):
    def __init__(self, batches, **options):
        super().__init__(**options)
        self.batches = batches

    def embed(self, batch):
        self.batches.append(len(batch))
        return super().embed(batch)


class Gate:
    """Stops the network before each pass until it is opened."""

    def __init__(self):
        self.open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, images):
        self.reached.set()
        assert self.open.wait(30)


class Counted(NoCounts):
    def __init__(self):
        self.origins = {}
        self.sizes = []
        self.waiting = []

    def answered(self, origin, images):
        self.origins[origin] = self.origins.get(origin, 0) + images

    def batch(self, images, seconds):
        assert seconds > 0
        self.sizes.append(images)

    def queued(self, images):
        self.waiting.append(images)


def run(made, scenario, built=None, *, counts=None, decoder=None, **settings):
    """Run `scenario(embedder)` against a new embedder, and close it."""

    async def whole():
        embedder = Embedder(
            ServiceSettings(
                cache=made / "cache",
                **{"network": built or Built(), "workers": 1, **settings},
            ),
            Catalogue(made / "cache"),
            counts=counts,
            decoder=decoder,
        )
        try:
            return await scenario(embedder)
        finally:
            await embedder.close()

    return asyncio.run(asyncio.wait_for(whole(), 60))


def embed(made, contents, built=None, *, recipe=None, **settings):
    recipe = recipe or recipe_of(made)
    return run(made, lambda embedder: embedder.embed(recipe, contents), built, **settings)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def test_committed_rows_come_back_without_a_network(made):
    built = Built()
    contents = stored_images(made)
    found = embed(made, contents, built)
    assert built.networks == []
    assert {each.origin for each in found} == {"feature set"}
    by_digest = {each.sha256: each.features for each in found}
    seen = 0
    with open_features("photos", cache=made / "cache") as features:
        for split in features.splits:
            rows, _ = features[split].load()
            for digest, row in zip(features[split].sha256, rows, strict=True):
                if digest.tobytes().hex() in by_digest:
                    np.testing.assert_array_equal(by_digest[digest.tobytes().hex()], row)
                    seen += 1
    assert seen == len(contents)


def test_misses_equal_what_embed_stores_and_are_computed_once(made):
    contents = new_images(30)
    stored = expected(made, contents)
    built = Built()

    async def twice(embedder):
        first = await embedder.embed(recipe_of(made), contents)
        return first, await embedder.embed(recipe_of(made), contents[::-1])

    first, again = run(made, twice, built)
    assert [each.origin for each in first] == ["computed"] * 30
    assert [each.origin for each in again] == ["online cache"] * 30
    assert sum(built.batches) == 30
    for found in (first, again[::-1]):
        for content, each in zip(contents, found, strict=True):
            assert each.sha256 == sha256_hex(content)
            assert each.features.dtype == np.float16
            np.testing.assert_array_equal(each.features, stored[each.sha256])


def test_order_and_equal_bytes(made):
    new, old = new_images(2), stored_images(made)[0]
    built = Built()
    found = embed(made, [new[1], new[0], old, new[1]], built)
    assert [each.origin for each in found] == ["computed", "computed", "feature set", "computed"]
    assert sum(built.batches) == 2
    assert found[0].sha256 == found[3].sha256 != found[1].sha256
    assert embed(made, []) == []


def test_views_in_a_recipe_change_nothing(made):
    views = fs.EmbedSettings(views=2)
    fs.embed(made / "photos", views, cache=made / "cache", choose=TinyChoice)
    names = [record.name for record in Catalogue(made / "cache").current()]
    (viewed,) = [name for name in names if "views" in name]
    assert recipe_of(made, viewed).augmentation is not None
    contents = [*stored_images(made)[:2], *new_images(1)]
    found = embed(made, contents, recipe=recipe_of(made, viewed))
    assert [each.origin for each in found] == ["feature set", "feature set", "computed"]
    assert embed(made, contents)[2].origin == "online cache"


def test_the_online_cache_outlives_the_service_and_a_kill(made):
    contents = new_images(5)
    code = f"""
        import asyncio, os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_embedder import Built, Catalogue, Embedder, ServiceSettings, new_images, recipe_of
        made = Path({str(made)!r})
        async def main():
            settings = ServiceSettings(cache=made / "cache", network=Built(), workers=1)
            embedder = Embedder(settings, Catalogue(made / "cache"))
            await embedder.embed(recipe_of(made), new_images(5))
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60, check=False)
    assert killed.returncode == -9
    built = Built()
    found = embed(made, contents, built)
    assert [each.origin for each in found] == ["online cache"] * 5
    assert built.networks == []


def test_the_online_cache_is_bounded(made):
    bound = 16 * 4096
    embed(made, new_images(150), online_bytes=bound)
    assert 0 < (made / "cache" / ONLINE).stat().st_size <= bound
    found = embed(made, new_images(150), online_bytes=bound)
    assert {each.origin for each in found} == {"online cache", "computed"}


def test_without_the_online_cache_nothing_is_kept(made):
    contents = new_images(3)

    async def twice(embedder):
        await embedder.embed(recipe_of(made), contents)
        return await embedder.embed(recipe_of(made), contents)

    assert {each.origin for each in run(made, twice, online_bytes=0)} == {"computed"}
    assert not (made / "cache" / ONLINE).exists()


def test_an_online_cache_that_cannot_be_used_stops_no_client(made, caplog):
    (made / "cache" / ONLINE).mkdir()
    found = embed(made, new_images(3))
    assert {each.origin for each in found} == {"computed"}
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("error", [MemoryError("none left"), sqlite3.DatabaseError("malformed")])
def test_an_online_cache_that_fails_otherwise_stops_no_client_either(
    made, caplog, monkeypatch, error
):
    def fails(self, recipe, found):
        raise error

    monkeypatch.setattr(OnlineCache, "put", fails)
    found = run(
        made,
        lambda embedder: asyncio.wait_for(embedder.embed(recipe_of(made), new_images(3)), 10),
    )
    assert {each.origin for each in found} == {"computed"}
    assert str(error) in caplog.text


def test_a_set_committed_meanwhile_answers(made):
    contents = new_images(4)
    built = Built()

    async def scenario(embedder):
        recipe = recipe_of(made)
        await embedder.embed(recipe, contents[:1])
        for index, content in enumerate(contents[1:]):
            (made / "photos" / "train" / "cats" / f"new{index}.jpg").write_bytes(content)
        embed_folder(made / "photos", made / "cache")
        return await embedder.embed(recipe, contents[1:])

    found = run(made, scenario, built)
    assert [each.origin for each in found] == ["feature set"] * 3
    assert sum(built.batches) == 1


def test_rows_of_a_collected_set_are_no_errors(made):
    old = stored_images(made)

    async def scenario(embedder):
        recipe = recipe_of(made)
        first = await embedder.embed(recipe, old[:1])
        embedder._hot._answers.clear()
        (made / "photos" / "train" / "cats" / "new.jpg").write_bytes(new_images(1)[0])
        embed_folder(made / "photos", made / "cache")
        garbage = find_garbage(made / "cache")
        assert any("superseded" in str(item) for item in garbage)
        remove_garbage(made / "cache", [item for item in garbage if item.kept is None])
        # As if the folders had not been read again yet.
        embedder._catalogue = stale
        return first + await embedder.embed(recipe, old)

    stale = Catalogue(made / "cache")
    records = stale.records()
    stale.records = lambda: records
    found = run(made, scenario)
    assert {each.origin for each in found} == {"feature set"}


def test_a_damaged_committed_row_is_an_error_and_not_recomputed(made):
    (store,) = (made / "cache").glob("*/*.zarr")
    for chunk in (store / "train" / "features").rglob("*"):
        if chunk.is_file() and chunk.name != "zarr.json":
            content = bytearray(chunk.read_bytes())
            content[len(content) // 2] ^= 1
            chunk.write_bytes(content)
    with pytest.raises(IntegrityError):
        embed(made, stored_images(made))


def test_unreadable_images_have_a_reason_that_is_remembered(made):
    contents = [content for name, content in broken_images().items() if not name.startswith("bomb")]
    counts = Counted()
    found = embed(made, [*contents, *new_images(1)], counts=counts)
    assert all(each.features is None and each.reason for each in found[:-1])
    assert found[-1].features is not None
    assert counts.sizes == [1]
    again = embed(made, contents, Built())
    assert [each.reason for each in again] == [each.reason for each in found[:-1]]
    assert {each.origin for each in again} == {"online cache"}


@pytest.mark.parametrize("what", [b"segfault", b"memory"])
def test_an_image_whose_decoding_died_is_no_known_fact(made, what):
    contents = [b"one", what, b"two"]

    async def twice(embedder):
        recipe = recipe_of(made)
        return await embedder.embed(recipe, contents), await embedder.embed(recipe, contents)

    # 4 pixels of 16 bytes: the memory is the base alone.
    first, again = run(
        made, twice, decoder="hostile_decoder:decode", limits=Limits(pixels=4), workers=2
    )
    for found in (first, again):
        assert [each.reason is None for each in found] == [True, False, True]
        assert "decod" in found[1].reason
    assert [each.origin for each in again] == ["online cache", "computed", "online cache"]


def test_too_many_pixels_are_too_large_and_compute_nothing(made):
    built = Built()
    with pytest.raises(TooLarge, match="100x100 pixels exceed the limit of 9,999"):
        embed(
            made,
            [encode(photograph(0, size=(100, 100)))],
            built,
            limits=Limits(pixels=9_999),
        )
    assert built.batches == []


def test_32_clients_share_batches(made):
    contents = new_images(64)
    stored = expected(made, contents)
    built, counts = Built(batch_size=16, pause_s=0.02), Counted()

    async def scenario(embedder):
        recipe = recipe_of(made)

        async def client(number):
            found = []
            for content in contents[2 * number : 2 * number + 2]:
                found += await embedder.embed(recipe, [content])
            return found

        return await asyncio.gather(*map(client, range(32)))

    found = run(made, scenario, built, counts=counts, workers=2)
    for (each,) in [[one] for two in found for one in two]:
        np.testing.assert_array_equal(each.features, stored[each.sha256])
    assert counts.origins == {"computed": 64}
    assert counts.sizes == built.batches
    assert sum(built.batches) == 64
    assert len(built.batches) < 32
    assert (max(counts.waiting), counts.waiting[-1]) > (10, 0)
    assert counts.waiting[-1] == 0


def test_clients_who_ask_for_the_same_image_at_once_share_it(made):
    (content,) = new_images(1)
    built, gate = Built(), Gate()
    built.options["before"] = gate

    async def scenario(embedder):
        recipe = recipe_of(made)
        first = asyncio.create_task(embedder.embed(recipe, [content]))
        await until(gate.reached.is_set)
        others = [asyncio.create_task(embedder.embed(recipe, [content])) for _ in range(5)]
        await asyncio.sleep(0.05)
        gate.open.set()
        return await asyncio.gather(first, *others)

    found = run(made, scenario, built)
    assert built.batches == [1]
    assert {each.origin for (each,) in found} == {"computed"}


def test_one_client_s_many_images_do_not_hold_up_another_s_one(made):
    many, (one,) = new_images(200), new_images(1, first=5000)
    built = Built(batch_size=8, pause_s=0.05)

    async def scenario(embedder):
        recipe = recipe_of(made)
        large = asyncio.create_task(embedder.embed(recipe, many))
        await until(lambda: len(built.batches) >= 2)
        before = len(built.batches)
        await embedder.embed(recipe, [one])
        passes = len(built.batches) - before
        assert not large.done()
        assert len(await large) == 200
        return passes

    # Of 25: one or two while it is looked up and decoded, its own, and one while it is kept.
    assert run(made, scenario, built) <= 4


def test_recipes_take_turns(made):
    built = Built(batch_size=4, pause_s=0.02)
    other = TinyChoice(fs.EmbedSettings(), weights="two").recipe(None, dataset="", records=())

    async def scenario(embedder):
        many = asyncio.create_task(embedder.embed(recipe_of(made), new_images(100)))
        await until(lambda: len(built.batches) >= 2)
        (found,) = await embedder.embed(other, new_images(1))
        assert not many.done()
        await many
        return found

    assert run(made, scenario, built).origin == "computed"
    assert len(built.networks) == 2


def test_a_full_queue_is_busy_and_takes_nothing(made):
    built, gate = Built(), Gate()
    built.options["before"] = gate

    async def scenario(embedder):
        recipe = recipe_of(made)
        first = asyncio.create_task(embedder.embed(recipe, new_images(8)))
        await until(gate.reached.is_set)
        with pytest.raises(Busy, match="above the limit of 10") as caught:
            await embedder.embed(recipe, new_images(3, first=900))
        assert caught.value.retry_after_s >= 1
        assert embedder.queued == 8
        shared = asyncio.create_task(embedder.embed(recipe, new_images(8)))
        await asyncio.sleep(0.05)
        assert not shared.done(), "what is computed already takes no place"
        gate.open.set()
        await asyncio.gather(first, shared)
        return await embedder.embed(recipe, new_images(30, first=1200))

    found = run(made, scenario, built, limits=Limits(queued_images=10))
    assert len(found) == 30, "alone, a request above the limit is taken"


def test_a_client_that_has_gone_frees_its_place_and_what_was_computed_is_kept(made):
    contents = new_images(40)
    built, gate = Built(batch_size=4), Gate()
    built.options["before"] = gate

    async def scenario(embedder):
        recipe = recipe_of(made)
        gone = asyncio.create_task(embedder.embed(recipe, contents))
        stays = asyncio.create_task(embedder.embed(recipe, contents[-1:]))
        await until(gate.reached.is_set)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        await until(lambda: embedder.queued <= 5)
        gate.open.set()
        return await stays

    (found,) = run(made, scenario, built)
    assert found.features is not None
    assert 1 <= sum(built.batches) <= 5
    again = Built()
    run(made, lambda embedder: embedder.embed(recipe_of(made), contents), again)
    assert sum(again.batches) == 40 - sum(built.batches)


def test_closing_finishes_what_was_accepted_and_takes_no_more(made):
    built = Built(pause_s=0.1)
    others = set(threading.enumerate())  # of pools that other tests left behind

    async def scenario(embedder):
        recipe = recipe_of(made)
        accepted = asyncio.create_task(embedder.embed(recipe, new_images(20)))
        await until(lambda: embedder.queued)
        closing = asyncio.create_task(embedder.close())
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="ending"):
            await embedder.embed(recipe, new_images(1))
        await closing
        assert accepted.done()
        return await accepted

    assert len(run(made, scenario, built)) == 20
    alive = [thread.name for thread in set(threading.enumerate()) - others]
    assert not [name for name in alive if name.startswith(("compute", "decode", "keep", "build"))]


def test_an_image_waits_for_company_no_longer_than_the_latency(made):
    """With an image that takes long to decode beside it, a batch does not wait for that one."""
    built = Built()

    async def scenario(embedder):
        recipe = recipe_of(made)
        # The processes run and the network is built.
        await embedder.embed(recipe, [b"slow %d" % number for number in range(4)])
        built.batches.clear()
        slower = [asyncio.create_task(embedder.embed(recipe, [b"slower %d" % n])) for n in range(3)]
        while embedder.queued < len(slower):  # else nothing else is on its way
            await asyncio.sleep(0.001)
        begun = time.monotonic()
        await embedder.embed(recipe, [b"quick"])
        seconds = time.monotonic() - begun
        assert not any(each.done() for each in slower)
        await asyncio.gather(*slower)
        return seconds

    seconds = run(made, scenario, built, decoder="hostile_decoder:decode", workers=4, latency_s=0.2)
    assert seconds > 0.19
    assert built.batches[0] == 1


def test_weights_that_are_nowhere_are_the_answer_of_all_who_wait(made):
    async def scenario(embedder):
        recipe = recipe_of(made)
        return await asyncio.gather(
            *(embedder.embed(recipe, [each]) for each in new_images(3)), return_exceptions=True
        )

    found = run(made, scenario, network=None)
    assert {type(each) for each in found} == {NotFound}
    assert "must be computed" in str(found[0])


def test_another_decoder_rule_is_refused(made):
    other = dataclasses.replace(recipe_of(made), decoder="pillow-0")
    with pytest.raises(Conflict, match="pillow-0"):
        embed(made, new_images(1), recipe=other)


def test_a_network_that_fails_fails_its_batch_alone(made):
    class Failing(Built):
        def __call__(self, recipe):
            network = super().__call__(recipe)
            fail = iter([RuntimeError("device lost")])

            def before(images):
                for error in fail:
                    raise error

            network._before = before
            return network

    async def scenario(embedder):
        recipe = recipe_of(made)
        with pytest.raises(RuntimeError, match="device lost"):
            await embedder.embed(recipe, new_images(2))
        return await embedder.embed(recipe, new_images(2))

    assert {each.origin for each in run(made, scenario, Failing())} == {"computed"}


def test_an_image_whose_features_cannot_be_stored_does_not_cost_the_others(made):
    class Overflowing(Watched):
        def embed(self, batch):
            rows = tuple(np.flatnonzero(batch.reshape(len(batch), -1).max(axis=1) == 13))
            if rows:
                raise UnstorableFeatures("features cannot be stored", rows=rows)
            return super().embed(batch)

    def build(recipe):
        return Overflowing([], dtype=recipe.dtype)

    bad = encode(np.full((20, 20, 3), 13, np.uint8), "PNG")

    async def scenario(embedder):
        recipe = recipe_of(made)
        return await asyncio.gather(
            embedder.embed(recipe, new_images(3)),
            embedder.embed(recipe, [bad]),
            return_exceptions=True,
        )

    good, refused = run(made, scenario, build, latency_s=1.0, workers=2)
    assert len(good) == 3 and all(each.features is not None for each in good)
    assert isinstance(refused, InvalidInput) and not isinstance(refused, UnstorableFeatures)
    assert sha256_hex(bad)[:12] in str(refused)


def test_few_networks_are_kept(made):
    built = Built()

    async def scenario(embedder):
        for text in ("a", "b", "c", "d", "d", "a"):
            recipe = TinyChoice(fs.EmbedSettings(), weights=text).recipe(
                None, dataset="", records=()
            )
            await embedder.embed(recipe, new_images(1, first=len(built.networks)))
        return len([lane for lane in embedder._lanes if lane.ladder is not None])

    assert run(made, scenario, built) == 3
    assert len(built.networks) == 5


def test_hot_answers_are_bounded_and_drop_what_was_used_longest_ago():
    hot = HotAnswers(max_bytes=3 * (1024 + 800))
    for index in range(3):
        key = bytes([index])
        hot.put("r", key, answer_of(key, np.zeros(100), "computed"))
    assert hot.get("r", b"\x00") is not None
    hot.put("r", b"\x03", answer_of(b"\x03", np.zeros(100), "computed"))
    assert [hot.get("r", bytes([n])) is not None for n in range(4)] == [True, False, True, True]
    assert hot.get("other", b"\x00") is None
    hot.put("r", b"\x04", answer_of(b"\x04", np.zeros(10_000), "computed"))
    assert len(hot) == 0


def test_answers_own_their_features_and_cannot_be_changed():
    rows = np.zeros((4, 3))
    answer = answer_of(b"", rows[1], "computed")
    assert answer.features.base is None
    with pytest.raises(ValueError, match="read-only"):
        answer.features[0] = 1
