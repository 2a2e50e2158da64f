"""`fs plot`: runs of a cache become files."""

import pytest

from featurestore.testing.heads import MemoryFeatures, blobs
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.train import TrainOptions, train
from featurestore_cli.main import run


def features(n_classes=2, **fields):
    rows = {
        split: blobs(40, n_classes=n_classes, seed=seed)
        for seed, split in enumerate(("train", "validation", "test"))
    }
    return MemoryFeatures(rows, tuple("abc"[:n_classes]), **fields)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp("plot")
    for seed in (0, 1):
        options = TrainOptions(seed=seed)
        train(features(), DenseSettings(units=4, epochs=3), cache=root, options=options)
    train(features(), LogisticSettings(), cache=root)
    return root


@pytest.fixture
def ids(cache):
    return sorted(path.name for path in (cache / "runs").iterdir())


@pytest.mark.parametrize("kind", ["confusion", "roc", "reliability"])
@pytest.mark.parametrize("split", [[], ["--split", "validation"]])
def test_several_runs_in_one_picture(kind, split, cache, ids, tmp_path, capsys):
    file = tmp_path / "a.svg"
    assert run(["plot", kind, *ids, str(file), *split, "--cache", str(cache)]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"wrote {file}\n")
    content = file.read_text()
    assert content.startswith("<?xml")
    # Text is drawn as outlines, and named in comments.
    assert all(label in content for label in ("seed 0", "seed 1", "logistic"))


def test_curves_of_a_run_named_by_the_start_of_its_id(cache, ids, tmp_path):
    file = tmp_path / "a.png"
    assert run(["plot", "curves", ids[0], ids[1], str(file), "--cache", str(cache)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    assert run(["plot", "curves", "logi", str(file), "--cache", str(cache)]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["curves", "dense", "a.svg"], 3, "means 2 runs"),
        (["roc", "nothing", "a.svg"], 4, "no run 'nothing'"),
        (["roc", "logistic", "a.pdf"], 3, ".png or .svg"),
        (["roc", "logistic", "other-run"], 3, "found no ending"),
        (["roc", "logistic", "nowhere/a.svg"], 3, "cannot be written"),
        (["roc", "a.svg"], 2, "Missing argument"),
        (["pie", "logistic", "a.svg"], 2, "No such command"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    arguments, code, message, cache, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(["plot", *arguments, *(["--cache", str(cache)] if code != 2 else [])]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_of_two_feature_sets_are_not_drawn_together(tmp_path, capsys):
    for manifest in ("a" * 64, "b" * 64):
        rows = features(manifest_fingerprint=manifest)
        train(rows, LogisticSettings(), cache=tmp_path)
    ids = [path.name for path in (tmp_path / "runs").iterdir()]
    file = tmp_path / "a.svg"
    assert run(["plot", "roc", *ids, str(file), "--cache", str(tmp_path)]) == 6
    err = capsys.readouterr().err
    assert "aaaaaaaaaaaa" in err and "bbbbbbbbbbbb" in err
    assert not file.exists()
