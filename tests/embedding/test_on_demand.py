"""Features of single images: those of an embedding, each computed once."""

import dataclasses
import shutil

import numpy as np
import pytest

import featurestore as fs
from featurestore.embedding.on_demand import OnDemand, OnDemandOptions
from featurestore.errors import Conflict, IntegrityError, InvalidInput, NotFound
from featurestore.features import open_features
from featurestore.images import DECODER
from featurestore.online import ONLINE
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import broken_images, encode, photograph, write_image_folder


@pytest.fixture
def made(tmp_path):
    """Photographs, a cache that holds their features, and new photographs that it does not."""
    write_image_folder(tmp_path / "photos")
    fs.embed(tmp_path / "photos", fs.EmbedSettings(), cache=tmp_path / "cache", choose=TinyChoice)
    (tmp_path / "new").mkdir()
    for index in range(30):
        content = encode(photograph(index % 2, index=500 + index))
        (tmp_path / "new" / f"{index:02}.jpg").write_bytes(content)
    return tmp_path


class Built:
    """A network that counts how often it is built and what it computes."""

    def __init__(self, **options):
        self.options = options
        self.networks = []

    def __call__(self, recipe):
        self.networks.append(TinyNetwork(dtype=recipe.dtype, **self.options))
        return self.networks[-1]

    @property
    def images(self):
        return sum(network.images for network in self.networks)


def recipe_of(made):
    with open_features("photos", cache=made / "cache") as features:
        return features.recipe


def opened(made, built, *, recipe=None, **options):
    return OnDemand(
        recipe or recipe_of(made),
        cache=made / "cache",
        feature_shape=TinyNetwork.feature_shape,
        options=OnDemandOptions(network=built, **options),
    )


def embed(made, paths, built=None, **options):
    with opened(made, built or Built(), **options) as on_demand:
        return [each for block in on_demand.embed(paths) for each in block]


def files(made, folder):
    return sorted(path for path in (made / folder).rglob("*") if path.is_file())


def test_committed_rows_come_back_without_a_network(made):
    built = Built()
    found = embed(made, files(made, "photos"), built)
    assert built.networks == []
    assert {each.origin for each in found} == {"feature set"}
    by_digest = {each.sha256: each.features for each in found}
    with open_features("photos", cache=made / "cache") as features:
        for split in features.splits:
            part = features[split]
            rows, _ = part.load()
            for digest, row in zip(part.sha256, rows, strict=True):
                np.testing.assert_array_equal(by_digest[digest.tobytes().hex()], row)
    assert not (made / "cache" / ONLINE).exists()


def test_misses_equal_what_embed_stores_and_are_computed_once(made):
    built = Built()
    new = files(made, "new")
    first = embed(made, new, built)
    assert {each.origin for each in first} == {"computed"}
    assert built.images == 30
    again = embed(made, reversed(new), Built())
    assert {each.origin for each in again} == {"online cache"}
    # The same bytes, embedded as a dataset into another cache.
    for index, path in enumerate(new):
        target = made / "other" / ("train" if index < 20 else "test") / ("ab"[index % 2])
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)
    fs.embed(made / "other", fs.EmbedSettings(), cache=made / "cache2", choose=TinyChoice)
    stored = {}
    with open_features("other", cache=made / "cache2") as features:
        for split in features.splits:
            rows, _ = features[split].load()
            keys = [digest.tobytes().hex() for digest in features[split].sha256]
            stored |= dict(zip(keys, rows, strict=True))
    for found in (first, again):
        for each in found:
            assert each.features.dtype == stored[each.sha256].dtype
            np.testing.assert_array_equal(each.features, stored[each.sha256])


def test_order_is_that_asked_for_and_equal_bytes_are_computed_once(made):
    new = files(made, "new")
    twin = made / "twin.jpg"
    shutil.copyfile(new[0], twin)
    old = files(made, "photos")[0]
    built = Built()
    asked = [new[1], twin, old, new[0], new[1]]
    found = embed(made, asked, built)
    assert [each.path for each in found] == asked
    assert [each.origin for each in found] == ["computed"] * 2 + ["feature set"] + ["computed"] * 2
    assert built.images == 2
    assert found[1].sha256 == found[3].sha256


def test_blocks_bound_what_is_in_memory(made, monkeypatch):
    row_bytes = 4 * 4 * 3 * 2
    monkeypatch.setattr("featurestore.embedding.on_demand.UNIT_BYTES", 7 * row_bytes)
    built = Built(batch_size=3)
    with opened(made, built) as on_demand:
        sizes = [len(block) for block in on_demand.embed(iter(files(made, "new")))]
    assert sizes == [7, 7, 7, 7, 2]
    assert (len(built.networks), built.images) == (1, 30)


def test_nothing_is_read_ahead_of_the_block_asked_for(made, monkeypatch):
    monkeypatch.setattr("featurestore.embedding.on_demand.UNIT_ROWS", 5)
    drawn = []

    def paths():
        for path in files(made, "new"):
            drawn.append(path)
            yield path

    with opened(made, Built()) as on_demand:
        next(on_demand.embed(paths()))
    assert len(drawn) == 5


def test_unreadable_images_have_a_reason_that_is_remembered(made):
    broken = made / "broken"
    broken.mkdir()
    for name, content in broken_images().items():
        (broken / name).write_bytes(content)
    paths = [*files(made, "broken"), made / "gone.jpg", made / "broken", files(made, "new")[0]]
    found = embed(made, paths)
    reasons = {each.path.name: each.reason for each in found}
    assert all(reasons[name] for name in broken_images())
    assert reasons["gone.jpg"] == "no such file"
    assert reasons["broken"] == "a folder, not a file"
    assert [each.features is None for each in found] == [True] * (len(paths) - 1) + [False]
    built = Built()
    again = embed(made, paths, built)
    assert built.networks == []
    assert [each.reason for each in again] == [each.reason for each in found]


def test_what_a_feature_set_holds_as_unreadable_is_not_tried_again(made):
    bad = made / "photos" / "train" / "cats" / "bad.jpg"
    bad.write_bytes(b"")
    fs.embed(made / "photos", fs.EmbedSettings(), cache=made / "cache", choose=TinyChoice)
    built = Built()
    (found,) = embed(made, [bad], built)
    assert (found.reason, found.origin, built.networks) == ("empty file", "feature set", [])


def test_a_file_that_changes_between_hashing_and_decoding_is_told(made):
    paths = files(made, "new")[:10]

    class Changing(Built):
        def __call__(self, recipe):  # the network is asked for when the files have been hashed
            for path in paths[5:]:
                path.write_bytes(b"other")
            return super().__call__(recipe)

    found = embed(made, paths, Changing())
    told = [each for each in found if each.reason]
    assert told == found[5:]
    assert all("changed while it was read" in each.reason for each in told)
    assert all(each.features is None and each.sha256 is None for each in told)
    assert all(each.features is not None for each in found[:5])


def test_without_the_online_cache_nothing_is_kept(made):
    new = files(made, "new")[:3]
    for _ in range(2):
        built = Built()
        embed(made, new, built, online_bytes=0)
        assert built.images == 3
    assert not (made / "cache" / ONLINE).exists()


def test_other_recipes_have_their_own_rows(made):
    new = files(made, "new")[:3]
    embed(made, new)
    other = TinyChoice(fs.EmbedSettings(), weights="two").recipe(None, dataset="", records=())
    built = Built(weights="two")
    found = embed(made, [*new, files(made, "photos")[0]], built, recipe=other)
    assert {each.origin for each in found} == {"computed"}
    assert built.images == 4


def test_weights_are_those_of_a_set_or_must_be_named(made):
    recipe = recipe_of(made)
    (new, *_) = files(made, "new")
    options = OnDemandOptions()
    shape = TinyNetwork.feature_shape
    # The set says "tiny", which names no weights here.
    with (
        OnDemand(recipe, cache=made / "cache", feature_shape=shape, options=options) as on_demand,
        pytest.raises(NotFound, match=r"must be computed.*tiny(?s:.)*--weights"),
    ):
        next(on_demand.embed([new]))
    with (
        OnDemand(recipe, cache=made / "empty", feature_shape=shape, options=options) as on_demand,
        pytest.raises(NotFound, match="no feature set of this recipe"),
    ):
        next(on_demand.embed([new]))


def test_another_decoder_rule_is_refused_before_a_network_is_built(made):
    assert recipe_of(made).decoder == DECODER
    other = dataclasses.replace(recipe_of(made), decoder="pillow-0")
    with pytest.raises(Conflict, match="pillow-0"):
        embed(made, files(made, "new")[:1], recipe=other)


def test_a_damaged_committed_row_is_an_error_and_not_recomputed(made):
    (store,) = (made / "cache").glob("*/*.zarr")
    for chunk in (store / "train" / "features").rglob("*"):
        if chunk.is_file() and chunk.name != "zarr.json":
            content = bytearray(chunk.read_bytes())
            content[len(content) // 2] ^= 1
            chunk.write_bytes(content)
    with pytest.raises(IntegrityError):
        embed(made, files(made, "photos/train"))


def test_an_online_cache_that_cannot_be_written_says_how_to_do_without(made):
    (made / "cache" / ONLINE).mkdir()
    with pytest.raises(InvalidInput, match="--online-bytes 0"):
        embed(made, files(made, "new")[:1])


def test_a_damaged_online_cache_is_told_and_begun_anew(made):
    new = files(made, "new")[:3]
    embed(made, new)
    (made / "cache" / ONLINE).write_bytes(b"no database" * 1000)
    said, built = [], Built()
    found = embed(made, new, built, say=said.append)
    assert built.images == 3 and all(each.features is not None for each in found)
    assert len(said) == 1 and "begun anew" in said[0]
