"""`fs compare` as it is typed."""

import json
import subprocess
import sys

import pytest

import featurestore as fs
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder
from featurestore.training.runs import find_run, read_runs
from featurestore_cli.main import run

HEADS = "logistic,logistic:c=0.01"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A cache with two feature sets; on the first, two runs."""
    root = tmp_path_factory.mktemp("compare")
    for name in ("photos", "others"):
        write_image_folder(root / name, splits={"train": 8, "validation": 4, "test": 6})
    next((root / "others" / "test" / "cats").iterdir()).unlink()
    for name in ("photos", "others"):
        fs.embed(root / name, fs.EmbedSettings(), cache=root / "cache", choose=TinyChoice)
    return root


@pytest.fixture
def cache(root):
    return ["--cache", str(root / "cache")]


@pytest.fixture
def ids(root, cache, capsys):
    assert run(["compare", "photos", "--heads", HEADS, "--json", *cache]) == 0
    printed = json.loads(capsys.readouterr().out)
    return [each["runs"][0]["run"] for each in printed["contenders"]]


def test_heads_are_trained_once_and_compared(root, cache, capsys):
    arguments = ["compare", "photos", "--heads", HEADS, "--seeds", "2", *cache]
    assert run(arguments) == 0
    capsys.readouterr()
    before = len(read_runs(root / "cache").runs)
    assert run([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "2 of 2 runs are there already" in err
    assert len(read_runs(root / "cache").runs) == before
    printed = json.loads(out)
    assert [each["label"] for each in printed["contenders"]] == ["logistic", "logistic:c=0.01"]
    assert printed["images"] == 12 and printed["split"] == "test"
    (first, second) = printed["contenders"]
    assert set(first["metrics"]) == {
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "roc_auc",
        "log_loss",
        "expected_calibration_error",
    }
    low, high = first["metrics"]["log_loss"]["interval"]
    assert low < first["metrics"]["log_loss"]["value"] < high
    assert second["settings"]["c"] == 0.01
    assert second["runs"][0]["run"] == find_run(second["runs"][0]["run"], cache=root / "cache").id
    (pair,) = printed["pairs"]
    assert pair["sentence"] and 0 <= pair["p_value"] <= pair["adjusted_p"] <= 1


def test_of_many_pairs_those_that_are_not_told_apart_are_counted(cache, capsys):
    # Of twelve images even all against half gives no p below 0.05 times 1/10.
    heads = ["--heads", "logistic,logistic:c=0.01,logistic:c=0.1,logistic:c=1,logistic:c=10"]
    arguments = ["compare", "photos", *heads, *cache]
    assert run(arguments) == 0
    assert "the 10 pairs are not told apart; --all-pairs prints them" in capsys.readouterr().out
    assert run([*arguments, "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert len(pairs) == 10
    assert run([*arguments, "--all-pairs"]) == 0
    out = capsys.readouterr().out
    assert all(pair["sentence"] in out for pair in pairs) and "--all-pairs" not in out


def test_runs_by_the_start_of_their_ids(ids, cache, capsys):
    capsys.readouterr()
    assert run(["compare", ids[0], ids[1], "--split", "validation", *cache]) == 0
    out, err = capsys.readouterr()
    assert "8 validation images, 2 classes" in out
    assert "logistic and logistic:c=0.01 are not distinguishable on 8 images" in out
    assert err == (
        "note: balanced accuracy, macro F1 and ROC AUC have no interval: "
        "4 images of cats cannot tell their error\n"
    )
    assert max(map(len, out.splitlines()[:7])) <= 120


def test_what_runs_note_of_themselves_is_said_once(ids, cache, capsys):
    arguments = ["photos", "--head", "logistic", "--max-iter", "1", "--json", *cache]
    unfinished = []
    for c in ("1", "2"):
        assert run(["train", *arguments, "--C", c]) == 0
        unfinished.append(json.loads(capsys.readouterr().out)["run"])
    assert run(["compare", *unfinished, ids[0], "--json", *cache]) == 0
    out, err = capsys.readouterr()
    notes = json.loads(out)["notes"]
    assert all(f"note: {note}" in err for note in notes)
    said = [note for note in notes if "did not converge" in note]
    assert said and all(note.startswith("logistic:c=") for note in said)


def test_one_run_says_how_it_stands_against_chance(ids, cache, capsys):
    assert run(["compare", ids[0], *cache]) == 0
    assert "chance on 12 images" in capsys.readouterr().out


def test_runs_of_other_features_are_refused(ids, cache, capsys):
    assert run(["train", "others", "--head", "logistic", "--json", *cache]) == 0
    other = json.loads(capsys.readouterr().out)["run"]
    assert run(["compare", ids[0], other, *cache]) == 6
    out, err = capsys.readouterr()
    assert out == ""
    assert "manifest_fingerprint is " in err and "next: " in err


def test_a_feature_set_without_heads_means_all_runs_on_it(root, ids, cache, capsys):
    assert run(["train", "photos", "--head", "logistic", "--shuffle-labels", "--json", *cache]) == 0
    control = json.loads(capsys.readouterr().out)["run"]
    for name in ("photos", "photos/tiny"):
        assert run(["compare", name, "--json", *cache]) == 0
        out, err = capsys.readouterr()
        found = [
            each["run"] for contender in json.loads(out)["contenders"] for each in contender["runs"]
        ]
        assert {*ids} <= {*found} and control not in found
        assert f"comparing all runs on {name}: " in err
        on_photos = {
            each.id
            for each in read_runs(root / "cache").runs
            if each.features.name.startswith("photos/")
        }
        assert {*found} <= on_photos


def test_a_feature_set_without_runs_says_what_to_do(tmp_path, capsys):
    images = write_image_folder(tmp_path / "birds", splits={"train": 2, "test": 2})
    for name in ("birds", "bats"):
        settings = fs.EmbedSettings(name=name)
        fs.embed(tmp_path / "birds", settings, cache=tmp_path / "cache", choose=TinyChoice)
        images.pop().unlink()
    cache = ["--cache", str(tmp_path / "cache")]
    assert run(["compare", "birds", *cache]) == 3
    err = capsys.readouterr().err
    assert "there is no run on feature set birds/tiny" in err and "--heads dense,logistic" in err
    for name in ("birds", "bats"):
        assert run(["train", name, "--head", "nearest-centroid", *cache]) == 0
    capsys.readouterr()
    assert run(["compare", "b", *cache]) == 3  # the start of both
    err = capsys.readouterr().err
    assert (
        "runs on 2 feature sets, which cannot be compared: b" in err and "next: fs compare b" in err
    )


def test_dry_run_trains_nothing(root, cache, capsys):
    before = len(read_runs(root / "cache").runs)
    arguments = ["compare", "photos", "--heads", "logistic:c=5,dense:units=4", "--dry-run", *cache]
    assert run(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        "logistic:c=5 would be trained",
        "dense:units=4, seed 0 would be trained",
        "dense:units=4, seed 1 would be trained",
        "dense:units=4, seed 2 would be trained",
    ]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][1]["run"] is None
    assert len(read_runs(root / "cache").runs) == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "RUN"),
        (["photos", "others", "--heads", "logistic"], 2, "expected one feature set"),
        (["photos", "--seeds", "2"], 2, "--seeds: for --heads"),
        (["photos", "--memory", "1GiB", "--dry-run"], 2, "--memory, --dry-run: for --heads"),
        (["photos", "--heads", "logistic", "--images", "."], 2, "--images: it is for --report"),
        (["photos", "--heads", "logistik"], 3, "did you mean logistic"),
        (["photos", "--heads", "logistic", "--plot", "x.gif"], 3, "x.gif"),
        (["nothing"], 4, "no run 'nothing'"),
        (["nothing", "--heads", "logistic"], 4, "no feature set 'nothing'"),
    ],
)
def test_what_is_refused(arguments, code, said, cache, capsys):
    assert run(["compare", *arguments, *cache]) == code
    out, err = capsys.readouterr()
    assert said in " ".join(err.split())
    assert out == ""


def test_pictures_and_report(root, ids, cache, tmp_path, capsys):
    plot, report = tmp_path / "plot.svg", tmp_path / "report.html"
    assert run(["compare", *ids, "--plot", str(plot), "--report", str(report), *cache]) == 0
    assert f"wrote {plot}" in capsys.readouterr().err
    assert b"<svg" in plot.read_bytes()
    assert "logistic:c=0.01" in report.read_text(encoding="utf-8")


def test_comparing_what_is_there_loads_neither_tensorflow_nor_matplotlib(ids, cache):
    code = (
        "import sys; from featurestore_cli.main import run; "
        f"assert run({['compare', 'photos', '--heads', HEADS, *cache]!r}) == 0; "
        "print([m for m in ('tensorflow', 'keras', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "[]"
