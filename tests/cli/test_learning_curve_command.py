"""`fs learning-curve` as it is typed."""

import json

import pytest

import featurestore as fs
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder
from featurestore_cli.main import run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("curve")
    write_image_folder(root / "photos", splits={"train": 20, "validation": 8, "test": 6})
    fs.embed(root / "photos", fs.EmbedSettings(), cache=root / "cache", choose=TinyChoice)
    return root


@pytest.fixture
def command(root):
    return ["learning-curve", "photos", "--cache", str(root / "cache")]


def test_it_prints_a_table_and_a_sentence(command, capsys):
    assert run([*command, "--heads", "logistic", "--sizes", "4,40", "--seeds", "2"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("photos/tiny-") and lines[0].endswith("on 16 validation images")
    assert lines[1].split() == ["head", "labels", "accuracy", "95", "%", "by", "seed"]
    assert [line.split()[:2] for line in lines[2:4]] == [["logistic", "4"], ["logistic", "40"]]
    assert lines[4] == "always answering the most frequent class: 0.500"
    assert lines[5].startswith("logistic: accuracy ") and "with all 40 labels" in lines[5]
    assert captured.err == ""


def test_json_is_the_curve_and_all_rows_score_as_a_run_does(command, root, capsys):
    assert run([*command, "--heads", "logistic,logistic:c=1", "--seeds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["split"], found["rows"]) == ("validation", 16)
    assert [curve["label"] for curve in found["curves"]] == ["logistic", "logistic:c=1"]
    last = found["curves"][0]["points"][-1]
    assert last["labels"] == 40 and len(last["by_seed"]) == 2
    assert set(last["accuracy"]["interval"]) == {"low", "high"}
    assert (
        run(["train", "photos", "--head", "logistic", "--cache", str(root / "cache"), "--json"])
        == 0
    )
    trained = json.loads(capsys.readouterr().out)
    assert last["accuracy"]["value"] == pytest.approx(trained["metrics"]["validation"]["accuracy"])


def test_the_test_split_is_used_only_where_asked_and_said(command, capsys):
    assert run([*command, "--heads", "logistic", "--sizes", "10", "--split", "test"]) == 0
    captured = capsys.readouterr()
    assert "on 12 test images" in captured.out
    assert "chosen on the test split" in captured.err


def test_it_draws(command, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "curve.png"
    arguments = ["--heads", "logistic", "--sizes", "4,10,40", "--plot", str(path)]
    assert run([*command, *arguments]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"wrote {path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--heads", "logistic", "--sizes", "ten"], 2, "such as 20,50,100"),
        (["--heads", "logistic", "--sizes", "1"], 3, "from 2"),
        (["--heads", "logistik"], 3, "did you mean logistic"),
        (["--heads", "logistic", "--split", "train"], 2, "train"),
        (["--heads", "logistic", "--sizes", "10", "--plot", "curve.doc"], 3, ".png"),
    ],
)
def test_mistakes_are_told_before_anything_is_fitted(command, arguments, code, message, capsys):
    assert run([*command, *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
