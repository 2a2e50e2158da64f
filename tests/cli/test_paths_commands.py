"""Runs of every path as they are typed: listed, shown, compared, drawn, evaluated, used."""

import json

import pytest

from featurestore.testing.images import write_image_folder
from featurestore.training.runs import read_runs
from featurestore_cli.main import run

pytestmark = pytest.mark.slow  # four trainings through Keras, one of them through a backbone

RECIPE = ["--backbone", "mobilenet", "--size", "32", "--weights", "random:0"]
FIT = ["--epochs", "2", "--batch-size", "8", "--learning-rate", "1e-3"]
TUNED = ["--path", "fine-tune", "--unfreeze", "conv_pw_13", "--unfreeze", "conv_dw_13"]


def typed(*arguments):
    assert run([str(argument) for argument in arguments]) == 0, arguments


def printed(capsys, *arguments, code=0):
    capsys.readouterr()
    assert run([*map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A cache with runs of every path on one folder of photographs."""
    root = tmp_path_factory.mktemp("paths")
    write_image_folder(root / "photos", splits={"train": 8, "validation": 4, "test": 6})
    cache = ["--cache", root / "cache"]
    typed("embed", root / "photos", *RECIPE, "--precision", "float32", *cache)
    clean = [*cache, "--seed", "0", "--epochs", "2"]
    typed("train", "photos", "--head", "dense", "--units", "8", *clean)
    start = read_runs(root / "cache").runs[0].id
    typed("train", "photos", "--path", "end-to-end", "--units", "8", *FIT, *cache)
    typed("train", *TUNED, "--from", start, *FIT, *cache)
    typed("embed", root / "photos", *RECIPE, "--precision", "float32", "--views", "2", *cache)
    views = next((root / "cache" / "photos").glob("*views*.json")).name.partition(".")[0]
    name = f"photos/{views.rpartition('-')[0]}"
    typed("train", name, "--head", "dense", "--units", "8", "--views", "2", *clean)
    return root


@pytest.fixture
def cache(root):
    return ["--cache", str(root / "cache")]


@pytest.fixture
def ids(root):
    """Ids of the runs by what they are."""
    names = {"cached": "dense", "end-to-end": "end-to-end", "fine-tune": "tuned"}
    return {
        "views"
        if run.path_taken == "cached" and run.augmentation
        else names[run.path_taken]: run.id
        for run in read_runs(root / "cache").runs
    }


LABELS = {
    "dense",
    "dense, 2 views",
    "end-to-end dense",
    "fine-tuned conv_pw_13, conv_dw_13",
}


def test_all_runs_of_a_dataset_are_compared_by_its_name(ids, cache, tmp_path, capsys):
    page, plot = tmp_path / "a.html", tmp_path / "a.svg"
    found = printed(capsys, "compare", "photos", *cache, "--report", page, "--plot", plot)
    assert {each["label"] for each in found["contenders"]} == LABELS
    assert len(found["pairs"]) == 6
    by_label = {each["label"]: each for each in found["contenders"]}
    tuned = by_label["fine-tuned conv_pw_13, conv_dw_13"]
    assert tuned["runs"][0]["started_from"] == ids["dense"]
    assert tuned["trained_weights"] > by_label["dense"]["trained_weights"] > 0
    assert by_label["end-to-end dense"]["augmentation"]["seed"] == 0
    assert by_label["dense, 2 views"]["augmentation"]["views"] == 2
    text = page.read_text(encoding="utf-8")
    assert "3 heads and 1 fine-tuned network on photos/mobilenet" in text
    assert (
        "What each did with the images" in text
        and "for training, 2 random versions of each" in text
    )
    assert text.count("data:image/jpeg") > 0
    one_by_one = printed(capsys, "compare", *sorted(ids.values()), *cache)
    assert {each["label"] for each in one_by_one["contenders"]} == LABELS


def test_heads_of_a_comparison_are_cached_ones(ids, cache, capsys):
    heads = ["--heads", "dense:units=8:epochs=2", "--seeds", "1"]
    sets = [each["name"] for each in printed(capsys, "ls", *cache)["feature_sets"]]
    clean = next(name for name in sets if "views" not in name)
    plan = printed(capsys, "compare", clean, *heads, "--dry-run", *cache)
    assert [each["run"] for each in plan["runs"]] == [ids["dense"]]


def test_runs_are_listed_by_path(ids, cache, capsys):
    assert run(["runs", *cache]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[3] == "path"
    shown = {name: next(line for line in lines if ids[name] in line) for name in ids}
    assert "cached, 2 views" in shown["views"] and "end-to-end" in shown["end-to-end"]
    assert "unfreeze=conv_pw_13 conv_dw_13" in shown["tuned"]
    assert "patience" not in shown["tuned"]
    found = printed(capsys, "runs", "--path", "fine-tune", *cache)["runs"]
    assert [each["run"] for each in found] == [ids["tuned"]]
    assert found[0]["started_from"] == ids["dense"]
    assert found[0]["parameters"]["trainable"] == found[0]["trained_weights"]


def test_a_run_shows_its_path(ids, cache, capsys):
    for name, parts in {
        "dense": ["path taken", "went through the frozen network once"],
        "views": ["cached, 2 views", "augmentation:", "rotation"],
        "end-to-end": ["end-to-end", "shown anew at random", "only the head was trained"],
        "tuned": ["started from", ids["dense"], "parameters:", "trainable_before", "(before: "],
    }.items():
        assert run(["show", ids[name], *cache]) == 0
        out = capsys.readouterr().out
        assert all(part in out for part in parts), (name, out)


def test_every_run_is_evaluated_and_reproduced(root, ids, cache, capsys):
    for name in ("dense", "views", "end-to-end"):
        found = printed(capsys, "evaluate", ids[name], *cache)
        assert found["reproduction"]["reproduced"] and found["trained_on"] == 0
    assert "views" not in printed(capsys, "evaluate", ids["end-to-end"], *cache)["feature_set"]
    assert run(["evaluate", ids["tuned"], *cache]) == 4
    err = capsys.readouterr().err
    assert "the last that was frozen" in err and "--layer conv_pw_12_relu" in err
    images = sorted((root / "photos" / "test").glob("*/*"))[:3]
    recorded = {
        name: run_of(root, ids[name]).predictions("test") for name in ("views", "end-to-end")
    }
    for name, before in recorded.items():
        found = printed(capsys, "predict", ids[name], *images, *cache)
        assert found["counts"]["from_feature_sets"] == 3
        for image, row in zip(images, found["images"], strict=True):
            at = [str(each).endswith(image.name) for each in before.sample_ids].index(True)
            given = [row["probabilities"][each] for each in found["classes"]]
            assert given == pytest.approx(before.probabilities[at].tolist(), abs=1e-4)


def run_of(root, run_id):
    return next(each for each in read_runs(root / "cache").runs if each.id == run_id)


def test_curves_and_roc_of_every_path_are_drawn(ids, cache, tmp_path):
    for kind in ("curves", "roc"):
        file = tmp_path / f"{kind}.svg"
        assert run(["plot", kind, *ids.values(), str(file), *cache]) == 0
        content = file.read_text()
        assert all(label in content for label in LABELS)
