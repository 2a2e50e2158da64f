"""`fs pull` as it is typed, and all that works on a laptop with what it has pulled."""

import json
import subprocess
import sys

import pytest

from featurestore.catalogue import Catalogue
from featurestore.errors import InvalidInput
from featurestore.service.contract import ServiceSettings
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import write_image_folder
from featurestore.testing.serving import serve
from featurestore_cli.main import run


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    root = tmp_path_factory.mktemp("box")
    write_image_folder(root / "photos", splits={"train": 40, "validation": 10, "test": 20})
    embed = TinyEmbedder(root / "photos", root / "cache")
    embed()
    embed(views=2)
    with serve(ServiceSettings(cache=root / "cache")) as url:
        yield root, url


@pytest.fixture
def fs(capsys, tmp_path):
    """Return what runs `fs` on the laptop's cache and returns code, stdout and stderr."""

    def command(*arguments, cache=tmp_path / "laptop"):
        code = run([*map(str, arguments), "--cache", str(cache)])
        return (code, *capsys.readouterr())

    return command


def name_of(box, *, views=0):
    return next(r.name for r in Catalogue(box[0] / "cache").records() if r.views == views)


def test_a_pull_says_what_it_did(fs, box, tmp_path):
    name = name_of(box)
    code, out, err = fs("pull", box[1], name)
    assert code == 0
    assert out.splitlines()[0] == name
    assert "fetched" in out and "reused       0 files" in out
    assert err == f"next: fs train {name} --head logistic\n"
    code, out, err = fs("pull", box[1], name)
    assert (code, err) == (0, "nothing to do: it is here\n")


def test_a_pull_in_json(fs, box, tmp_path):
    code, out, err = fs("pull", box[1], name_of(box), "--json", "--dry-run")
    planned = json.loads(out)
    assert (code, err) == (0, "") and planned["dry_run"] and planned["path"] is None
    assert not (tmp_path / "laptop").exists()
    done = json.loads(fs("pull", box[1], name_of(box), "--json", "--jobs", "2")[1])
    record = Catalogue(tmp_path / "laptop").find("photos")
    assert planned["kind"] == "feature set"
    assert done == planned | {
        "path": str(record.store),
        "dry_run": False,
        "moved_bytes": done["moved_bytes"],
        "seconds": done["seconds"],
    }
    assert 0 < done["moved_bytes"] <= planned["moved_bytes"]
    again = json.loads(fs("pull", box[1], name_of(box), "--json")[1])
    assert again["unchanged"] and again["moved_bytes"] == 0


def test_everything_works_on_what_was_pulled(fs, box, tmp_path):
    """Train, compare, audit, verify, export, show and gc: the service is gone by then."""
    root, _ = box
    with serve(ServiceSettings(cache=root / "cache")) as url:
        assert fs("pull", url, name_of(box))[0] == 0
        assert fs("pull", url, name_of(box, views=2))[0] == 0
    name = name_of(box)
    assert "are as committed" in fs("verify", name)[1]
    assert "views" in fs("verify", name_of(box, views=2))[1]
    here = json.loads(fs("train", name, "--head", "logistic", "--json")[1])
    served = json.loads(fs("train", name, "--head", "logistic", "--json", cache=root / "cache")[1])
    assert here["metrics"] == served["metrics"]
    assert fs("train", name, "--head", "nearest-centroid")[0] == 0
    assert fs("compare", name)[0] == 0
    assert fs("audit", name)[0] in (0, 1)
    assert fs("export", name, tmp_path / "out.npz")[0] == 0
    shown = json.loads(fs("show", name, "--json")[1])
    assert shown["provenance"]["pulled_from"] == url
    assert shown["fingerprint"] == Catalogue(root / "cache").find(name).fingerprint
    assert json.loads(fs("gc", "--staging", "--json")[1])["removed"] == []


def test_runs_come_by_their_id_or_with_their_set(fs, box, tmp_path):
    root, url = box
    name = name_of(box, views=2)
    trained = json.loads(
        fs("train", name, "--head", "nearest-centroid", "--json", cache=root / "cache")[1]
    )
    code, out, err = fs("pull", url, trained["run"])
    assert code == 0 and out.startswith(f"run {trained['run']}: fetched, ")
    assert err == f"next: fs show {trained['run']}\n"
    assert "is here" in fs("pull", url, trained["run"])[1]
    done = json.loads(fs("pull", url, name, "--runs", "--json")[1])
    assert done["kind"] == "feature set"
    assert [(run["id"], run["unchanged"]) for run in done["runs"]] == [(trained["run"], True)]
    scored = fs("evaluate", trained["run"])
    assert scored[0] == 0 and fs("pull", url, trained["run"], "--dry-run")[0] == 2
    code, _, err = fs("pull", url, "nothing")
    assert code == 4 and "nor does a run's id start so" in err


def test_a_token_comes_from_the_environment_or_a_file(fs, box, tmp_path, monkeypatch):
    root, _ = box
    monkeypatch.delenv("FS_TOKEN", raising=False)
    with serve(ServiceSettings(cache=root / "cache", token="s3cret-s3cret-s3cret")) as url:
        code, _, err = fs("pull", url, name_of(box))
        assert code == 3 and "FS_TOKEN" in err and "--token-file" in err
        assert not Catalogue(tmp_path / "laptop").records()
        (tmp_path / "token").write_text("s3cret-s3cret-s3cret\n")
        (tmp_path / "token").chmod(0o600)
        assert fs("pull", url, name_of(box), "--token-file", tmp_path / "token")[0] == 0
        monkeypatch.setenv("FS_TOKEN", "s3cret-s3cret-s3cret")
        assert fs("pull", url, name_of(box, views=2))[0] == 0
        assert fs("ls", "--remote", url)[0] == 0
        monkeypatch.setenv("FS_TOKEN", "another")
        code, _, err = fs("ls", "--remote", url)
        assert code == 3 and "another" not in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["http://127.0.0.1:9", "photos"], 4),
        (["127.0.0.1:9", "photos"], 3),
        (["{url}", "no-such-set"], 4),
        (["{url}", "photos/t", "--format", "hdf5"], 4),
        (["{url}", "photos", "--jobs", "0"], 2),
        (["{url}"], 2),
    ],
)
def test_exit_codes(fs, box, tmp_path, arguments, code):
    assert fs("pull", *(each.format(url=box[1]) for each in arguments))[0] == code
    assert not (tmp_path / "laptop").exists()


def test_a_proxy_of_the_environment_is_used_and_loopback_is_spared(monkeypatch):
    from featurestore_cli.connecting import _proxy

    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert _proxy("http://box:8000") is None
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside,127.0.0.1")
    assert _proxy("http://box:8000") == "http://proxy:3128"
    assert _proxy("https://box:8000") is None
    assert _proxy("http://inside:8000") is None
    assert _proxy("http://127.0.0.1:8000") is None
    assert _proxy("http://[") is None
    monkeypatch.setenv("http_proxy", "proxy:3128")
    assert _proxy("http://box:8000") == "http://proxy:3128"
    monkeypatch.setenv("http_proxy", "socks5://me:secret@proxy:1080")
    with pytest.raises(InvalidInput, match=r"http_proxy: .*, found scheme socks5") as raised:
        _proxy("http://box:8000")
    assert "secret" not in str(raised.value)


def test_pulling_loads_nothing_heavy(box, tmp_path):
    program = (
        "import sys; from featurestore_cli.main import run; code = run(sys.argv[1:]);"
        "print(code, {'tensorflow', 'keras', 'fastapi', 'sklearn'} & set(sys.modules))"
    )
    arguments = ["pull", box[1], name_of(box), "--cache", str(tmp_path), "--json"]
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    assert found.stdout.endswith("0 set()\n"), found
