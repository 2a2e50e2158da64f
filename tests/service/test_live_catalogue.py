"""What a cache holds now, asked for often while it changes."""

import dataclasses
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from committed_stores import commit_rows, few_rows, write_record
from made_runs_on import run_on

import featurestore.service.live_catalogue as module
from featurestore.augmentation import Augmentation
from featurestore.catalogue import Catalogue, record_path
from featurestore.embedding.commit import remove_store
from featurestore.errors import Conflict, IntegrityError, InvalidInput, NotFound
from featurestore.recipe import Views
from featurestore.service.contract import Unavailable
from featurestore.service.live_catalogue import FRESH_S, LiveCatalogue
from featurestore.state import CACHE_MARKER
from featurestore.testing.rows import RECIPE
from featurestore.training.runs import RECORD_NAME

OTHER = dataclasses.replace(RECIPE, layer="block4_pool")
VIEWED = dataclasses.replace(RECIPE, augmentation=Views(augmentation=Augmentation(), count=2))


class Clock:
    now = 100.0

    def __call__(self):
        return self.now

    def pass_by(self):
        self.now += FRESH_S


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "cache"
    path.mkdir()
    return path


@pytest.fixture
def live(cache, clock):
    return LiveCatalogue(cache, clock=clock)


@pytest.fixture
def reads(monkeypatch):
    """The paths of the records that are read."""
    read = []

    def counted(original):
        return lambda path: (read.append(path.name), original(path))[1]

    monkeypatch.setattr(module, "read_record", counted(module.read_record))
    monkeypatch.setattr(module, "load_run", counted(module.load_run))
    return read


def test_an_empty_cache_is_empty(live, cache, clock):
    assert list(live.current()) == list(live.records()) == list(live.runs()) == []
    assert list(live.problems()) == list(live.run_problems()) == []
    with pytest.raises(NotFound):
        live.find("photos")
    with pytest.raises(NotFound):
        live.of_recipe("vgg16")
    with pytest.raises(NotFound):
        live.run("logistic")
    record = commit_rows(cache, few_rows())
    clock.pass_by()
    assert list(live.current()) == [record]


def test_a_cache_that_is_gone_is_not_empty(live, cache, clock):
    record = commit_rows(cache, few_rows())
    assert list(live.current()) == [record]
    away = cache.rename(cache.with_name("away"))
    clock.pass_by()
    for ask in (live.current, live.records, live.problems, live.runs, live.run_problems):
        with pytest.raises(Unavailable, match="gone"):
            ask()
    for find in (live.find, live.of_recipe, live.run):
        with pytest.raises(Unavailable):
            find("nothing")
    away.rename(cache)
    assert list(live.current()) == [record]


def test_it_says_what_the_catalogue_says(live, cache):
    commit_rows(cache, few_rows(), manifest="a", sequence=1)
    commit_rows(cache, few_rows(), manifest="b", sequence=2)
    commit_rows(cache, few_rows(), manifest="b", sequence=3, store_format="hdf5")
    commit_rows(cache, few_rows(), dataset="other", sequence=4, recipe=OTHER)
    expected = Catalogue(cache)
    assert list(live.current()) == expected.current()
    assert list(live.records()) == expected.records()
    oldest = expected.records()[-1]
    for wanted in ("photos", "other/", expected.current()[0].name, oldest.fingerprint[:6]):
        assert live.find(wanted) == expected.find(wanted)
        assert live.find(wanted) is live.find(wanted)
    for wanted in ("", "nothing", "photos/x"):
        with pytest.raises(NotFound):
            live.find(wanted)


def test_an_answer_that_is_not_old_costs_no_look_at_the_disk(live, cache, clock, monkeypatch):
    commit_rows(cache, few_rows())
    live.find("photos")
    live.of_recipe(RECIPE.name)
    live.runs()

    def nobody(*arguments):
        raise AssertionError("the disk was looked at")

    for name in ("lstat", "scandir"):
        monkeypatch.setattr(module.os, name, nobody)
    clock.now += FRESH_S * 0.99
    for _ in range(3):
        live.find("photos")
        live.of_recipe(RECIPE.name)
        live.current()
        live.runs()
    clock.now += FRESH_S * 0.02
    with pytest.raises(AssertionError, match="looked at"):
        live.current()


def test_only_what_has_changed_is_read_again(live, cache, clock, reads):
    first = commit_rows(cache, few_rows(), dataset="first")
    run = run_on(first, cache)
    assert len(live.current()) == len(live.runs()) == 1
    clock.pass_by()
    live.current()
    live.runs()
    assert reads == [record_path(first.store).name, run.id]
    reads.clear()
    second = commit_rows(cache, few_rows(), dataset="second", sequence=2)
    later = run_on(second, cache)
    clock.pass_by()
    assert [record.name for record in live.current()] == [first.name, second.name]
    assert [each.id for each in live.runs()] == [later.id, run.id]
    assert reads == [record_path(second.store).name, later.id]
    reads.clear()
    write_record(first, sequence=9)
    clock.pass_by()
    assert live.find("first").sequence == 9
    assert reads == [record_path(first.store).name]


def test_what_is_removed_is_gone(live, cache, clock):
    record = commit_rows(cache, few_rows())
    run = run_on(record, cache)
    assert live.find("photos")
    assert live.run(run.id)
    remove_store(record.store)
    shutil.rmtree(run.path)
    clock.pass_by()
    assert not live.current()
    assert not live.runs()
    with pytest.raises(NotFound):
        live.find("photos")
    with pytest.raises(NotFound):
        live.of_recipe(RECIPE.name)
    with pytest.raises(NotFound):
        live.run(run.id)


def test_a_name_that_is_not_known_is_looked_for_at_once(live, cache):
    """As by `fs pull` just after `fs embed`; the clock stands still here."""
    assert not live.current()
    assert not live.runs()
    record = commit_rows(cache, few_rows())
    run = run_on(record, cache)
    assert live.find("photos") == record
    assert live.of_recipe(RECIPE.name) == record
    assert live.run(run.id) == run


def damage(path, how):
    """Write what no commit would write."""
    fields = json.loads(path.read_bytes())
    path.write_bytes(
        {
            "cut": path.read_bytes()[:100],
            "empty": b"",
            "no object": b"[]",
            "deep": b"[" * 100_000,
            "not text": b"\xff\xfe",
            "rows": json.dumps({**fields, "rows": 5}).encode(),
            "row counts": json.dumps({**fields, "rows": {"train": "many"}}).encode(),
            "name": json.dumps({**fields, "name": 5}).encode(),
            "sequence": json.dumps({**fields, "sequence": None}).encode(),
            "shape": json.dumps({**fields, "feature_shape": ["a"]}).encode(),
            "classes": json.dumps({**fields, "class_names": 7}).encode(),
            "surrogate": json.dumps({**fields, "class_names": ["\ud800", "b"]}).encode(),
            "quarantine": json.dumps({**fields, "quarantine": [1]}).encode(),
            "recipe": json.dumps({**fields, "recipe": None}).encode(),
            "size": json.dumps({**fields, "recipe": {**fields["recipe"], "size": 7}}).encode(),
            "fingerprint": json.dumps({**fields, "fingerprint": "0" * 64}).encode(),
        }[how]
    )


@pytest.mark.parametrize(
    "how",
    ["cut", "empty", "no object", "deep", "not text", "rows", "row counts", "name", "sequence",
     "shape", "classes", "surrogate", "quarantine", "recipe", "size", "fingerprint"],
)  # fmt: skip
def test_a_damaged_record_hides_no_other(live, cache, how, caplog):
    whole = commit_rows(cache, few_rows())
    damaged = commit_rows(cache, few_rows(), dataset="damaged")
    damage(record_path(damaged.store), how)
    assert list(live.current()) == list(live.records()) == [whole]
    (problem,) = live.problems()
    assert record_path(damaged.store).name in problem.message
    assert isinstance(problem, IntegrityError | Conflict)
    assert live.find("photos") == whole
    assert live.of_recipe(RECIPE.name) == whole
    with pytest.raises(type(problem)):
        live.find("damaged")  # perhaps the one that is meant
    assert len(caplog.records) == 1  # told once, though it was read twice


def test_a_record_that_is_whole_again_is_seen(live, cache, clock, monkeypatch):
    """Also where the file did not change: it may have been for want of file descriptors."""
    record = commit_rows(cache, few_rows())
    with monkeypatch.context() as patched:
        patched.setattr(module.Record, "read", lambda path: 1 / 0)
        assert len(live.problems()) == 1
    assert not live.current()
    clock.pass_by()
    assert list(live.current()) == [record]
    assert not live.problems()


def test_a_damaged_run_hides_no_other(live, cache):
    record = commit_rows(cache, few_rows())
    whole, cut, bare, newer = (run_on(record, cache) for _ in range(4))
    (cut.path / RECORD_NAME).write_bytes(b"{")
    (bare.path / RECORD_NAME).unlink()
    fields = json.loads((newer.path / RECORD_NAME).read_bytes())
    (newer.path / RECORD_NAME).write_text(json.dumps({**fields, "format_version": 99}))
    assert list(live.runs()) == [whole]
    assert len(live.run_problems()) == 3
    assert live.run(whole.id) == whole
    for run, error in ((cut, IntegrityError), (bare, IntegrityError), (newer, Conflict)):
        with pytest.raises(error, match=run.id):
            live.run(run.id)


def test_a_run_is_meant_by_the_unique_start_of_its_id(live, cache):
    record = commit_rows(cache, few_rows())
    first, second = run_on(record, cache), run_on(record, cache)
    assert live.run(first.id) == first
    with pytest.raises(InvalidInput, match="2 runs"):
        live.run("logistic")
    for wanted in ("", "nothing", "../photos", "\0"):
        with pytest.raises(NotFound):
            live.run(wanted)
    shutil.rmtree(second.path)


def test_a_newer_versions_cache_is_refused(live, cache):
    commit_rows(cache, few_rows())
    (cache / CACHE_MARKER).write_text('{"format_version": 99}')
    with pytest.raises(Conflict, match="format version"):
        live.current()


def test_odd_things_in_a_cache_are_no_sets(live, cache):
    record = commit_rows(cache, few_rows())
    (record.store.parent / "folder.zarr.json").mkdir()
    (record.store.parent / ".hidden.zarr.json").write_text("{}")
    (record.store.parent / "notes.json").write_text("{}")
    (cache / "a file").write_text("")
    (cache / "linked.zarr.json").symlink_to(record_path(record.store))
    (record.store.parent / "linked.zarr.json").symlink_to(record_path(record.store))
    assert list(live.records()) == [record]
    assert not live.problems()


def test_a_recipe_is_meant_by_its_name_a_sets_name_or_its_fingerprint(live, cache):
    old = commit_rows(cache, few_rows(), sequence=1)
    newest = commit_rows(cache, few_rows(), dataset="other", sequence=2)
    for wanted in (RECIPE.name, old.name, newest.name, RECIPE.fingerprint, RECIPE.fingerprint[:4]):
        assert live.of_recipe(wanted) == newest
    assert live.of_recipe("vgg16") == live.of_recipe("photos") == newest  # one recipe is meant
    with pytest.raises(NotFound, match="vgg16-150-block5_pool"):
        live.of_recipe("resnet50")
    for wanted in ("", RECIPE.fingerprint[:3], "\0"):
        with pytest.raises(NotFound):
            live.of_recipe(wanted)


def test_a_recipe_with_views_is_that_without(live, cache):
    commit_rows(cache, few_rows(), sequence=1)
    viewed = commit_rows(cache, few_rows(), sequence=2, recipe=VIEWED)
    for wanted in (RECIPE.name, VIEWED.name, viewed.name, RECIPE.fingerprint):
        assert live.of_recipe(wanted) == viewed


def test_several_recipes_are_told_apart(live, cache):
    one = commit_rows(cache, few_rows())
    other = commit_rows(cache, few_rows(), sequence=2, recipe=OTHER)
    with pytest.raises(InvalidInput, match="2 recipes") as caught:
        live.of_recipe("vgg16")
    assert OTHER.fingerprint[:8] in caught.value.message
    assert live.of_recipe(OTHER.name) == other
    assert live.of_recipe(one.name) == one


def test_many_threads_may_ask_while_sets_come_and_go(cache):
    """No answer is torn, and none is an error."""
    live = LiveCatalogue(cache)
    stays = commit_rows(cache, few_rows(4), dataset="stays")
    stop = threading.Event()

    def ask():
        asked = 0
        while not stop.is_set():
            assert live.find("stays") == stays
            names = [record.name for record in live.current()]
            assert stays.name in names
            assert names == sorted(names)
            with pytest.raises(NotFound):
                live.find("nothing")  # looks at the disk
            asked += 1
        return asked

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for number in range(8):
                record = commit_rows(cache, few_rows(4, seed=number), dataset="comes")
                remove_store(record.store)
        finally:
            stop.set()
    assert all(each.result() > 0 for each in asking)
