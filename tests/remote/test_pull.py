"""Pulled whole or not at all: equal to the service's bytes, whatever happens on the way."""

import dataclasses
import errno
import json
import random
import shutil

import pytest
from scripted_server import Scripted, between
from served import SPLITS, Sides, copy_of, files_of, same_set

from featurestore.catalogue import Catalogue, checksums_path, lock_path, pull_staging_path
from featurestore.collect import find_garbage, remove_garbage
from featurestore.errors import Conflict, IntegrityError, InvalidInput, NotFound
from featurestore.locks import hold
from featurestore.remote import pull as pull_module
from featurestore.remote import pulled_store, records
from featurestore.remote.pacing import Unreachable
from featurestore.service.contract import ServiceSettings
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.faults import count_operations, fail_operation
from featurestore.testing.images import write_image_folder
from featurestore.testing.serving import serve
from featurestore.verify import verify_set


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Return a folder of images and a cache of it: HDF5, Zarr, Zarr with views; not to change."""
    root = tmp_path_factory.mktemp("embedded")
    write_image_folder(root / "photos", splits=SPLITS)
    embed = TinyEmbedder(root / "photos", root / "cache")
    embed(store="hdf5")
    embed()
    embed(views=2)
    return root


@pytest.fixture
def sides(embedded, tmp_path):
    served = copy_of(embedded / "cache", tmp_path / "served")
    with serve(ServiceSettings(cache=served)) as url:
        yield Sides(embedded / "photos", served, tmp_path / "laptop", url)


@pytest.fixture
def own(sides, tmp_path):
    """Return the same with images that the test may change."""
    folder = copy_of(sides.folder, tmp_path / "photos")
    # Where they lie has changed, and their bytes have not: nothing is computed.
    return Sides(folder, sides.served, sides.laptop, sides.url)


def clean_name(sides):
    return next(r.name for r in Catalogue(sides.served).records() if not r.views)


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("store", ["zarr", "hdf5"])
def test_a_pulled_set_is_the_services_to_the_byte(sides, store, views):
    if store == "hdf5" and views:
        sides.embed(store="hdf5", views=2)
    there = next(
        r for r in Catalogue(sides.served).records() if r.store_format == store and r.views == views
    )
    result = sides.pull(there.name, store_format=store)
    (here,) = sides.pulled()
    assert same_set(here, there)
    assert verify_set(here).rows == 280
    assert (result.feature_set, result.fingerprint) == (there.name, there.fingerprint)
    assert result.path == here.store
    assert result.files == len(files_of(there)) - 1
    assert 0 < result.moved_files <= result.files and result.reused_files == 0
    assert result.moved_bytes <= there.stored_bytes
    assert here.sequence == 1
    assert here.provenance == {**there.provenance, "pulled_from": sides.url}
    assert not list((sides.laptop / ".staging").iterdir())


def test_what_is_here_is_not_asked_for_again(sides):
    sides.pull(clean_name(sides))
    before = files_of(sides.pulled()[0])
    with between(sides.url) as server:
        result = sides.pull(clean_name(sides), url=server.url)
        assert len(server.asked) == 2, [asked.path for asked in server.asked]
    assert result.unchanged and result.moved_bytes == 0
    assert files_of(sides.pulled()[0]) == before


def test_of_a_changed_set_only_what_changed_is_fetched(own):
    """Three images of the first chunk, and so one chunk of three columns, and what names them."""
    own.embed()
    first = own.pull(clean_name(own))
    before = {files_of(record)[name] for record in own.pulled() for name in files_of(record)}
    own.change_images(3)
    own.embed()
    (there,) = [
        r for r in Catalogue(own.served).current() if not r.views and r.store_format == "zarr"
    ]
    new = {content for name, content in files_of(there).items() if name != "list"} - before
    assert 3 <= len(new) <= 4 < first.moved_files
    with between(own.url) as server:
        result = own.pull(there.name, url=server.url)
        asked = [each.path for each in server.asked if ".zarr/" in each.path]
    assert len(asked) == result.moved_files == len(new)
    assert result.moved_bytes == sum(map(len, new))
    assert result.moved_bytes < first.moved_bytes / 2
    (here,) = [r for r in Catalogue(own.laptop).current() if r.name == there.name]
    assert same_set(here, there)
    assert verify_set(here).rows == 280


def test_a_set_with_views_takes_the_chunks_of_the_one_without(sides):
    sides.pull(clean_name(sides))
    viewed = next(r for r in Catalogue(sides.served).records() if r.views)
    result = sides.pull(viewed.name)
    assert result.reused_files >= 6
    here = next(record for record in sides.pulled() if record.views)
    assert same_set(here, viewed) and verify_set(here).views == 400


def test_damage_of_what_is_here_does_not_spread(own):
    """A chunk that could be reused has lost a bit: it is fetched, and the older set stays as is."""
    own.embed()
    own.pull(clean_name(own))
    (old,) = own.pulled()
    chunk = old.store / "test" / "features" / "c.0.0.0.0"
    content = bytearray(chunk.read_bytes())
    content[9] ^= 1
    chunk.write_bytes(content)
    own.change_images(1)
    own.embed()
    own.pull(clean_name(own))
    newest = max(own.pulled(), key=lambda record: record.sequence)
    assert newest.fingerprint != old.fingerprint and verify_set(newest).rows == 280
    assert chunk.read_bytes() == content


@pytest.mark.parametrize("damage", ["a bit", "gone", "one more"])
def test_what_is_damaged_here_is_fetched_again(sides, damage, monkeypatch):
    sides.pull(clean_name(sides))
    (here,) = sides.pulled()
    before = files_of(here)
    chunk = here.store / "test" / "features" / "c.0.0.0.0"
    if damage == "gone":
        chunk.unlink()
    elif damage == "one more":
        chunk.with_name("c.9.9.9.9").write_bytes(b"")
    else:
        content = bytearray(chunk.read_bytes())
        content[9] ^= 1
        chunk.write_bytes(content)
    with pytest.raises(IntegrityError) as raised:
        verify_set(here)
    assert raised.value.next_step.startswith(f"fs pull {sides.url} {here.name} --format zarr")
    monkeypatch.setattr(pulled_store, "_HASHED_BYTES", 0)
    assert sides.pull(here.name, dry_run=True).unchanged == (damage == "a bit")
    result = sides.pull(here.name, again=True)
    assert not result.unchanged and result.moved_files == (damage != "one more")
    assert files_of(sides.pulled()[0]) == before


def test_staging_of_another_pull_that_ends_meanwhile_is_not_held(sides, monkeypatch):
    staging = sides.laptop / ".staging" / "pull--other--zarr"
    staging.mkdir(parents=True)
    there = next(
        r for r in Catalogue(sides.served).records() if r.store_format == "zarr" and not r.views
    )
    for content in files_of(there).values():
        (staging / records.sha256_hex(content)).write_bytes(content)
    real = pull_module.digests

    def hashed(paths, *, jobs):
        found = real(paths, jobs=jobs)
        shutil.rmtree(staging, ignore_errors=True)
        return found

    monkeypatch.setattr(pull_module, "digests", hashed)
    result = sides.pull(there.name)
    assert result.reused_files == 0 and not staging.exists()
    assert same_set(sides.pulled()[0], there)


def test_a_dry_run_fetches_and_writes_nothing(sides):
    result = sides.pull(clean_name(sides), dry_run=True)
    there = next(r for r in Catalogue(sides.served).current() if r.name == result.feature_set)
    assert result.moved_bytes == there.stored_bytes and result.dry_run and result.path is None
    assert not sides.laptop.exists()


def test_a_format_that_is_not_there(sides):
    viewed = next(r.name for r in Catalogue(sides.served).records() if r.views)
    with pytest.raises(NotFound, match="no hdf5 store"):
        sides.pull(viewed, store_format="hdf5")


def test_a_name_of_nothing_and_a_name_of_several(sides):
    with pytest.raises(NotFound, match="nothing-so"):
        sides.pull("nothing-so")
    sides.embed(weights="other")
    with pytest.raises(InvalidInput, match="means 3 feature sets"):
        sides.pull("photos/tiny")
    assert not sides.laptop.exists()


def test_an_older_version_becomes_current_when_it_is_pulled(own):
    own.embed()
    old = own.pull(clean_name(own))
    own.change_images(1)
    own.embed()
    new = own.pull(clean_name(own))
    assert Catalogue(own.laptop).find(new.feature_set).fingerprint == new.fingerprint
    again = own.pull(old.fingerprint[:12])
    assert again.unchanged and again.fingerprint == old.fingerprint
    assert Catalogue(own.laptop).find(new.feature_set).fingerprint == old.fingerprint


def test_a_living_writer_is_waited_for_or_named(sides):
    name = clean_name(sides)
    with (
        hold(lock_path(sides.laptop, name), subject="x", since="noon"),
        pytest.raises(Conflict, match=r"is being written by process \d+ .*since noon"),
    ):
        sides.pull(name)


def test_another_dataset_of_the_same_name_is_refused(sides, tmp_path):
    write_image_folder(tmp_path / "mine" / "photos", splits=SPLITS, seed=9)
    TinyEmbedder(tmp_path / "mine" / "photos", sides.laptop)()
    (mine,) = sides.pulled()
    with pytest.raises(Conflict, match="shares 0 of 280 images"):
        sides.pull(clean_name(sides))
    assert sides.pulled() == [mine] and verify_set(mine).rows == 280


# Servers that fail, lie or change


def test_faults_of_every_kind_are_outlived(sides):
    """Every third answer is a reset, a cut body, a 500, a 503 or slow bytes: never wrong ones."""
    draw = random.Random(11)

    def spoil(asked, answer):
        kind = draw.choice(["", "", "", "", "reset", "cut", "500", "503", "whole"])
        if kind == "reset":
            return Scripted(reset=True)
        if kind == "cut" and answer.body:
            answer.headers["Content-Length"] = str(len(answer.body))
            answer.cut, answer.reset = draw.randrange(len(answer.body)), draw.random() < 0.3
        if kind == "whole" and answer.status == 206:  # as a server that knows no ranges
            return Scripted(503)
        return Scripted(int(kind)) if kind.isdigit() else answer

    viewed = next(r for r in Catalogue(sides.served).records() if r.views)
    for _ in range(5):  # three 500 in a row are an error, after which the next pull goes on
        try:
            sides.pull_through(spoil, viewed.name)
            break
        except Unreachable:
            assert sides.nothing_is_visible()
    (here,) = sides.pulled()
    assert same_set(here, viewed)


def flip(content):
    return content[:20] + bytes([content[20] ^ 1]) + content[21:]


def test_wrong_bytes_once_are_fetched_again(sides):
    seen = set()

    def spoil(asked, answer):
        if ".zarr/" in asked.path and asked.path not in seen:
            seen.add(asked.path)
            answer.body = flip(answer.body)
        return answer

    sides.pull_through(spoil, clean_name(sides))
    assert verify_set(sides.pulled()[0]).rows == 280


def test_wrong_bytes_always_are_never_seen(sides):
    def spoil(asked, answer):
        if asked.path.endswith("train/features/c.1.0.0.0"):
            answer.body = flip(answer.body)
        return answer

    with pytest.raises(IntegrityError, match=r"c\.1\.0\.0\.0: expected digest"):
        sides.pull_through(spoil, clean_name(sides), jobs=1)
    assert sides.nothing_is_visible()
    result = sides.pull(clean_name(sides))  # the others are kept
    assert result.reused_files >= 9 and result.moved_files > 0
    assert verify_set(sides.pulled()[0]).rows == 280


def test_a_service_that_sends_without_end_fills_no_disk(sides):
    def spoil(asked, answer):
        return Scripted(200, bytes(20_000_000)) if ".zarr/" in asked.path else answer

    with pytest.raises(IntegrityError, match="more bytes than its record says"):
        sides.pull_through(spoil, clean_name(sides))
    assert sides.nothing_is_visible()
    held = sum(path.stat().st_size for path in sides.laptop.rglob("*") if path.is_file())
    assert held < 500_000


def test_a_redirect_to_another_host_is_not_followed(sides):
    def spoil(asked, answer):
        if ".zarr/" in asked.path:
            return Scripted(302, headers={"Location": "http://127.0.0.2:9/v1/x"})
        return answer

    with pytest.raises(InvalidInput, match=r"redirects to http://127\.0\.0\.2:9"):
        sides.pull_through(spoil, clean_name(sides))
    assert sides.nothing_is_visible()


def test_a_set_removed_midway_leaves_nothing_half(own):
    """Replaced and collected after some files: an error; then the new one, with what has come."""
    own.embed()
    name = clean_name(own)

    def spoil(asked, answer):
        if "validation" in asked.path and not own.laptop.joinpath("replaced").exists():
            own.laptop.joinpath("replaced").touch()
            own.change_images(1)
            own.embed()
            remove_garbage(own.served, find_garbage(own.served))
        return answer

    with pytest.raises(NotFound, match="replaced or removed"):
        own.pull_through(spoil, name, jobs=1)
    assert own.nothing_is_visible()
    assert len(list((own.laptop / ".staging").iterdir())) == 1
    result = own.pull(name)
    assert result.reused_files >= 9
    there = Catalogue(own.served).find(name)
    assert same_set(own.pulled()[0], there)
    assert not list((own.laptop / ".staging").iterdir())


def test_a_set_replaced_midway_is_finished_as_it_was(own):
    own.embed()
    name = clean_name(own)
    old = next(r for r in Catalogue(own.served).current() if r.name == name)
    replaced = []

    def spoil(asked, answer):
        if "validation" in asked.path and not replaced:
            replaced.append(True)
            own.change_images(1)
            own.embed()
        return answer

    result = own.pull_through(spoil, name)
    assert replaced and result.fingerprint == old.fingerprint
    assert same_set(own.pulled()[0], old)


def test_a_store_of_other_rows_than_its_record_says_is_refused(sides):
    """List and files agree with each other, but are those of another set."""
    sides.embed(weights="other")
    by_weights = {r.recipe.weights_sha256[:6]: r for r in Catalogue(sides.served).records()
                  if not r.views and r.store_format == "zarr"}  # fmt: skip
    mine, theirs = by_weights.values()

    def spoil(asked, answer):
        if mine.store.name not in asked.path:
            return answer
        if asked.path.endswith(".json") and ".zarr/" not in asked.path:
            fields = json.loads(answer.body)
            fields["checksums_sha256"] = records.sha256_hex(renamed)
            fields["stored_bytes"] = theirs.stored_bytes
            return Scripted(200, json.dumps(fields).encode())
        if asked.path.endswith(".sha256"):
            return Scripted(200, renamed)
        inside = asked.path.partition(".zarr/")[2]
        return Scripted(200, (theirs.store / inside).read_bytes())

    listed = checksums_path(theirs.store).read_bytes()
    renamed = listed.replace(theirs.store.name.encode(), mine.store.name.encode())
    with pytest.raises(IntegrityError, match="is not that of its record"):
        sides.pull_through(spoil, mine.name)
    assert sides.nothing_is_visible()


def test_eight_equal_digits_do_not_replace_another_set(sides):
    """The name of a store has the start of a fingerprint, which somebody may have searched for."""
    sides.pull(clean_name(sides))
    (here,) = sides.pulled()
    there = dataclasses.replace(here, fingerprint=here.fingerprint[:8] + "0" * 56)
    import featurestore.remote.pull as module

    pull = module._Pull(sides.connect(), module.PullSettings(), sides.laptop, module.Quiet())
    with pytest.raises(Conflict, match="would be replaced by"):
        pull._here(there, sides.pulled())


# Going on


def test_a_begun_file_is_gone_on_with(sides):
    there = next(
        r for r in Catalogue(sides.served).current() if r.store_format == "hdf5" and not r.views
    )
    content = there.store.read_bytes()
    staging = pull_staging_path(sides.laptop, there.fingerprint, store_format="hdf5")
    staging.mkdir(parents=True)
    begun = staging / f"{records.sha256_hex(content)}.part"
    begun.write_bytes(content[:10_000])
    result = sides.pull(there.name, store_format="hdf5")
    assert result.moved_bytes == len(content) - 10_000
    assert same_set(sides.pulled()[0], there)


@pytest.mark.parametrize("wrong", ["other bytes", "too long"])
def test_a_wrong_beginning_is_fetched_anew(sides, wrong):
    there = next(
        r for r in Catalogue(sides.served).current() if r.store_format == "hdf5" and not r.views
    )
    content = there.store.read_bytes()
    staging = pull_staging_path(sides.laptop, there.fingerprint, store_format="hdf5")
    staging.mkdir(parents=True)
    begun = staging / f"{records.sha256_hex(content)}.part"
    begun.write_bytes(bytes(10_000) if wrong == "other bytes" else content + b"x")
    sides.pull(there.name, store_format="hdf5")
    assert same_set(sides.pulled()[0], there)


def test_staged_files_that_have_changed_are_fetched_again(sides):
    name = clean_name(sides)

    def spoil(asked, answer):
        return Scripted(403) if "validation" in asked.path else answer

    with pytest.raises(InvalidInput):
        sides.pull_through(spoil, name, jobs=1)
    (staging,) = (sides.laptop / ".staging").iterdir()
    for path in staging.iterdir():
        if len(path.name) == 64:
            path.write_bytes(b"not what it was")
    sides.pull(name)
    assert verify_set(sides.pulled()[0]).rows == 280


def test_staging_is_known_to_gc(sides):
    def spoil(asked, answer):
        return Scripted(403) if "validation" in asked.path else answer

    with pytest.raises(InvalidInput):
        sides.pull_through(spoil, clean_name(sides), jobs=1)
    assert find_garbage(sides.laptop) == []
    (item,) = find_garbage(sides.laptop, staging=True)
    assert item.reason == "files of an unfinished pull" and item.size_bytes > 0
    assert remove_garbage(sides.laptop, [item]) == item.size_bytes
    assert not list((sides.laptop / ".staging").iterdir())


def test_what_a_dead_commit_left_is_replaced(sides):
    """Killed between the store and its record: the store is there, and nobody sees it."""
    name = clean_name(sides)
    sides.pull(name)
    (here,) = sides.pulled()
    here.path.unlink()
    (here.store / "zarr.json").write_bytes(b"torn")
    sides.pull(name)
    assert verify_set(sides.pulled()[0]).rows == 280


@pytest.mark.parametrize("lasting", [True, False])
def test_a_disk_that_fails_at_any_operation(sides, lasting):
    """Full, or failing once: exit code 6, nothing half; the next pull ends as if undisturbed."""
    name = clean_name(sides)
    total = count_operations(lambda: sides.pull(name, jobs=1))
    shutil.rmtree(sides.laptop)
    there = next(r for r in Catalogue(sides.served).current() if r.name == name)
    for k in random.Random(1).sample(range(total), 12):
        with fail_operation(k, errno.ENOSPC, lasting=lasting) as log:
            try:
                sides.pull(name, jobs=1)
            except Conflict as error:
                assert "is full" in error.message and error.exit_code == 6
        for record in sides.pulled():  # visible means whole
            assert same_set(record, there)
        assert log.failed or sides.pulled()
        sides.pull(name)
        assert same_set(sides.pulled()[0], there)
        shutil.rmtree(sides.laptop)


def test_a_cache_that_cannot_be_written(sides, tmp_path):
    sides.laptop.write_text("a file")
    with pytest.raises(InvalidInput, match="cannot be written"):
        sides.pull(clean_name(sides))


def test_what_was_pulled_is_reused_by_an_embedding(own):
    """The laptop has the images too: nothing is computed, and the set is the same."""
    own.pull(clean_name(own))
    laptop = TinyEmbedder(own.folder, own.laptop)
    result = laptop()
    assert laptop.forward_passes == 0
    assert result.fingerprint == own.pulled()[0].fingerprint
    own.change_images(1)
    assert laptop().computed == 1
