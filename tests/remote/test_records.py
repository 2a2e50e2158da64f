"""Records and lists from elsewhere: what no commit writes is refused before it becomes a path."""

import dataclasses
import json
from pathlib import Path

import pytest

from featurestore.catalogue import Record, set_fingerprint
from featurestore.digests import sha256_hex
from featurestore.errors import Conflict, IntegrityError, InvalidInput
from featurestore.recipe import Recipe
from featurestore.remote import paging
from featurestore.remote.catalogue import find_set, list_sets
from featurestore.remote.connection import Connection
from featurestore.remote.pull_plan import plan_pull
from featurestore.remote.pull_run import run_ids_on
from featurestore.remote.records import ListedFile, parse_checksums, parse_record
from featurestore.testing.embedding import TinyChoice

RECIPE = TinyChoice(None).recipe(None, dataset="x", records=())
PRINT = set_fingerprint("a" * 64, RECIPE)
STORE = f"{RECIPE.name}-{PRINT[:8]}.zarr"


def made(**fields) -> Record:
    return dataclasses.replace(
        Record(
            name=f"photos/{RECIPE.name}",
            store_format="zarr",
            store=Path(STORE),
            sequence=3,
            fingerprint=PRINT,
            recipe=RECIPE,
            manifest_fingerprint="a" * 64,
            source_fingerprint="b" * 64,
            class_names=("cats", "dogs"),
            rows={"train": 5, "test": 2},
            feature_shape=(4, 4, 3),
            quarantine=(),
            provenance={"source": "/photos", "weights": "random:0"},
            committed_at="2026-01-02T03:04:05+00:00",
            content_sha256={"train": "c" * 64, "test": "d" * 64},
            checksums_sha256="e" * 64,
            stored_bytes=900,
        ),
        **fields,
    )


def sent(**fields) -> bytes:
    """Return a record's bytes with fields replaced, as a hostile service would."""
    return json.dumps(json.loads(made().to_json()) | fields).encode()


def parse(content):
    return parse_record(content, subject="http://box")


def test_a_record_comes_back_with_its_place_in_a_cache():
    record = parse(made().to_json())
    assert record == made(store=Path("photos") / STORE)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": f"../{RECIPE.name}"},
        {"name": f"../../etc/{RECIPE.name}"},
        {"name": f"/{RECIPE.name}"},
        {"name": f".staging/{RECIPE.name}"},
        {"name": f"runs/{RECIPE.name}"},
        {"name": f"a\\b/{RECIPE.name}"},
        {"name": f"a\u0000b/{RECIPE.name}"},
        {"name": f"{'x' * 101}/{RECIPE.name}"},
        {"name": "photos/../../x"},
        {"name": "photos/another-recipe"},
        {"name": "photos"},
        {"name": ""},
        {"name": 7},
        {"store": "../other.zarr"},
        {"store": "another.zarr"},
        {"store": ""},
        {"store": None},
        {"store_format": "npz"},
        {"store_format": ["zarr"]},
        {"store_format": "hdf5"},
        {"fingerprint": "f" * 64},
        {"fingerprint": 7},
        {"manifest_fingerprint": "../" + "a" * 61},
        {"source_fingerprint": None},
        {"checksums_sha256": "E" * 64},
        {"content_sha256": {"train": "c" * 64}},
        {"content_sha256": {"train": "c" * 64, "test": 7}},
        {"content_sha256": []},
        {"rows": {"train": -1, "test": 2}},
        {"rows": {"train": True, "test": 2}},
        {"rows": {"train": 1.5, "test": 2}},
        {"rows": {"train": 5, "test": 2, "../x": 1}},
        {"rows": [5, 2]},
        {"rows": None},
        {"class_names": [1, 2]},
        {"class_names": 2},
        {"feature_shape": []},
        {"feature_shape": [0]},
        {"feature_shape": ["4"]},
        {"feature_shape": 4},
        {"sequence": "3"},
        {"sequence": -1},
        {"stored_bytes": -1},
        {"stored_bytes": 1e9},
        {"stored_bytes": "900"},
        {"quarantine": [{"sample_id": 1, "sha256": None, "reason": "x"}]},
        {"quarantine": [{"sample_id": "a"}]},
        {"quarantine": ["a"]},
        {"quarantine": None},
        {"provenance": "here"},
        {"provenance": {}},
        {"committed_at": "yesterday"},
        {"committed_at": None},
        {"recipe_fingerprint": "0" * 64},
        {"recipe": None},
        {"another": 1},
        {"format_version": "1"},
    ],
    ids=str,
)
def test_a_field_that_no_commit_writes_is_refused(fields):
    with pytest.raises((IntegrityError, Conflict)) as caught:
        parse(sent(**fields))
    assert caught.value.next_step


@pytest.mark.parametrize(
    "fields",
    [
        {"backbone": "../../x"},
        {"backbone": ["v"] * 9},
        {"layer": "a/b"},
        {"layer": None},
        {"size": ["a", "b"]},
        {"size": [1e999, 2]},
        {"size": [0, 2]},
        {"weights_sha256": ["a"] * 64},
        {"weights_sha256": "/" * 64},
        {"decoder": 1.5},
        {"augmentation": 7},
        {"version": 99},
    ],
    ids=str,
)
def test_a_recipe_that_no_commit_writes_is_refused(fields):
    """Fingerprints and name are those that this recipe would have, wherever it has any."""
    recipe = RECIPE.to_dict() | fields
    other = {"recipe": recipe}
    try:
        told = Recipe.from_dict(recipe)
        fingerprint = set_fingerprint("a" * 64, told)
        other |= {"recipe_fingerprint": told.fingerprint, "fingerprint": fingerprint}
        other |= {
            "name": f"photos/{told.name}",
            "store": f"{told.name}-{fingerprint[:8]}.zarr",
        }
    except (Conflict, TypeError, ValueError, OverflowError):
        pass
    with pytest.raises((IntegrityError, Conflict)):
        parse(sent(**other))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 200_000, b"null", b"<html>"],
    ids=lambda content: content[:8],
)
def test_what_is_no_json_object_is_refused(content):
    with pytest.raises(IntegrityError):
        parse(content)


def test_a_record_of_a_newer_version_says_so():
    with pytest.raises(Conflict, match="format version"):
        parse(sent(format_version=99))


def listed(*lines: str, store=STORE, store_format="zarr"):
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    record = made(
        checksums_sha256=sha256_hex(content),
        store=Path("photos") / store,
        store_format=store_format,
    )
    return parse_checksums(content, record, subject="http://box")


def line(path: str, digest="f" * 64) -> str:
    return f"{digest}  {STORE}/{path}"


def test_a_list_is_read_in_order():
    assert listed(line("zarr.json"), line("test/c.0", "0" * 64)) == (
        ListedFile("zarr.json", "f" * 64),
        ListedFile("test/c.0", "0" * 64),
    )
    name = STORE.replace(".zarr", ".h5")
    assert listed(f"{'f' * 64}  {name}", store=name, store_format="hdf5") == (
        ListedFile("", "f" * 64),
    )


@pytest.mark.parametrize(
    "lines",
    [
        [line("../x")],
        [line("a/../../x")],
        [line("/etc/passwd")],
        [line("a//b")],
        [line("")],
        [line("a/")],
        [line("./a")],
        [line(".hidden")],
        [line(".tmp-1")],
        [line("a\\b")],
        [line("c:x")],
        [line("a\x00b")],
        [line("a\x1bb")],
        [line("x" * 201)],
        [line("nul. ")],
        [f"{'f' * 64}  other.zarr/zarr.json"],
        [f"{'f' * 64}  ../{STORE}/zarr.json"],
        [f"{'f' * 64}  {STORE}.json"],
        [f"{'f' * 64}  {STORE}"],
        [f"{'F' * 64}  {STORE}/zarr.json"],
        [f"{'f' * 63}  {STORE}/zarr.json"],
        [f"../x  {STORE}/zarr.json"],
        [line("a"), line("a")],
        [line("a"), line("A")],
        [line("a"), line("a/b")],
        [line("a/b/c"), line("a/b")],
        [],
        ["no list"],
    ],
    ids=str,
)
def test_a_list_that_names_anything_else_is_refused(lines):
    with pytest.raises(IntegrityError):
        listed(*lines)


def test_a_list_of_several_files_is_none_of_hdf5():
    name = STORE.replace(".zarr", ".h5")
    for lines in ([f"{'f' * 64}  {name}/a"], [f"{'f' * 64}  {name}"] * 2):
        with pytest.raises(IntegrityError):
            listed(*lines, store=name, store_format="hdf5")


def test_a_list_that_is_not_the_records_is_refused():
    with pytest.raises(IntegrityError, match="expected a checksum list of SHA-256 e"):
        parse_checksums(line("a").encode(), made(), subject="http://box")


def test_the_plan_fetches_each_different_file_once_and_nothing_that_is_here():
    files = [ListedFile(path, digest) for path, digest in ["a1", "b1", "c2", "d3", "e4"]]
    plan = plan_pull(files, staged=["3", "9"], held={"2": Path("x"), "3": Path("y"), "8": Path()})
    assert plan.fetch == {"1": "a", "4": "e"}
    assert plan.held == {"2": Path("x")}
    assert plan.staged == {"3"}


class Answers(Connection):
    """A connection to nowhere that answers JSON, one answer after the other."""

    def __init__(self, *answers):
        super().__init__("http://box")
        self.answers = iter(answers)

    def get_json(self, path, *, query=None):
        return next(self.answers)


GOOD = {
    "name": "photos/tiny",
    "fingerprint": "a" * 64,
    "store_format": "zarr",
    "rows": {"train": 2},
    "views": 0,
    "feature_shape": [4],
    "quarantined": 0,
    "stored_bytes": 9,
    "committed_at": "2026-01-02T03:04:05+00:00",
}


def test_a_service_that_lists_more_than_we_know_is_understood():
    (found,) = list_sets(Answers({"feature_sets": [GOOD | {"new": 1}], "newer": 2}))
    assert (found.name, found.rows, found.feature_shape) == ("photos/tiny", {"train": 2}, (4,))


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "../x"},
        {"name": None},
        {"name": "a/b/c"},
        {"fingerprint": "../../x"},
        {"fingerprint": "a" * 63},
        {"store_format": "tar"},
        {"rows": [1]},
        {"rows": {"train": "2"}},
        {"stored_bytes": True},
        {"stored_bytes": 2**63},
        {"quarantined": -1},
        {"feature_shape": None},
    ],
    ids=str,
)
def test_a_service_that_lists_nonsense_is_not(fields):
    with pytest.raises(IntegrityError, match="what is no feature set"):
        list_sets(Answers({"feature_sets": [GOOD | fields]}))
    with pytest.raises(IntegrityError, match="what is no feature set"):
        find_set(Answers(GOOD | fields), "photos")


@pytest.mark.parametrize("moving", [True, False])
def test_a_list_without_end_is_given_up(monkeypatch, moving):
    monkeypatch.setattr(paging, "_MOST_PAGES", 3)
    pages = [{"runs": [{"id": f"{page * moving}-{at}"} for at in range(500)]} for page in range(9)]
    for listed in (
        lambda there: run_ids_on(there, "0" * 64),
        lambda there: paging.list_all(there, "/v1/runs", of="runs"),
    ):
        with pytest.raises(InvalidInput, match="without end" if moving else "the same on every"):
            listed(Answers(*pages))
