"""What `fs gc` finds and leaves, without running a command."""

import os

import pytest

import featurestore as fs
from featurestore.catalogue import Catalogue, lock_path
from featurestore.collect import find_garbage, remove_garbage
from featurestore.locks import hold
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder


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
    assert remove_garbage([garbage]) == garbage.size_bytes > 0
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
        assert remove_garbage(find_garbage(cache)) == 0
    assert {item.path for item in find_garbage(cache) if item.kept is None} > {stray}


def test_staging_goes_only_when_asked_for(cache):
    shard = cache / ".staging" / "photos--0123" / "x.shard"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"x" * 10)
    assert shard.parent not in {item.path for item in find_garbage(cache)}
    remove_garbage(find_garbage(cache, staging=True))
    assert not shard.parent.exists()


def test_a_run_that_was_never_finished_goes_after_an_hour(cache):
    run = cache / "runs" / ".tmp-1-abcd-run"
    run.mkdir(parents=True)
    now = run.stat().st_mtime
    assert run not in {item.path for item in find_garbage(cache, clock=lambda: now + 60)}
    os.utime(run, (now - 7200, now - 7200))
    assert run in {item.path for item in find_garbage(cache, clock=lambda: now)}
