"""Views as a user meets them: computed once, reused, resumed, of training images alone."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import featurestore as fs
from featurestore.augmentation import Augmentation, augment
from featurestore.catalogue import STAGING, Catalogue, lock_path, staging_path
from featurestore.embedding.on_demand import OnDemand, OnDemandOptions
from featurestore.images import decode_image
from featurestore.locks import hold
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyChoice, TinyEmbedder
from featurestore.testing.images import broken_images, encode, photograph, write_image_folder
from featurestore.verify import verify_set

ROWS = {"train": 16, "validation": 8, "test": 8}
CAT = "train/cats/cats.0.jpg"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    write_image_folder(folder)
    return folder


@pytest.fixture
def embed(photos, tmp_path):
    return TinyEmbedder(photos, tmp_path / "cache")


def counts(result):
    return result.computed, result.reused, result.views_computed, result.views_reused


def stored(path):
    """Return a store's files, without the attributes, which hold the time."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file != path / "zarr.json"
    }


def record_of(embed, result):
    return Catalogue(embed.cache).find(result.fingerprint)


def test_every_training_image_has_its_views_beside_it(embed, photos):
    result = embed(views=3, view_seed=7)
    assert dict(result.rows) == ROWS
    assert counts(result) == (32, 0, 48, 0)
    assert embed.forward_passes == 80
    with fs.open(result.feature_set, cache=embed.cache) as features:
        assert [features[split].views for split in features.splits] == [3, 0, 0]
        train = features["train"]
        for view in range(3):
            X, _ = train.load_view(view)
            for row, name in enumerate(train.sample_ids):
                image = augment(
                    decode_image(
                        (photos / str(name)).read_bytes(), size=(16, 16), interpolation="bilinear"
                    ),
                    Augmentation(),
                    seed=7,
                    sha256=train.sha256[row].tobytes(),
                    view=view,
                )
                np.testing.assert_array_equal(X[row], TinyNetwork().embed(image[np.newaxis])[0])


def test_the_images_of_a_set_with_views_are_those_of_a_clean_one(embed, photos, tmp_path):
    clean, viewed = embed(), TinyEmbedder(photos, tmp_path / "second")(views=2)
    with (
        fs.open(clean.fingerprint, cache=embed.cache) as one,
        fs.open(viewed.fingerprint, cache=tmp_path / "second") as other,
    ):
        assert other.recipe.clean == one.recipe
        for split in one.splits:
            assert one[split].load()[0].tobytes() == other[split].load()[0].tobytes()


def test_a_clean_set_gives_its_rows_to_one_with_views_and_the_other_way(embed, photos, tmp_path):
    embed()
    assert counts(embed(views=2)) == (0, 32, 32, 0)
    other = TinyEmbedder(photos, tmp_path / "second")
    other(views=2)
    assert counts(other()) == (0, 32, 0, 0)
    assert other.forward_passes == 0


def test_more_views_compute_the_new_ones_and_fewer_none(embed):
    embed(views=2)
    assert counts(embed(views=5)) == (0, 32, 48, 32)
    fewer = embed(views=3)
    assert (fewer.views, counts(fewer)) == (5, (0, 32, 0, 80))
    assert embed.forward_passes == 0
    names = {record.name for record in Catalogue(embed.cache).records()}
    assert len(names) == 1
    assert Catalogue(embed.cache).find("photos").views == 5


def test_raised_step_by_step_ends_with_the_bytes_of_one_embedding(embed, photos, tmp_path):
    embed()
    for views in (1, 2, 4):
        result = embed(views=views)
    calm = TinyEmbedder(photos, tmp_path / "calm")(views=4)
    assert result.fingerprint == calm.fingerprint
    assert stored(result.path) == stored(calm.path)


def test_other_ranges_or_another_seed_are_another_set_with_the_same_images(embed):
    names = {embed(views=1).feature_set}
    for changed in ({"view_seed": 1}, {"augmentation": Augmentation(zoom=0.1)}):
        result = embed(views=1, **changed)
        assert counts(result) == (0, 32, 16, 0)
        names.add(result.feature_set)
    assert len(names) == 3


def test_batch_size_and_workers_change_no_byte_of_a_view(embed, photos, tmp_path):
    result = embed(views=3, batch_size=32, workers=4)
    again = TinyEmbedder(photos, tmp_path / "second")(views=3, batch_size=3, workers=1)
    assert stored(result.path) == stored(again.path)


def test_hdf5_takes_the_views_of_zarr_and_holds_the_same(embed):
    zarr = embed(views=2)
    hdf5 = embed(views=2, store="hdf5")
    assert counts(hdf5) == (0, 32, 0, 32)
    assert hdf5.fingerprint == zarr.fingerprint
    one, other = Catalogue(embed.cache).records()
    assert one.content_sha256 == other.content_sha256
    assert {"train", "train/views/0", "train/views/1"} < set(one.content_sha256)


def test_unchanged_views_compute_nothing_and_load_no_network(embed):
    first = embed(views=2)
    again = embed(views=2)
    assert counts(again) == (0, 32, 0, 32)
    assert again.fingerprint == first.fingerprint
    assert embed.choice.built is None


def test_a_changed_file_costs_its_own_versions(embed, photos):
    embed(views=2)
    (photos / CAT).write_bytes(encode(photograph(2, index=500)))
    (photos / "test/cats/cats.12.jpg").write_bytes(encode(photograph(2, index=501)))
    assert counts(embed(views=2)) == (2, 30, 2, 30)


def test_renamed_and_relabelled_images_cost_nothing_and_keep_their_views(embed, photos):
    embed(views=2)
    before = record_of(embed, embed(views=2))
    with fs.open(before.fingerprint, cache=embed.cache) as features:
        row = features["train"].sample_ids.tolist().index(CAT)
        expected = features["train"].read_view(1, row, row + 1)
    (photos / CAT).rename(photos / "train/dogs/was a cat.jpg")
    result = embed(views=2)
    assert counts(result) == (0, 32, 0, 32)
    with fs.open(result.fingerprint, cache=embed.cache) as features:
        row = features["train"].sample_ids.tolist().index("train/dogs/was a cat.jpg")
        np.testing.assert_array_equal(features["train"].read_view(1, row, row + 1), expected)


def test_an_image_that_moves_into_training_costs_its_views_alone(embed, photos):
    embed(views=2)
    (photos / "test/cats/cats.12.jpg").rename(photos / "train/cats/from test.jpg")
    assert counts(embed(views=2)) == (0, 32, 2, 32)


def test_two_training_files_with_the_same_bytes_share_their_views(embed, photos):
    shutil.copy(photos / CAT, photos / "train/dogs/copy.jpg")
    shutil.copy(photos / CAT, photos / "test/dogs/copy.jpg")
    result = embed(views=2)
    assert counts(result) == (32, 2, 32, 2)
    assert embed.forward_passes == 64
    with fs.open(result.fingerprint, cache=embed.cache) as features:
        X, _ = features["train"].load_view(1)
        ids = features["train"].sample_ids.tolist()
        np.testing.assert_array_equal(X[ids.index("train/dogs/copy.jpg")], X[ids.index(CAT)])


def test_views_are_reused_across_datasets(embed, photos, tmp_path):
    embed(views=2)
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    assert counts(embed(views=2, folder=other)) == (0, 32, 0, 32)


def test_an_unreadable_training_image_has_neither_row_nor_views(embed, photos):
    for name, content in broken_images().items():
        (photos / "train/cats" / name).write_bytes(content)
    result = embed(views=2)
    assert dict(result.rows) == ROWS
    assert counts(result) == (32, 0, 32, 0)
    assert {e.sample_id.rpartition("/")[2] for e in result.quarantined} == set(broken_images())
    more = embed(views=3)
    assert (more.quarantined, more.views_computed) == (result.quarantined, 16)
    assert embed.forward_passes == 16
    assert embed().quarantined == result.quarantined  # not tried again without views either
    verify_set(record_of(embed, more))


def test_an_image_whose_views_cannot_be_read_any_more_is_listed_and_not_half_there(
    embed, photos, monkeypatch
):
    embed()
    spoilt = (photos / CAT).read_bytes()
    shutil.copy(photos / CAT, photos / "test/cats/copy.jpg")
    from featurestore.executors import local

    def stricter(content, **settings):
        if content == spoilt:
            raise local.UnreadableImage("a newer codec refuses it")
        return decode_image(content, **settings)

    monkeypatch.setattr(local, "decode_image", stricter)
    result = embed(views=1)
    assert [e.sample_id for e in result.quarantined] == [CAT, "test/cats/copy.jpg"]
    assert dict(result.rows) == ROWS | {"train": 15}
    verify_set(record_of(embed, result))
    assert embed(views=1).quarantined == result.quarantined
    assert embed().quarantined == ()


def test_strict_stops_at_the_first_and_keeps_what_was_there(embed, photos):
    first = embed(views=1)
    (photos / "train/cats/broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    with pytest.raises(fs.InvalidInput, match=r"broken\.jpg"):
        embed(views=2, strict=True)
    assert Catalogue(embed.cache).find("photos").fingerprint == first.fingerprint


def test_an_image_that_changes_while_its_views_are_computed_is_an_error(embed, photos):
    embed()
    late = max((photos / "train/dogs").iterdir())  # read after the first batch is computed
    before = late.read_bytes()

    def change(images_before):
        if images_before == 0:
            late.write_bytes(encode(photograph(3, index=77)))

    with pytest.raises(fs.Conflict, match=rf"changed.*{late.name}"):
        embed(views=2, before=change, batch_size=1, workers=1)
    assert [record.views for record in Catalogue(embed.cache).records()] == [0]
    late.write_bytes(before)
    assert counts(embed(views=2)) == (0, 32, 2, 30)


def test_what_was_staged_is_kept_when_views_are_raised_midway(embed, photos):
    broken = {"at": 4}

    def stop(images_before):
        if images_before >= broken["at"] * 8:
            raise KeyboardInterrupt

    from featurestore.embedding import embed as module

    plan = module.plan_embedding
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "plan_embedding", lambda manifest, **given: plan(manifest, **given, unit_rows=6)
        )
        with pytest.raises(KeyboardInterrupt):
            embed(views=2, before=stop)
    assert Catalogue(embed.cache).records() == []
    again = embed(views=4)
    assert again.computed + again.views_computed < 32 + 4 * 16
    assert again.views_reused > 0
    assert list((embed.cache / STAGING).iterdir()) == []


def stopped(embed, at, **settings):
    """Embed in units of 6 rows until so many images went through the network."""
    from featurestore.embedding import embed as module

    def stop(images_before):
        if images_before >= at:
            raise KeyboardInterrupt

    plan = module.plan_embedding
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "plan_embedding", lambda manifest, **given: plan(manifest, **given, unit_rows=6)
        )
        with pytest.raises(KeyboardInterrupt):
            embed(before=stop, **settings)
    return sorted((embed.cache / STAGING).rglob("*.shard"))


@pytest.mark.parametrize(("first", "second"), [({}, {"views": 2}), ({"views": 2}, {})])
def test_what_was_staged_without_views_is_used_with_them_and_the_other_way(embed, first, second):
    left = stopped(embed, 24, **first)
    assert left
    planned = embed(dry_run=True, **second)
    assert planned.reused > 0
    assert sorted((embed.cache / STAGING).rglob("*.shard")) == left
    result = embed(**second)
    assert (result.computed, result.reused) == (planned.computed, planned.reused)
    verify_set(record_of(embed, result), recompute=1000, network=lambda recipe: TinyNetwork())
    # It is still there for its own embedding to go on from.
    assert sorted((embed.cache / STAGING).rglob("*.shard")) == left
    embed(**first)
    assert list((embed.cache / STAGING).iterdir()) == []


@pytest.mark.parametrize("trouble", ["flip", "gone", "short"])
def test_a_shard_of_the_other_staging_that_fails_is_computed_instead(embed, monkeypatch, trouble):
    left = stopped(embed, 24)
    if trouble == "gone":  # cleared by its owner after it was listed
        from featurestore.stores.staging import Staging

        link = Staging.adopt

        def late(self, other):
            real = other.shards

            def listed(**given):
                found = real(**given)
                left[0].unlink()
                return found

            other.shards = listed
            link(self, other)

        monkeypatch.setattr(Staging, "adopt", late)
    else:
        content = bytearray(left[0].read_bytes())
        content[-40] ^= 1
        left[0].write_bytes(content if trouble == "flip" else content[:-1])
    result = embed(views=1)
    assert 0 < result.reused < 32
    verify_set(record_of(embed, result), recompute=1000, network=lambda recipe: TinyNetwork())


def test_a_commit_reads_each_staged_shard_once_whatever_is_kept(embed, monkeypatch):
    from featurestore.embedding import embed as module
    from featurestore.embedding import rows
    from featurestore.stores.staging import StagedShard

    read, plan, features = [], module.plan_embedding, StagedShard.read
    monkeypatch.setattr(
        module, "plan_embedding", lambda manifest, **given: plan(manifest, **given, unit_rows=6)
    )
    monkeypatch.setattr(rows, "_KEPT_BYTES", 1)
    monkeypatch.setattr(StagedShard, "read", lambda self: read.append(self.path) or features(self))
    assert embed(views=3).views_computed == 48
    assert len(set(read)) > 8
    assert len(read) <= len(set(read)) + 3  # one for the shape, one for each other split


@pytest.mark.parametrize("limit", [1, 400, 1_000_000])
def test_how_many_versions_are_gathered_at_once_changes_no_byte(
    embed, photos, tmp_path, monkeypatch, limit
):
    from featurestore.embedding import commit

    expected = TinyEmbedder(photos, tmp_path / "other")(views=3).path
    monkeypatch.setattr(commit, "_GATHERED_BYTES", limit)
    assert stored(embed(views=3).path) == stored(expected)


def test_embedding_with_views_and_without_go_on_beside_each_other(embed, photos):
    clean = embed(dry_run=True).feature_set
    embed(views=1)
    recipe = Catalogue(embed.cache).find("photos").recipe
    shard = staging_path(embed.cache, clean, recipe.clean) / f"{'0' * 32}.shard"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"of an embedding under way")
    with hold(lock_path(embed.cache, clean), subject="test", since="now"):
        embed(views=2)
        assert shard.exists()
    views = embed(views=2).feature_set
    with hold(lock_path(embed.cache, views), subject="test", since="now"):
        embed()
        with pytest.raises(fs.Conflict, match="being"):
            embed(views=3)
    assert not shard.exists()


def test_dry_run_says_how_many_images_and_views_and_writes_nothing(embed, photos):
    plan = embed(views=2, dry_run=True)
    assert counts(plan) == (32, 0, 32, 0)
    assert not embed.cache.exists()
    embed()
    assert counts(embed(views=2, dry_run=True)) == (0, 32, 32, 0)
    done = embed(views=2)
    assert counts(embed(views=3, dry_run=True)) == (0, 32, 16, 32)
    assert done.fingerprint == plan.fingerprint


def test_a_dataset_without_a_training_split_has_nothing_to_view(embed, photos):
    shutil.rmtree(photos / "train")
    with pytest.raises(fs.InvalidInput, match=r"split train to embed views of, found.* validation"):
        embed(views=1, dry_run=True)
    assert embed().computed == 16


def test_a_training_split_of_broken_images_has_nothing_to_view(embed, photos):
    for path in (photos / "train").rglob("*.*"):
        path.write_bytes(b"no image " + path.name.encode())
    with pytest.raises(fs.InvalidInput, match="split train"):
        embed(views=1)
    assert embed().rows == {"validation": 8, "test": 8}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"views": 0}, "count: expected at least 1"),
        ({"views": 1, "view_seed": -1}, "seed: expected at least 0"),
        ({"augmentation": Augmentation()}, "views are not"),
        ({"view_seed": 5}, "view_seed is given and views are not"),
        (
            {
                "views": 2,
                "augmentation": Augmentation(
                    rotation=0, shift=0, shear=0, zoom=0, flip=False, fill=9
                ),
            },
            "the images themselves",
        ),
    ],
)
def test_settings_that_draw_nothing_are_refused(settings, said):
    with pytest.raises(fs.InvalidInput, match=said):
        fs.EmbedSettings(**settings)


def test_only_a_set_with_views_has_a_record_of_the_new_version(embed):
    for settings, version in (({}, 1), ({"views": 1}, 2)):
        record = record_of(embed, embed(**settings))
        assert json.loads(record.path.read_bytes())["format_version"] == version
        assert dataclasses.replace(record) == type(record).read(record.path)
    assert json.loads((embed.cache / ".featurestore.json").read_bytes())["format_version"] == 1


def test_a_prefix_of_both_means_the_clean_set_and_names_reach_either(embed):
    find = Catalogue(embed.cache).find
    viewed = embed(views=2).feature_set
    assert find("photos").name == viewed
    clean = embed().feature_set
    for prefix in ("photos", "photos/tiny", clean[:-2], clean):
        assert find(prefix).name == clean
    start = viewed.partition("-views-")[0]
    assert find(start).name == clean
    assert find(f"{start}-views").name == find(viewed).name == viewed
    other = embed(views=1, view_seed=1).feature_set
    assert find("photos").name == clean
    with pytest.raises(fs.InvalidInput, match="means 2 feature sets") as error:
        find(f"{start}-views")
    assert viewed in error.value.message
    assert other in error.value.message


def test_siblings_with_views_alone_are_told_apart_by_the_user(embed):
    embed(views=1)
    embed(views=1, view_seed=1)
    with pytest.raises(fs.InvalidInput, match="means 2 feature sets"):
        Catalogue(embed.cache).find("photos")


def test_another_backbone_beside_views_is_still_ambiguous(embed):
    embed(views=1)
    embed()
    embed(weights="two")
    with pytest.raises(fs.InvalidInput, match="means 3 feature sets"):
        Catalogue(embed.cache).find("photos")


def test_single_images_find_their_rows_in_a_set_with_views(embed, photos):
    record = record_of(embed, embed(views=2))

    def no_network(recipe):
        raise AssertionError("nothing is to be computed")

    for recipe in (record.recipe, record.recipe.clean):
        options = OnDemandOptions(network=no_network, online_bytes=0)
        with OnDemand(
            recipe, cache=embed.cache, feature_shape=TinyNetwork.feature_shape, options=options
        ) as on_demand:
            ((found,),) = on_demand.embed([photos / CAT])
        assert found.origin == "feature set"
        assert found.features.shape == TinyNetwork.feature_shape


def test_the_machine_that_computed_views_alone_is_recorded(embed):
    embed()
    record = Catalogue(embed.cache).find("photos")
    machine = {"device": "another"}
    provenance = dict(record.provenance) | {"computed_on": [machine]}
    record.path.write_bytes(dataclasses.replace(record, provenance=provenance).to_json())
    found = record_of(embed, embed(views=1)).provenance["computed_on"]
    assert machine in found
    assert "numpy" in [each["device"] for each in found]
    only_reused = record_of(embed, embed(name="second")).provenance["computed_on"]
    assert machine in only_reused


def test_verify_recomputes_views_among_the_rows(embed):
    record = record_of(embed, embed(views=2))
    result = verify_set(record, recompute=1000, network=lambda recipe: TinyNetwork())
    assert (result.rows, result.views, result.recomputed) == (32, 32, 64)
    assert result.largest_distance == 0.0


def test_verify_finds_a_view_that_its_recipe_does_not_give(embed):
    record = record_of(embed, embed(views=2))
    views = dataclasses.replace(record.recipe.augmentation, seed=9)
    forged = dataclasses.replace(
        record, recipe=dataclasses.replace(record.recipe, augmentation=views)
    )
    with pytest.raises(fs.IntegrityError, match=r"\.jpg, view \d: expected a relative distance"):
        verify_set(forged, recompute=64, network=lambda recipe: TinyNetwork())


@pytest.mark.parametrize("damage", ["flip", "digest", "count"])
def test_verify_finds_views_that_are_not_as_committed(embed, damage):
    record = record_of(embed, embed(views=2))
    if damage == "flip":
        chunk = next(
            path
            for path in sorted((record.store / "train" / "views").rglob("*"))
            if path.is_file() and path.name != "zarr.json"
        )
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 1
        chunk.write_bytes(content)
    contents = dict(record.content_sha256)
    if damage == "digest":
        contents["train/views/1"] = "0" * 64
    recipe = record.recipe
    if damage == "count":
        views = dataclasses.replace(recipe.augmentation, count=3)
        recipe = dataclasses.replace(recipe, augmentation=views)
    with pytest.raises(fs.IntegrityError):
        verify_set(dataclasses.replace(record, content_sha256=contents, recipe=recipe))


def test_gc_keeps_the_newest_with_views_beside_the_clean_one(embed):
    from featurestore.collect import find_garbage, remove_garbage

    clean, two = embed(), embed(views=2)
    three = embed(views=3)
    garbage = find_garbage(embed.cache, staging=True)
    assert [item.path for item in garbage] == [two.path]
    assert remove_garbage(embed.cache, garbage) > 0
    left = {record.store for record in Catalogue(embed.cache).records()}
    assert left == {clean.path, three.path}
    assert embed(views=2).path == three.path


def test_another_dataset_does_not_become_the_sibling_of_one(embed, tmp_path):
    embed()
    stranger = tmp_path / "elsewhere" / "photos"
    write_image_folder(stranger, seed=1)
    with pytest.raises(fs.Conflict, match="holds another dataset"):
        embed(folder=stranger, views=2)
    embed(folder=stranger, views=2, name="other")
    embed(views=2)
    with pytest.raises(fs.Conflict, match="holds another dataset"):
        embed(folder=stranger, views=2, view_seed=1)


def test_auto_precision_and_tiny_choices_are_asked_for_clean_recipes(embed):
    embed(views=1)
    recipe = Catalogue(embed.cache).find("photos").recipe
    assert recipe.clean == TinyChoice(fs.EmbedSettings()).recipe(None, dataset="photos", records=())
