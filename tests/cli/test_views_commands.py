"""Stored views as `fs compare` and `fs learning-curve` take them."""

import json
import shutil

import pytest

import featurestore as fs
from featurestore.augmentation import Augmentation
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder
from featurestore.training.runs import read_runs
from featurestore_cli.main import run


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with one set of plain features, and one with three views of each training image."""
    root = tmp_path_factory.mktemp("views")
    for name, views in (("plain", None), ("varied", 3)):
        write_image_folder(root / name, splits={"train": 12, "validation": 6, "test": 6})
        settings = fs.EmbedSettings(
            views=views,
            augmentation=None if views is None else Augmentation(flip=False),
            view_seed=2 if views else 0,
        )
        fs.embed(root / name, settings, cache=root / "cache", choose=TinyChoice)
    return root / "cache"


def test_heads_on_views_are_trained_once_and_compared(cache, capsys):
    arguments = ["compare", "varied", "--heads", "logistic,knn", "--cache", str(cache)]
    assert run([*arguments, "--views", "all"]) == 0
    assert {run.augmentation["views"] for run in read_runs(cache).runs} == {3}
    capsys.readouterr()
    assert run([*arguments, "--views", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "2 of 2 runs are there already" in err
    assert [each["augmentation"]["views"] for each in json.loads(out)["contenders"]] == [3, 3]
    assert run([*arguments, "--views", "2", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("would be trained") == 2


def test_a_learning_curve_may_be_on_views(cache, capsys):
    arguments = ["learning-curve", "varied", "--heads", "logistic", "--seeds", "1"]
    assert run([*arguments, "--sizes", "8,24", "--views", "2", "--cache", str(cache)]) == 0
    assert "trained on 2 stored views of each image" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "learning-curve"])
@pytest.mark.parametrize(("name", "asked"), [("plain", "all"), ("varied", "4")])
def test_views_that_are_not_there_are_bad_input(command, name, asked, cache, capsys):
    arguments = [command, name, "--heads", "logistic", "--views", asked, "--cache", str(cache)]
    assert run(arguments) == 3
    typed = capsys.readouterr().err.partition("fs embed ")[2]
    # The very set, not one of the usual recipe.
    assert typed.startswith(str(cache.parent / name)) and "--backbone tiny" in typed
    assert f"--views {6 if asked == 'all' else asked}" in typed
    assert ("--augment flip=false --view-seed 2" in typed) == (name == "varied")


def test_a_name_means_the_set_that_has_views_where_they_are_asked_for(tmp_path, capsys):
    write_image_folder(tmp_path / "both", splits={"train": 12, "validation": 6, "test": 6})
    cache = ["--cache", str(tmp_path / "cache")]
    for settings in (fs.EmbedSettings(), fs.EmbedSettings(views=2)):
        fs.embed(tmp_path / "both", settings, cache=tmp_path / "cache", choose=TinyChoice)
    viewed = ["--heads", "logistic", "--views", "all"]
    assert run(["compare", "both", *viewed, "--dry-run", *cache]) == 0
    assert run(["learning-curve", "both/tiny", *viewed, "--sizes", "24", *cache]) == 0
    other = fs.EmbedSettings(views=2, view_seed=1)
    fs.embed(tmp_path / "both", other, cache=tmp_path / "cache", choose=TinyChoice)
    capsys.readouterr()
    assert run(["compare", "both", *viewed, *cache]) == 3
    err = capsys.readouterr().err
    assert "means 2 feature sets" in err and err.count("-views-") == 2


def test_views_are_for_heads_that_are_trained(cache, capsys):
    assert run(["compare", "varied", "--views", "2", "--cache", str(cache)]) == 2
    assert "--views" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["rule", "interpolation"])
def test_a_set_under_rules_of_another_version_does_not_hide_the_others(
    cache, tmp_path, capsys, changed
):
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    (path,) = (copy / "varied").glob("*.zarr.json")
    record = json.loads(path.read_bytes())
    fields = record["recipe"] if changed in record["recipe"] else record["recipe"]["augmentation"]
    fields[changed] = "another"
    path.write_text(json.dumps(record))
    assert run(["ls", "--cache", str(copy)]) == 6
    out, err = capsys.readouterr()
    assert "plain/" in out
    assert "another" in err and "upgrade featurestore" in err
