"""`fs predict` and `fs evaluate` as they are typed, on a real small network with random weights."""

import csv
import errno
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import featurestore as fs
from featurestore.digests import sha256_file
from featurestore.features import open_features
from featurestore.online import ONLINE
from featurestore.stores import durable
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore.training.prediction_table import PredictionTable
from featurestore.training.runs import load_run
from featurestore.training.settings import LogisticSettings
from featurestore.training.train import TrainOptions, train
from featurestore_cli.main import run

SETTINGS = fs.EmbedSettings(backbone="mobilenet", size=(32, 32), weights="random:0", pooling="avg")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photographs, a cache with their features, and one run; the tests only read them."""
    root = tmp_path_factory.mktemp("predict")
    write_image_folder(root / "photos", splits={"train": 12, "validation": 4, "test": 4})
    fs.embed(root / "photos", SETTINGS, cache=root / "cache")
    with open_features("photos", cache=root / "cache") as features:
        trained = train(features, LogisticSettings(), cache=root / "cache")
    trained.path.rename(root / "cache" / "runs" / "first")
    for index in range(6):
        path = root / "new" / ("cats", "dogs")[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photograph(index % 2, index=700 + index)))
    return root


@pytest.fixture
def copy(made, tmp_path):
    """The same, to be changed."""
    for name in ("photos", "cache", "new"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def predict(root, *arguments, expect=0):
    assert run(["predict", "first", *map(str, arguments), "--cache", str(root / "cache")]) == expect


def rows_of(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_known_images_get_the_recorded_probabilities(made, capsys):
    capsys.readouterr()
    predict(made, made / "photos" / "test")
    rows = rows_of(capsys)
    recorded = load_run(made / "cache" / "runs" / "first").predictions("test")
    assert [row["path"] for row in rows] == [
        str(made / "photos" / sample_id) for sample_id in recorded.sample_ids
    ]
    found = np.array([[row["cats"], row["dogs"]] for row in rows], np.float32)
    np.testing.assert_allclose(found, recorded.probabilities, atol=1e-6)
    assert [row["predicted"] for row in rows] == [
        ("cats", "dogs")[label] for label in found.argmax(axis=1)
    ]
    assert all(len(row["sha256"]) == 64 and row["reason"] == "" for row in rows)


def test_json_holds_the_same_with_counts(made, capsys):
    capsys.readouterr()
    predict(made, made / "photos" / "test")
    rows = rows_of(capsys)
    predict(made, made / "photos" / "test", "--json")
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["run"], found["classes"]) == ("first", ["cats", "dogs"])
    assert found["counts"] == {
        "from_feature_sets": 8, "from_online_cache": 0, "computed": 0, "unreadable": 0,
    }  # fmt: skip
    for row, image in zip(rows, found["images"], strict=True):
        assert image["probabilities"] == {name: float(row[name]) for name in ("cats", "dogs")}
        assert all(image[name] == row[name] for name in ("path", "sha256", "predicted"))
        assert image["reason"] is None
    assert "8 images: 8 from feature sets" in captured.err


def in_fresh_process(*arguments):
    code = (
        "import sys\nfrom featurestore_cli.main import run\n"
        f"code = run({list(map(str, arguments))!r})\n"
        "heavy = [m for m in ('tensorflow', 'keras', 'matplotlib', 'statsmodels') "
        "if m in sys.modules]\n"
        "print(heavy, file=sys.stderr)\nsys.exit(code)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found


def test_misses_equal_what_embed_stores_then_need_no_network(copy, capsys):
    """New bytes are computed once; a second call needs neither TensorFlow nor weights."""
    arguments = ["predict", "first", copy / "new", "--json", "--cache", copy / "cache"]
    capsys.readouterr()
    assert run([*map(str, arguments), "--batch-size", "4"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["counts"]["computed"] == 6
    again = in_fresh_process(*arguments)
    assert again.stderr.splitlines()[-1] == "[]"
    second = json.loads(again.stdout)
    assert second["counts"]["from_online_cache"] == 6
    assert second["images"] == first["images"]
    # Embedded as a dataset, the same bytes have the same features and so the same probabilities.
    split = fs.EmbedSettings(**{**vars(SETTINGS), "split": "0.5,0,0.5", "name": "again"})
    fs.embed(copy / "new", split, cache=copy / "cache")
    (copy / "cache" / ONLINE).unlink()
    third = json.loads(in_fresh_process(*arguments).stdout)
    assert third["counts"]["from_feature_sets"] == 6
    assert third["images"] == first["images"]


def test_order_is_that_given_and_folders_are_sorted(made, capsys):
    photos = made / "photos"
    (cat, *_), (dog, *_) = (sorted((photos / "test" / name).iterdir()) for name in ("cats", "dogs"))
    capsys.readouterr()
    predict(made, dog, photos / "validation", cat, dog)
    found = [row["path"] for row in rows_of(capsys)]
    within = [str(path) for path in sorted((photos / "validation").rglob("*.*"))]
    assert found == [str(dog), *within, str(cat), str(dog)]


def test_unreadable_images_are_listed_on_stderr_and_in_the_output(copy, capsys):
    folder = copy / "photos" / "test"
    (folder / "cats" / "aaa.jpg").write_bytes(b"")
    (folder / "cats" / "notes.txt").write_text("no image")
    (folder / "cats" / ".hidden").write_text("passed over")
    (folder / "cats" / "zzz.jpg").symlink_to(copy / "nowhere")
    capsys.readouterr()
    predict(copy, folder, "--weights", "random:0", expect=1)
    captured = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    reasons = {row["path"].rpartition("/")[2]: row["reason"] for row in rows if row["reason"]}
    assert reasons["aaa.jpg"] == "empty file"
    assert set(reasons) == {"aaa.jpg", "notes.txt", "zzz.jpg"}
    for row in rows:
        assert bool(row["reason"]) == (row["predicted"] == "") == (row["cats"] == "")
    for name, reason in reasons.items():
        assert f"{name}: {reason}" in captured.err
    assert "3 unreadable" in captured.err
    predict(copy, folder, "--json", expect=1)
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["unreadable"] == 3
    assert [each["probabilities"] is None for each in found["images"]].count(True) == 3


def test_a_file_name_reaches_the_table_as_it_is_and_the_terminal_escaped(copy, capsys):
    path = copy / "new" / "cats" / "\x1b[2J\nforged: line.jpg"
    try:
        path.write_bytes(b"")
    except OSError:
        pytest.skip("this system has no such file names")
    capsys.readouterr()
    predict(copy, path, "--weights", "random:0", expect=1)
    captured = capsys.readouterr()
    assert "\\x1b[2J\\nforged: line.jpg: empty file" in captured.err
    assert "\x1b" not in captured.err
    (row,) = csv.DictReader(io.StringIO(captured.out))
    assert row["path"] == str(path)
    predict(copy, path.with_name("\x1b[2J\nno.jpg"), expect=4)
    assert "\x1b" not in capsys.readouterr().err


def test_a_single_path_that_is_a_broken_link_is_unreadable_and_one_that_is_not_there_an_error(
    made, tmp_path, capsys
):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    predict(made, tmp_path / "link.jpg", expect=1)
    assert "no such file" in capsys.readouterr().out
    predict(made, tmp_path / "nothing.jpg", expect=4)
    assert "nothing.jpg: no such file or folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    predict(made, tmp_path / "empty", expect=4)


def test_wrong_weights_are_refused_and_right_ones_under_another_name_are_not(copy, capsys):
    predict(copy, copy / "new", "--weights", "random:1", expect=6)
    assert "expected digest" in capsys.readouterr().err
    predict(copy, copy / "new", "--weights", "missing.h5", expect=4)
    predict(copy, copy / "new", "--weights", "random:0", "--output", copy / "out.csv")


def test_weights_must_be_named_where_no_set_says_where_they_are(copy, capsys):
    for store in (copy / "cache").glob("photos"):
        shutil.rmtree(store)
    predict(copy, copy / "new", expect=4)
    assert "--weights" in capsys.readouterr().err
    predict(copy, copy / "new", "--weights", "random:0")


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_output_files_are_whole_and_not_replaced_unasked(made, tmp_path, capsys, ending):
    output = tmp_path / "deep" / f"out.{ending}"
    predict(made, made / "photos" / "test", "--output", output)
    assert capsys.readouterr().out == ""
    if ending == "parquet":
        table = pq.read_table(output)
        assert table.column_names == ["path", "sha256", "predicted", "reason", "cats", "dogs"]
        assert (len(table), table["reason"].null_count) == (8, 8)
        sums = np.array(table["cats"]) + np.array(table["dogs"])
        np.testing.assert_allclose(sums, 1, atol=1e-6)
    elif ending == "json":
        assert len(json.loads(output.read_text())["images"]) == 8
    else:
        assert len(output.read_text().splitlines()) == 9
    before = output.read_bytes()
    predict(made, made / "photos" / "test", "--output", output, expect=6)
    assert "--overwrite" in capsys.readouterr().err
    predict(made, made / "photos" / "train", "--output", output, "--overwrite")
    assert output.read_bytes() != before
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize("links", [True, False])
def test_an_output_file_that_appeared_meanwhile_is_kept(copy, capsys, monkeypatch, links):
    output = copy / "out.csv"
    finish = PredictionTable.class_columns.fget

    def meanwhile(table):
        output.write_text("of another process")
        return finish(table)

    def refused(*arguments):
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(PredictionTable, "class_columns", property(meanwhile))
    if not links:
        monkeypatch.setattr(durable, "link", refused)
    predict(copy, copy / "photos" / "test", "--output", output, expect=6)
    assert "exists already" in capsys.readouterr().err
    assert output.read_text() == "of another process"
    assert not list(copy.glob(".tmp-*"))
    predict(copy, copy / "photos" / "test", "--output", output, "--overwrite")
    assert len(output.read_text().splitlines()) == 9
    monkeypatch.setattr(PredictionTable, "class_columns", property(finish))
    predict(copy, copy / "photos" / "test", "--output", copy / "new.csv")
    assert (copy / "new.csv").read_text() == output.read_text()
    assert not list(copy.glob(".tmp-*"))


def test_a_failed_prediction_leaves_the_old_output(copy, capsys):
    output = copy / "out.csv"
    output.write_text("old")
    arguments = ["--weights", "random:1", "--output", output, "--overwrite"]
    predict(copy, copy / "new", *arguments, expect=6)
    assert output.read_text() == "old"
    assert not list(copy.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--output", "out.mat"], 3, ".csv, .json, .parquet"),
        (["--format", "parquet"], 2, "it needs --output"),
        (["--format", "csv", "--json"], 2, "--format csv was given too"),
        (["--overwrite"], 2, "--output"),
        (["--online-bytes", "lots"], 2, "expected a size"),
    ],
)
def test_options_that_do_not_go_together(made, capsys, arguments, code, said):
    predict(made, made / "photos" / "test", *arguments, expect=code)
    assert said in capsys.readouterr().err


def test_a_tampered_model_or_record_is_refused_by_every_command(copy, capsys):
    path = copy / "cache" / "runs" / "first"
    model = path / "model.skops"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    cache = ["--cache", str(copy / "cache")]
    for arguments in (["predict", "first", str(copy / "new")], ["evaluate", "first"]):
        assert run([*arguments, *cache]) == 5
        assert "expected SHA-256" in capsys.readouterr().err
    model.write_bytes(whole)
    probabilities = path / "probabilities-test.npz"
    good = probabilities.read_bytes()
    probabilities.write_bytes(b"x" + good[1:])
    assert run(["evaluate", "first", *cache]) == 5
    assert "probabilities-test.npz" in capsys.readouterr().err
    probabilities.write_bytes(good)
    record = path / "run.json"
    record.write_text(record.read_text().replace('"layer": "', '"layer": "not_'))
    for arguments in (["predict", "first", str(copy / "new")], ["evaluate", "first"]):
        assert run([*arguments, *cache]) == 5
        assert "expected recipe fingerprint" in capsys.readouterr().err


def test_a_class_that_is_called_like_a_column_has_a_column_of_its_own(tmp_path, capsys):
    write_image_folder(tmp_path / "photos", classes=("path", "reason"))
    fs.embed(tmp_path / "photos", SETTINGS, cache=tmp_path / "cache")
    with open_features("photos", cache=tmp_path / "cache") as features:
        trained = train(features, LogisticSettings(), cache=tmp_path / "cache")
    trained.path.rename(trained.path.with_name("first"))
    capsys.readouterr()
    predict(tmp_path, tmp_path / "photos" / "test")
    for row in rows_of(capsys):
        assert row["path"].endswith((".jpg", ".png")) and row["reason"] == ""
        assert float(row["p(path)"]) + float(row["p(reason)"]) == pytest.approx(1)


def evaluate(root, *arguments, expect=0):
    command = ["evaluate", "first", *map(str, arguments), "--cache", str(root / "cache")]
    assert run(command) == expect


def evaluated(root, capsys, *arguments, expect=0):
    capsys.readouterr()
    evaluate(root, *arguments, "--json", expect=expect)
    return json.loads(capsys.readouterr().out)


def test_evaluate_reproduces_what_was_recorded(made, capsys):
    recorded = load_run(made / "cache" / "runs" / "first").metrics
    for split in ("train", "validation", "test"):
        found = evaluated(made, capsys, "--split", split)
        assert found["metrics"] == pytest.approx(recorded[split])
        assert found["reproduction"]["reproduced"] is True
        assert found["reproduction"]["largest_difference"] <= 1e-6
        assert found["trained_on"] == (24 if split == "train" else 0)
    evaluate(made)
    assert "recorded probabilities are reproduced" in capsys.readouterr().out


def recorded_otherwise(root, change):
    """Change the probabilities that the run recorded of its test split, digest included."""
    path = root / "cache" / "runs" / "first"
    with np.load(path / "probabilities-test.npz") as arrays:
        changed = dict(arrays)
    changed["probabilities"] = change(changed["probabilities"])
    np.savez_compressed(path / "probabilities-test.npz", **changed)
    record = json.loads((path / "run.json").read_text())
    record["files"]["probabilities-test.npz"] = sha256_file(path / "probabilities-test.npz")
    (path / "run.json").write_text(json.dumps(record))


def test_evaluate_tells_what_is_not_reproduced(copy, capsys):
    recorded_otherwise(copy, lambda probabilities: probabilities[:, ::-1])
    found = evaluated(copy, capsys, expect=5)["reproduction"]
    assert found["reproduced"] is False and found["changed"] == 8
    evaluate(copy, "--output", copy / "out.csv", expect=5)
    captured = capsys.readouterr()
    assert "NOT reproduced" in captured.out and "fs doctor" in captured.err
    assert (copy / "out.csv").exists()
    evaluate(copy, "--split", "train")


def test_evaluate_allows_for_another_machine_s_rounding(copy, capsys):
    away = np.array([1, -1], np.float32)
    for step, code in ((2e-5, 0), (2e-4, 5)):
        shutil.copytree(copy / "cache", copy / str(code) / "cache")
        recorded_otherwise(copy / str(code), lambda found, step=step: found + step * away)
        reproduction = evaluated(copy / str(code), capsys, expect=code)["reproduction"]
        assert reproduction["reproduced"] == (code == 0)
        assert reproduction["largest_difference"] == pytest.approx(step, rel=0.1)
        assert reproduction["changed"] == 0


def test_evaluate_on_another_dataset_of_the_recipe(copy, capsys):
    # Two new images and two that the run was trained on.
    other = copy / "other" / "test"
    for name in ("cats", "dogs"):
        (other / name).mkdir(parents=True)
        shutil.copyfile(sorted((copy / "photos" / "train" / name).iterdir())[0], other / name / "a")
        shutil.copyfile(sorted((copy / "new" / name).iterdir())[0], other / name / "b")
    fs.embed(copy / "other", SETTINGS, cache=copy / "cache")
    found = evaluated(copy, capsys, "--on", "other")
    assert (found["rows"], found["trained_on"], found["reproduction"]) == (4, 2, None)
    evaluate(copy, "--on", "other")
    assert "was trained on 2 of these 4 images" in capsys.readouterr().err
    shutil.rmtree(copy / "cache" / "photos")
    assert evaluated(copy, capsys, "--on", "other")["trained_on"] is None
    evaluate(copy, expect=4)
    assert "--on" in capsys.readouterr().err


def test_evaluate_refuses_another_recipe_or_other_classes(copy, capsys):
    wider = fs.EmbedSettings(**{**vars(SETTINGS), "pooling": "max"})
    fs.embed(copy / "photos", wider, cache=copy / "cache")
    evaluate(copy, "--on", "photos/mobilenet-32-conv_pw_13_relu-max", expect=6)
    assert "pooling: avg != max" in capsys.readouterr().err
    (copy / "renamed").mkdir()
    for split in ("train", "test"):
        shutil.copytree(copy / "photos" / split, copy / "renamed" / split)
        (copy / "renamed" / split / "dogs").rename(copy / "renamed" / split / "wolves")
    fs.embed(copy / "renamed", SETTINGS, cache=copy / "cache")
    evaluate(copy, "--on", "renamed", expect=6)
    said = capsys.readouterr().err
    assert "only the run has dogs" in said and "only the set has wolves" in said


def test_evaluate_of_a_split_that_is_not_there(made, capsys):
    evaluate(made, "--split", "holdout", expect=4)
    assert "train, validation, test" in capsys.readouterr().err


def test_evaluate_writes_each_sample(made, tmp_path, capsys):
    for ending in ("csv", "json", "parquet"):
        evaluate(made, "--output", tmp_path / f"out.{ending}")
    recorded = load_run(made / "cache" / "runs" / "first").predictions("test")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["sample_id"] for row in rows] == recorded.sample_ids.tolist()
    assert {row["label"] for row in rows} == {"cats", "dogs"}
    found = np.array([[row["cats"], row["dogs"]] for row in rows], np.float32)
    np.testing.assert_allclose(found, recorded.probabilities, atol=1e-6)
    samples = json.loads((tmp_path / "out.json").read_text())
    assert samples["metrics"].keys() >= {"accuracy", "roc_auc"}
    assert [each["sample_id"] for each in samples["samples"]] == [r["sample_id"] for r in rows]
    assert pq.read_table(tmp_path / "out.parquet")["predicted"].to_pylist() == [
        row["predicted"] for row in rows
    ]
    evaluate(made, "--output", tmp_path / "out.csv", expect=6)
    evaluate(made, "--overwrite", expect=2)


def test_a_control_says_so(copy, capsys):
    with open_features("photos", cache=copy / "cache") as features:
        options = TrainOptions(shuffle_labels=True)
        control = train(features, LogisticSettings(), cache=copy / "cache", options=options)
    assert run(["evaluate", control.id, "--cache", str(copy / "cache")]) == 0
    assert "a control" in capsys.readouterr().err
