"""`fs ls --remote` as it is typed."""

import json

import pytest

from featurestore.catalogue import Catalogue
from featurestore.service.contract import ServiceSettings
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore.testing.serving import serve
from featurestore_cli.main import run


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A served cache with a set, the same in HDF5, and one with views; tests only read it."""
    root = tmp_path_factory.mktemp("box")
    write_image_folder(root / "photos", splits={"train": 6, "test": 4})
    embed = TinyEmbedder(root / "photos", root / "cache")
    embed(store="hdf5")
    embed()
    embed(views=2)
    with serve(ServiceSettings(cache=root / "cache")) as url:
        yield root, url


@pytest.fixture
def ls(box, tmp_path, capsys):
    """Return what runs ``fs ls --remote`` from a laptop and returns code, stdout and stderr."""

    def listed(*arguments, url=box[1]):
        code = run(["ls", "--remote", url, "--cache", str(tmp_path / "laptop"), *arguments])
        return (code, *capsys.readouterr())

    return listed


def test_all_sets_are_listed_and_none_is_here(ls, box, tmp_path):
    code, out, err = ls("--json")
    assert (code, err) == (0, "")
    sets = json.loads(out)["feature_sets"]
    there = {(r.name, r.store_format): r for r in Catalogue(box[0] / "cache").current()}
    assert {(each["name"], each["store"]) for each in sets} == set(there) and len(sets) == 3
    for each in sets:
        record = there[each["name"], each["store"]]
        assert each["fingerprint"] == record.fingerprint
        assert each["rows"] == record.rows == {"train": 12, "test": 8}
        assert each["bytes"] == record.stored_bytes
        assert each["views"] == record.views
        assert (each["here"], each["other_version_here"]) == (False, False)
    assert json.loads(out)["url"] == box[1]
    assert not (tmp_path / "laptop").exists()


def test_the_table_says_what_is_here(ls, box, tmp_path, capsys):
    clean = next(r.name for r in Catalogue(box[0] / "cache").records() if not r.views)
    assert run(["pull", box[1], clean, "--cache", str(tmp_path / "laptop")]) == 0
    capsys.readouterr()
    code, out, _ = ls()
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and lines[0][-1] == "here"
    here = {
        (line[0], next(each for each in line if each in ("zarr", "hdf5"))): out.splitlines()[at]
        for at, line in enumerate(lines[1:], 1)
    }
    assert here[clean, "zarr"].endswith("  yes")
    assert here[clean, "hdf5"].endswith("  as zarr")
    (other,) = (text for (name, _), text in here.items() if name != clean)
    assert other.endswith("  -")
    _, out, _ = ls("--json")
    formats = {
        (each["name"], each["store"]): each["here_as"] for each in json.loads(out)["feature_sets"]
    }
    assert formats.pop((clean, "zarr")) == formats.pop((clean, "hdf5")) == ["zarr"]
    assert [*formats.values()] == [[]]
    (record,) = Catalogue(tmp_path / "laptop").records()
    record.path.write_text("{")
    for arguments in ([], ["--json"]):
        code, out, err = ls(*arguments)
        assert code == 5 and out and record.path.name in err


def test_another_version_here_is_told(ls, box, tmp_path):
    write_image_folder(tmp_path / "photos", splits={"train": 6, "test": 4})
    extra = tmp_path / "photos" / "test" / "cats" / "more.jpg"
    extra.write_bytes(encode(photograph(0, index=999)))
    TinyEmbedder(tmp_path / "photos", tmp_path / "laptop")()
    _, out, _ = ls("--json")
    sets = [each for each in json.loads(out)["feature_sets"] if not each["views"]]
    assert [(each["here"], each["other_version_here"]) for each in sets] == [(False, True)] * 2
    assert ls()[1].count("another version") == 2


def test_an_empty_service(ls, tmp_path):
    (tmp_path / "nothing").mkdir()
    with serve(ServiceSettings(cache=tmp_path / "nothing")) as url:
        assert ls(url=url) == (0, "", f"no feature set at {url}\n")
        assert json.loads(ls("--json", url=url)[1]) == {"url": url, "feature_sets": []}


def test_what_the_service_cannot_read_is_told(ls, tmp_path):
    write_image_folder(tmp_path / "photos", splits={"train": 2})
    TinyEmbedder(tmp_path / "photos", tmp_path / "served")()
    (record,) = Catalogue(tmp_path / "served").records()
    record.path.write_text("{")
    with serve(ServiceSettings(cache=tmp_path / "served")) as url:
        code, out, err = ls(url=url)
    assert (code, out) == (0, "") and "is not a feature set record" in err


def test_what_cannot_be_asked(ls):
    assert ls(url="here")[0] == 3
    assert ls("--all")[0] == 2
    assert ls(url="http://127.0.0.1:9")[0] == 4
    assert run(["ls", "--token-file", "x"]) == 2


def test_names_from_a_service_do_not_reach_the_terminal_raw(ls, monkeypatch):
    from featurestore.remote.connection import Connection

    hostile = {
        "name": "photos/tiny",
        "fingerprint": "a" * 64,
        "store_format": "zarr",
        "rows": {"\x1b[2Jtrain": 2},
        "views": 0,
        "feature_shape": [4],
        "quarantined": 0,
        "stored_bytes": 9,
        "committed_at": "\x1b]0;x\x07",
    }
    monkeypatch.setattr(
        Connection, "get_json", lambda self, path, query: {"feature_sets": [hostile]}
    )
    code, out, _ = ls()
    assert code == 0 and "\x1b" not in out and "\\x1b" in out
