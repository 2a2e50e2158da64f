"""What `fs gc` finds and leaves, without running a command."""

import dataclasses
import os
import shutil

import pytest

import featurestore as fs
from featurestore.catalogue import Catalogue, lock_path
from featurestore.collect import find_garbage, remove_garbage
from featurestore.embedding.commit import relist, store_files
from featurestore.features import open_record
from featurestore.locks import hold
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder
from featurestore.training.runs import FoundRuns
from featurestore.training.settings import LogisticSettings
from featurestore.training.train import train


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "photos"
    write_image_folder(folder)
    for number in range(2):
        fs.embed(folder, fs.EmbedSettings(), cache=tmp_path / "cache", choose=TinyChoice)
        (folder / "train" / "cats" / f"cats.{number}.jpg").unlink()
    return tmp_path / "cache"


def test_a_superseded_version_goes_and_the_current_one_stays(cache):
    current = Catalogue(cache).find("photos")
    (garbage,) = find_garbage(cache)
    assert garbage.path != current.store
    assert remove_garbage(cache, [garbage]) == garbage.size_bytes > 0
    assert Catalogue(cache).records() == [current]
    assert sorted(path.name for path in current.store.parent.iterdir()) == sorted(
        current.store.name + ending for ending in ("", ".json", ".sha256")
    )


def test_nothing_of_a_set_that_is_being_written_goes(cache):
    record = Catalogue(cache).find("photos")
    stray = record.store.with_name(f".incomplete-{record.store.name}")
    stray.mkdir()
    with hold(lock_path(cache, record.name), subject="test"):
        assert [item.kept for item in find_garbage(cache)] == ["it is being written"] * 2
        assert remove_garbage(cache, find_garbage(cache)) == 0
    assert {item.path for item in find_garbage(cache) if item.kept is None} > {stray}


def test_what_became_needed_since_it_was_listed_stays(cache):
    listed = find_garbage(cache)
    old = next(r for r in Catalogue(cache).records() if r.store == listed[0].path)
    relist(old, source_fingerprint="0" * 64, quarantine=(), sequence=99)  # made current again
    assert remove_garbage(cache, listed) == 0
    assert Catalogue(cache).find("photos").store == old.store


@pytest.mark.parametrize("streamed", [True, False])
def test_the_images_of_a_streamed_fine_tuning_stay_when_its_start_is_removed(
    cache, monkeypatch, streamed
):
    (listed,) = find_garbage(cache)
    old = next(each for each in Catalogue(cache).records() if each.store == listed.path)
    current = Catalogue(cache).find("photos")
    with open_record(old) as features:
        start = train(features, LogisticSettings(), cache=cache)
    tuned = dataclasses.replace(
        start,
        id="tuned",
        path_taken="fine-tune",
        started_from=start.id,
        features=dataclasses.replace(
            start.features, fingerprint="f" * 64 if streamed else current.fingerprint
        ),
    )
    monkeypatch.setattr("featurestore.collect.read_runs", lambda *_, **__: FoundRuns([tuned], []))
    expected = "run tuned was fine-tuned on its images" if streamed else None
    assert [item.kept for item in find_garbage(cache)] == [expected]
    assert remove_garbage(cache, [listed]) == (0 if streamed else listed.size_bytes)


def test_a_store_whose_record_cannot_be_read_is_not_taken_for_a_leftover(cache):
    record = Catalogue(cache).find("photos")
    newer = record.path.read_text().replace('"format_version": 1', '"format_version": 2')
    record.path.write_text(newer)
    assert record.store not in {item.path for item in find_garbage(cache)}


def test_the_rest_of_a_killed_commit_goes(cache):
    record = Catalogue(cache).find("photos")
    rest = [
        record.store.with_name(f"{record.store.name[:-13]}-01234567.zarr.sha256"),
        record.store.with_name(f".tmp-7-0123abcd-{record.store.name}.json"),
    ]
    for path in rest:
        path.write_text("x")
    assert set(rest) <= {item.path for item in find_garbage(cache)}
    remove_garbage(cache, find_garbage(cache))
    assert not any(path.exists() for path in rest)
    assert record.path.exists()


def unfinished_run(cache, name):
    path = cache / "runs" / f".tmp-7-0123abcd-{name}"
    path.mkdir(parents=True)
    (path / "model.skops").write_bytes(b"x" * 10)
    return path


def test_a_run_that_is_finished_while_it_is_looked_at_is_no_garbage(cache):
    path = unfinished_run(cache, "first")

    def clock():
        path.rename(path.with_name("first"))
        return path.with_name("first").stat().st_mtime + 7200

    assert path not in {item.path for item in find_garbage(cache, clock=clock)}


@pytest.mark.parametrize("before", [True, False])
def test_what_goes_while_it_is_measured_takes_no_bytes(cache, monkeypatch, before):
    rest = [unfinished_run(cache, name) for name in ("first", "second")]

    def listed(path):
        if path == rest[0] and before:
            raise FileNotFoundError(path)
        files = store_files(path)
        if path == rest[0]:
            shutil.rmtree(path)
        return files

    monkeypatch.setattr("featurestore.collect.store_files", listed)
    found = find_garbage(cache, clock=lambda: rest[0].parent.stat().st_mtime + 7200)
    assert {item.path: item.size_bytes for item in found if item.path in rest} == {
        rest[0]: 0,
        rest[1]: 10,
    }


def test_staging_goes_only_when_asked_for(cache):
    shard = cache / ".staging" / "photos--0123" / "x.shard"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"x" * 10)
    assert shard.parent not in {item.path for item in find_garbage(cache)}
    remove_garbage(cache, find_garbage(cache, staging=True))
    assert not shard.parent.exists()


def test_a_run_that_was_never_finished_goes_after_an_hour(cache):
    run = cache / "runs" / ".tmp-1-abcd-run"
    run.mkdir(parents=True)
    now = run.stat().st_mtime
    assert run not in {item.path for item in find_garbage(cache, clock=lambda: now + 60)}
    os.utime(run, (now - 7200, now - 7200))
    assert run in {item.path for item in find_garbage(cache, clock=lambda: now)}
