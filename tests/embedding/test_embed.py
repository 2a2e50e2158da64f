"""Embedding as a user meets it, with a tiny network: reuse, delta, quarantine, refusals."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import featurestore as fs
from featurestore.catalogue import Catalogue, lock_path, staging_path
from featurestore.locks import hold
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyChoice, TinyEmbedder
from featurestore.testing.images import broken_images, encode, photograph, write_image_folder

ROWS = {"train": 16, "validation": 8, "test": 8}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    write_image_folder(folder)
    return folder


@pytest.fixture
def embed(photos, tmp_path):
    return TinyEmbedder(photos, tmp_path / "cache")


def contents(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file != path / "zarr.json"
    }


def test_every_split_is_embedded_in_one_set(embed, photos):
    result = embed()
    assert dict(result.rows) == ROWS
    assert (result.computed, result.reused, result.quarantined) == (32, 0, ())
    with fs.open("photos/tiny", cache=embed.cache) as features:
        assert features.fingerprint == result.fingerprint
        assert features.class_names == ("cats", "dogs")
        assert features["train"].shape == (16, *TinyNetwork.feature_shape)
        ids = features["train"].sample_ids.tolist()
        assert ids == sorted(
            path.relative_to(photos).as_posix() for path in (photos / "train").rglob("*.*")
        )
        assert features["train"].labels.tolist() == [int("/dogs/" in name) for name in ids]


def test_features_are_the_networks_of_the_decoded_image(embed, photos):
    from featurestore.images import decode_image

    embed()
    with fs.open("photos", cache=embed.cache) as features:
        X, _ = features["test"].load()
        for row, name in enumerate(features["test"].sample_ids):
            image = decode_image(
                (photos / str(name)).read_bytes(), size=(16, 16), interpolation="bilinear"
            )
            np.testing.assert_array_equal(X[row], TinyNetwork().embed(image[np.newaxis])[0])


def test_unchanged_dataset_computes_nothing_and_loads_no_network(embed):
    first = embed()
    again = embed()
    assert (again.computed, again.reused) == (0, 32)
    assert again.fingerprint == first.fingerprint
    assert embed.choice.built is None


def test_three_changed_files_cost_three_forward_passes(embed, photos):
    embed()
    for number, name in enumerate(["train/cats/cats.0.jpg", "train/dogs/dogs.1.jpg",
                                   "test/cats/cats.12.jpg"]):  # fmt: skip
        (photos / name).write_bytes(encode(photograph(2, index=500 + number)))
    result = embed()
    assert (result.computed, result.reused, embed.forward_passes) == (3, 29, 3)


def test_renamed_relabelled_moved_and_deleted_images_cost_none(embed, photos):
    embed()
    cats = photos / "train" / "cats"
    (cats / "cats.0.jpg").rename(cats / "ein Name mit Leerzeichen ü 猫.jpg")
    (cats / "cats.1.jpg").rename(photos / "train" / "dogs" / "cats.1.jpg")
    (cats / "cats.2.jpg").rename(photos / "test" / "cats" / "cats.2.jpg")
    (photos / "validation" / "dogs" / "dogs.8.jpg").unlink()
    result = embed()
    assert (result.computed, embed.forward_passes) == (0, 0)
    assert dict(result.rows) == {"train": 15, "validation": 7, "test": 9}
    with fs.open("photos", cache=embed.cache) as features:
        ids = features["train"].sample_ids.tolist()
        assert "train/cats/ein Name mit Leerzeichen ü 猫.jpg" in ids
        moved = ids.index("train/dogs/cats.1.jpg")
        assert features["train"].labels[moved] == 1


def test_identical_images_are_computed_once(embed, photos):
    shutil.copy(photos / "train/cats/cats.0.jpg", photos / "test/dogs/copy.jpg")
    result = embed()
    assert (result.computed, result.reused) == (32, 1)
    with fs.open("photos", cache=embed.cache) as features:
        copy = features["test"].sample_ids.tolist().index("test/dogs/copy.jpg")
        first = features["train"].sample_ids.tolist().index("train/cats/cats.0.jpg")
        np.testing.assert_array_equal(features["test"][copy], features["train"][first])


def test_rows_are_reused_across_datasets_of_one_recipe(embed, photos, tmp_path):
    embed()
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    result = embed(folder=other)
    assert (result.computed, result.feature_set.partition("/")[0]) == (0, "other")


def test_one_shared_picture_does_not_make_two_datasets_one(embed, photos, tmp_path):
    embed()
    stranger = tmp_path / "elsewhere" / "photos"
    write_image_folder(stranger, seed=1)
    shutil.copy(photos / "train/cats/cats.0.jpg", stranger / "train/cats/shared.jpg")
    with pytest.raises(fs.Conflict, match="shares 1 of 33 images"):
        embed(folder=stranger)


def test_a_deleted_broken_image_changes_the_record_and_nothing_else(embed, photos):
    broken = photos / "train" / "cats" / "broken.jpg"
    broken.write_bytes(b"")
    first = embed()
    before = {path: path.stat().st_ino for path in first.path.rglob("*")}
    broken.unlink()
    second = embed()
    assert (second.fingerprint, second.quarantined) == (first.fingerprint, ())
    assert (second.computed, embed.forward_passes) == (0, 0)
    assert {path: path.stat().st_ino for path in first.path.rglob("*")} == before
    assert Catalogue(embed.cache).find("photos").quarantine == ()


def test_a_class_of_broken_images_is_no_class(embed, photos):
    ants = photos / "train" / "ants"
    ants.mkdir()
    (ants / "broken.jpg").write_bytes(b"")
    with_ants = embed()
    shutil.rmtree(ants)
    without = embed()
    assert with_ants.fingerprint == without.fingerprint
    with fs.open("photos", cache=embed.cache) as features:
        assert features.class_names == ("cats", "dogs")
        assert set(features["train"].labels.tolist()) == {0, 1}


def test_reused_rows_keep_the_machines_that_computed_them(embed, photos):
    embed()
    (photos / "train/cats/cats.0.jpg").rename(photos / "train/cats/renamed.jpg")
    embed()
    (machine,) = Catalogue(embed.cache).find("photos").provenance["computed_on"]
    assert machine["device"] == "numpy"


def test_one_damaged_record_does_not_hide_the_others(embed, photos, tmp_path):
    embed()
    other = tmp_path / "other"
    write_image_folder(other, seed=1)
    embed(folder=other)
    Catalogue(embed.cache).find("other").path.write_text("{")
    assert embed().computed == 0
    assert Catalogue(embed.cache).find("photos").name.startswith("photos/")
    with pytest.raises(fs.IntegrityError, match="not a feature set record"):
        Catalogue(embed.cache).find("other")


def test_a_store_that_does_not_open_is_computed_again(embed):
    first = embed()
    (first.path / "zarr.json").write_text("{")
    hdf5 = embed(store="hdf5")
    assert hdf5.computed == 32


def test_staging_left_by_a_kill_after_the_record_is_cleared(embed):
    embed()
    record = Catalogue(embed.cache).find("photos")
    shard = staging_path(embed.cache, record.name, record.recipe) / f"{'0' * 32}.shard"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"whole or not")
    embed()
    assert not shard.exists()


def test_a_cache_inside_the_dataset_is_no_part_of_it(photos, monkeypatch):
    monkeypatch.chdir(photos)
    for expected in (32, 0):
        result = fs.embed(".", fs.EmbedSettings(), cache="cache", choose=TinyChoice)
        assert (result.computed, result.feature_set.partition("/")[0]) == (expected, "photos")


def test_two_folders_of_one_name_are_not_taken_for_one_dataset(embed, tmp_path):
    first = embed()
    stranger = tmp_path / "elsewhere" / "photos"
    write_image_folder(stranger, seed=1)
    with pytest.raises(fs.Conflict, match="shares 0 of 32 images"):
        embed(folder=stranger)
    assert embed(folder=stranger, name="strangers").computed == 32
    assert Catalogue(embed.cache).find("photos").fingerprint == first.fingerprint


def test_a_dataset_that_moved_is_the_same_dataset(embed, photos, tmp_path):
    embed()
    moved = tmp_path / "elsewhere" / "photos"
    moved.parent.mkdir()
    photos.rename(moved)
    (moved / "test/cats/new.jpg").write_bytes(encode(photograph(0, index=905)))
    result = embed(folder=moved)
    assert (result.computed, result.reused) == (1, 32)


def test_changed_weights_are_another_feature_set(embed):
    first = embed()
    second = embed(weights="two")
    assert second.computed == 32
    assert second.fingerprint != first.fingerprint
    assert second.feature_set != first.feature_set


def test_a_dataset_that_is_as_it_was_makes_the_old_version_current(embed, photos):
    first = embed()
    name = photos / "train" / "cats" / "cats.0.jpg"
    name.rename(name.with_name("new.jpg"))
    second = embed()
    assert Catalogue(embed.cache).find("photos").fingerprint == second.fingerprint
    name.with_name("new.jpg").rename(name)
    third = embed()
    assert (third.fingerprint, third.computed) == (first.fingerprint, 0)
    assert Catalogue(embed.cache).find("photos").fingerprint == first.fingerprint


def test_hdf5_takes_the_rows_of_zarr_and_holds_the_same(embed):
    zarr = embed()
    hdf5 = embed(store="hdf5")
    assert hdf5.computed == 0
    assert hdf5.fingerprint == zarr.fingerprint
    digests = {r.store_format: r.content_sha256 for r in Catalogue(embed.cache).records()}
    assert digests["zarr"] == digests["hdf5"]


def test_batch_size_and_workers_change_no_byte(embed, tmp_path, photos):
    result = embed(batch_size=32, workers=4)
    other = TinyEmbedder(photos, tmp_path / "second")
    again = other(batch_size=3, workers=1)
    assert contents(result.path) == contents(again.path)
    assert again.fingerprint == result.fingerprint


def test_unreadable_images_are_listed_and_the_rest_goes_on(embed, photos):
    for name, content in broken_images().items():
        (photos / "train" / "cats" / name).write_bytes(content)
    result = embed()
    assert dict(result.rows) == ROWS
    reasons = {entry.sample_id.rpartition("/")[2]: entry.reason for entry in result.quarantined}
    assert set(reasons) == set(broken_images())
    assert "empty" in reasons["empty.jpg"]
    assert "pixels" in reasons["bomb.png"]
    again = embed()
    assert again.quarantined == result.quarantined
    assert embed.choice.built is None


def test_a_repaired_image_leaves_quarantine(embed, photos):
    broken = photos / "train" / "cats" / "broken.jpg"
    broken.write_bytes(b"")
    assert len(embed().quarantined) == 1
    broken.write_bytes(encode(photograph(0, index=900)))
    result = embed()
    assert (result.quarantined, result.computed, result.rows["train"]) == ((), 1, 17)


def test_strict_stops_at_the_first_and_keeps_what_was_there(embed, photos):
    first = embed()
    (photos / "train" / "cats" / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(fs.InvalidInput, match=r"broken\.jpg"):
        embed(strict=True)
    assert Catalogue(embed.cache).find("photos").fingerprint == first.fingerprint


def test_only_broken_images_is_an_error_that_gives_reasons(tmp_path):
    folder = tmp_path / "bad"
    for label in ("a", "b"):
        (folder / "train" / label).mkdir(parents=True)
        (folder / "train" / label / "x.jpg").write_bytes(f"text {label}".encode())
    with pytest.raises(fs.InvalidInput, match="not an image"):
        TinyEmbedder(folder, tmp_path / "cache")()


def test_image_that_changes_while_it_is_read_is_an_error_and_nothing_is_lost(embed, photos):
    late = photos / "validation" / "dogs" / "dogs.8.jpg"  # read after the first batch is computed

    def change(images_before):
        if images_before == 0:
            late.write_bytes(encode(photograph(3, index=77)))

    with pytest.raises(fs.Conflict, match=r"dogs\.8\.jpg.*changed|changed.*dogs\.8\.jpg"):
        embed(before=change, batch_size=1, workers=1)
    assert Catalogue(embed.cache).records() == []
    result = embed()
    assert (result.computed, embed.forward_passes) == (1, 1)


def test_dry_run_says_what_would_be_computed_and_writes_nothing(embed, photos):
    plan = embed(dry_run=True)
    assert (plan.computed, plan.path, plan.dry_run) == (32, None, True)
    assert not embed.cache.exists()
    embed()
    (photos / "train" / "cats" / "new.jpg").write_bytes(encode(photograph(0, index=901)))
    before = sorted(path for path in embed.cache.rglob("*") if path.suffix != ".sqlite")
    plan = embed(dry_run=True)
    assert (plan.computed, plan.reused) == (1, 32)
    assert sorted(p for p in embed.cache.rglob("*") if p.suffix != ".sqlite") == before
    assert embed().fingerprint == plan.fingerprint


def test_a_second_writer_is_told_who_holds_the_set(embed):
    name = embed(dry_run=True).feature_set
    with (
        hold(lock_path(embed.cache, name), subject="test", since="2026-01-01"),
        pytest.raises(fs.Conflict, match=r"process \d+ on .* since 2026-01-01"),
    ):
        embed()
    assert embed().computed == 32


def test_cache_of_a_newer_version_is_refused(embed):
    embed()
    marker = embed.cache / ".featurestore.json"
    marker.write_text(json.dumps({"format_version": 99}))
    with pytest.raises(fs.Conflict, match="at most 1, found 99"):
        embed()


def test_record_of_a_newer_version_is_refused(embed):
    record = Catalogue(embed.cache)
    embed()
    path = record.records()[0].path
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 3'))
    with pytest.raises(fs.Conflict, match="format version"):
        fs.open("photos", cache=embed.cache)


def test_the_recorded_fingerprint_must_be_that_of_its_parts(embed):
    embed()
    record = Catalogue(embed.cache).records()[0]
    forged = dataclasses.replace(
        record, recipe=dataclasses.replace(record.recipe, interpolation="nearest")
    )
    record.path.write_bytes(forged.to_json())
    with pytest.raises(fs.IntegrityError, match="expected fingerprint"):
        fs.open("photos", cache=embed.cache)


def test_a_file_in_place_of_the_cache_is_a_clear_error(embed, tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(fs.InvalidInput, match="cannot be written"):
        embed()


def test_missing_dataset_is_not_found_or_invalid(embed, tmp_path):
    with pytest.raises(fs.FeatureStoreError, match="nowhere") as error:
        embed(folder=tmp_path / "nowhere")
    assert error.value.exit_code in (3, 4)


def test_a_moved_dataset_is_found_at_its_new_place(embed, photos, tmp_path):
    first = embed()
    moved = tmp_path / "moved" / "photos"
    moved.parent.mkdir()
    photos.rename(moved)
    embed(folder=moved, dry_run=True)
    assert Catalogue(embed.cache).find("photos").provenance["source"] == str(photos)
    again = embed(folder=moved)
    (record,) = Catalogue(embed.cache).records()
    assert (again.fingerprint, record.sequence) == (first.fingerprint, 1)
    assert record.provenance["source"] == str(moved)
    moved.rename(photos)
    (photos / "train/cats/broken.jpg").write_bytes(b"")
    embed()  # the same readable images: the version is listed again
    assert Catalogue(embed.cache).find("photos").provenance["source"] == str(photos)


def test_a_copy_does_not_take_the_place_of_a_dataset_that_is_there(embed, photos, tmp_path):
    embed()
    copy = tmp_path / "copy" / "photos"
    shutil.copytree(photos, copy)
    assert embed(folder=copy).computed == 0
    (record,) = Catalogue(embed.cache).records()
    assert record.provenance["source"] == str(photos)


def test_weights_that_are_gone_are_recorded_where_they_are_now(tmp_path):
    from featurestore.embedding.provenance import found_again

    kept, gone = tmp_path / "kept.weights.h5", tmp_path / "gone.weights.h5"
    kept.touch()
    origin = {"source": str(tmp_path), "split": None, "seed": None}
    now = {**origin, "weights": str(tmp_path / "new.weights.h5")}
    for label, expected in ((kept, kept), ("random:0", "random:0"), (gone, now["weights"])):
        found = found_again({**origin, "weights": str(label), "computed_on": []}, now)
        assert found == {**origin, "weights": str(expected), "computed_on": []}
