"""`fs export-model` as it is typed, on a real small network with random weights."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from featurestore.errors import FeatureStoreError
from featurestore.shipping import formats, ship
from featurestore.shipping.samples import Samples
from featurestore.testing.faults import count_operations, fail_operation
from featurestore.testing.images import encode, photograph, write_image_folder
from featurestore.training.runs import find_run
from featurestore_cli.main import run

EMBED = ["--backbone", "mobilenet", "--size", "32", "--weights", "random:0", "--pooling", "avg"]
NAMES = {"keras": "cats.keras", "savedmodel": "cats", "onnx": "cats.onnx"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of photographs, and a cache with their features and a run of each head."""
    root = tmp_path_factory.mktemp("shipping")
    write_image_folder(root / "photos", splits={"train": 12, "validation": 4, "test": 4})
    # As macOS writes it: the sample's id has the letter composed, the file's name does not.
    decomposed = root / "photos" / "train" / "cats" / "cafe\u0301.png"
    decomposed.write_bytes(encode(photograph(0, index=99), "PNG"))
    cache = ["--cache", str(root / "cache")]
    assert run(["embed", str(root / "photos"), *EMBED, "--precision", "float32", *cache]) == 0
    assert run(["train", "photos", "--head", "logistic", *cache]) == 0
    assert run(["train", "photos", "--head", "dense", "--epochs", "2", *cache]) == 0
    assert run(["train", "photos", "--head", "knn", *cache]) == 0
    return root


@pytest.fixture
def cache(made):
    return ["--cache", str(made / "cache")]


@pytest.fixture(scope="module")
def shipped(made, tmp_path_factory):
    """One model of each format, with what the command printed."""
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("models")
    head = {"keras": "dense", "savedmodel": "logistic", "onnx": "dense"}
    for kind, name in NAMES.items():
        arguments = ["export-model", head[kind], str(folder / name)]
        assert run([*arguments, "--cache", str(made / "cache")]) == 0
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_json_is_one_object_and_the_check_is_in_it(cache, tmp_path, capsys):
    path = tmp_path / "new folder" / "model.keras"
    assert run(["export-model", "logistic", str(path), "--check", "9", "--json", *cache]) == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert printed["run"].startswith("logistic-photos-")
    assert (printed["path"], printed["format"]) == (str(path), "keras")
    assert printed["bytes"] == path.stat().st_size
    check = printed["check"]
    assert check["images"] == 9
    assert check["largest_difference"] <= 1e-4
    assert check["conversion_difference"] <= 1e-4
    assert check["classes_differ"] == 0
    assert check["tolerance"] == 1e-3
    assert err == ""
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "model.keras",
        "model.keras.json",
        "model.keras.md",
    ]


@pytest.mark.parametrize("kind", NAMES)
def test_description_says_what_the_files_are(shipped, made, kind):
    name = NAMES[kind]
    told = json.loads((shipped / f"{name}.json").read_text(encoding="utf-8"))
    found = {
        path: digest
        for path, digest in contents(shipped).items()
        if path == name or path.startswith(f"{name}/")
    }
    assert found and told["files"] == found
    assert told["format"] == kind
    assert told["input"]["shape"] == [None, 32, 32, 3]
    assert told["output"]["class_names"] == ["cats", "dogs"]
    assert told["decoding"]["interpolation"] == "bilinear"
    assert told["made_of"]["recipe"]["backbone"] == "mobilenet"
    assert told["made_of"]["weights"] == "random:0"
    assert told["check"]["images"] == 41  # all there are, where 100 were asked for
    trained = find_run(told["made_of"]["run"], cache=made / "cache")
    assert told["made_of"]["feature_set_fingerprint"] == trained.features.fingerprint
    text = (shipped / f"{name}.md").read_text(encoding="utf-8")
    assert told["example"] in text
    for fact in ("Columns: `cats`, `dogs`", "(N, 32, 32, 3)", "EXIF", "bilinear", trained.id):
        assert fact in text


@pytest.mark.parametrize("kind", NAMES)
def test_example_runs_where_this_package_is_not(shipped, made, kind, tmp_path):
    told = json.loads((shipped / f"{NAMES[kind]}.json").read_text(encoding="utf-8"))
    for path in shipped.glob(f"{NAMES[kind]}*"):
        (tmp_path / path.name).symlink_to(path)
    photograph = made / "photos" / "test" / "dogs" / "dogs.16.jpg"
    shutil.copyfile(photograph, tmp_path / "photo.jpg")
    hidden = "import sys; sys.modules['featurestore'] = None\n"  # importing it raises
    done = subprocess.run(
        [sys.executable, "-c", hidden + told["example"]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.replace("'", '"'))
    recorded = find_run(told["made_of"]["run"], cache=made / "cache").predictions("test")
    row = recorded.sample_ids.tolist().index("test/dogs/dogs.16.jpg")
    assert list(printed) == ["cats", "dogs"]
    np.testing.assert_allclose(list(printed.values()), recorded.probabilities[row], atol=1e-4)


def test_beyond_the_tolerance_nothing_is_left(cache, tmp_path, capsys, monkeypatch):
    read = formats.read_model

    def shifted(path, *, model_format):
        predict = read(path, model_format=model_format)
        return lambda images: predict(images) + np.array([0.004, -0.004], np.float32)

    monkeypatch.setattr(formats, "read_model", shifted)
    arguments = ["export-model", "logistic", str(tmp_path / "out" / "model.keras"), *cache]
    assert run(arguments) == 5
    assert list((tmp_path / "out").iterdir()) == []
    assert "expected at most 0.001" in capsys.readouterr().err
    assert run([*arguments, "--tolerance", "0.01"]) == 0


@pytest.mark.parametrize("kind", ["keras", "savedmodel"])
def test_a_disk_that_fails_anywhere_leaves_a_whole_model_or_none(
    shipped, cache, tmp_path, monkeypatch, kind
):
    # What is written is at hand already: building it for every operation would take minutes.
    def copy(model, building, kind, run):
        copying = shutil.copytree if kind == "savedmodel" else shutil.copyfile
        copying(shipped / NAMES[kind], building)

    monkeypatch.setattr(ship, "_assemble", lambda *arguments, **named: (None, None))
    monkeypatch.setattr(ship, "_write", copy)
    folder = tmp_path / "out"
    arguments = ["export-model", "logistic", str(folder / NAMES[kind]), "--no-check", *cache]
    operations = count_operations(lambda: run(arguments))
    whole = model_files(folder)
    replacing = count_operations(lambda: run([*arguments, "--overwrite"]))
    for k in range(max(operations, replacing)):
        with fail_operation(k, lasting=False) as log:
            code = run([*arguments, "--overwrite"])
        assert code == (6 if log.failed else 0)
        assert model_files(folder) == whole  # the old one: here both have the same bytes
        shutil.rmtree(folder)
        with fail_operation(k, lasting=False) as log:
            code = run(arguments)
        assert code == (6 if log.failed else 0)
        assert bool(contents(folder)) is not log.failed
        assert run([*arguments, "--overwrite"]) == 0


def model_files(folder):
    found = contents(folder)
    return {path: digest for path, digest in found.items() if not path.endswith((".json", ".md"))}


def test_nothing_is_replaced_unasked(cache, tmp_path, capsys):
    arguments = ["export-model", "logistic", str(tmp_path / "model.keras"), "--no-check", *cache]
    assert run(arguments) == 0
    before = contents(tmp_path)
    assert run(arguments) == 6
    assert "--overwrite" in capsys.readouterr().err
    assert contents(tmp_path) == before
    assert run([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize("ending", ["", ".json", ".md"])
def test_what_came_while_it_was_written_is_not_replaced(cache, tmp_path, monkeypatch, ending):
    path = tmp_path / "model.keras"
    write = ship._write

    def slowly(*arguments):
        write(*arguments)
        path.with_name(path.name + ending).write_text("somebody else's")

    monkeypatch.setattr(ship, "_write", slowly)
    assert run(["export-model", "logistic", str(path), "--no-check", *cache]) == 6
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "somebody else's"


def test_overwrite_does_not_replace_a_folder_that_came_meanwhile(cache, tmp_path, monkeypatch):
    path = tmp_path / "model"
    write = ship._write

    def slowly(*arguments):
        write(*arguments)
        path.mkdir()
        (path / "thesis.txt").write_text("years of work")

    monkeypatch.setattr(ship, "_write", slowly)
    arguments = ["export-model", "logistic", str(path), "--overwrite", "--no-check", *cache]
    assert run(arguments) == 6
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
    assert (path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["folder", "folder.savedmodel", "folder.keras", "folder.onnx"])
def test_overwrite_never_empties_another_folder(cache, tmp_path, name, capsys):
    pytest.importorskip("onnxruntime")
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    arguments = ["export-model", "logistic", str(tmp_path / name), "--overwrite", "--no-check"]
    assert run([*arguments, *cache]) == 6
    assert "is not replaced" in capsys.readouterr().err
    assert (tmp_path / name / "thesis.txt").read_text() == "years of work"


def test_unchecked_only_when_asked_for(made, cache, tmp_path, capsys):
    arguments = ["export-model", "logistic", str(tmp_path / "model.keras"), *cache]
    assert run([*arguments, "--photographs", str(tmp_path / "nowhere")]) == 4
    assert "--no-check" in capsys.readouterr().err
    assert run([*arguments, "--no-check", "--check", "5"]) == 2
    assert run([*arguments, "--no-check", "--tolerance", "0.5"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert run([*arguments, "--no-check"]) == 0
    assert "was not run" in capsys.readouterr().err
    told = json.loads((tmp_path / "model.keras.json").read_text())
    assert told["check"] is None
    assert "Not checked" in (tmp_path / "model.keras.md").read_text()


def test_weights_named_and_unchecked_need_no_feature_set(made, tmp_path, capsys):
    lonely = tmp_path / "lonely"
    shutil.copytree(made / "cache" / "runs", lonely / "runs")
    arguments = ["export-model", "logistic", str(tmp_path / "m.keras"), "--cache", str(lonely)]
    assert run(arguments) == 4
    assert "--weights" in capsys.readouterr().err
    assert run([*arguments, "--weights", "random:0", "--no-check"]) == 0


def test_other_weights_are_refused(cache, tmp_path, capsys):
    arguments = ["export-model", "logistic", str(tmp_path / "m.keras"), "--no-check", *cache]
    assert run([*arguments, "--weights", "random:1"]) == 6
    assert "expected digest" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["logistic", "model.h5"], 3, ".keras, .onnx, or .savedmodel"),
        (["logistic", "v1.2"], 3, "found .2"),
        (["knn", "model.keras"], 3, "knn cannot become layers"),
        (["nothing", "model.keras"], 4, "no run 'nothing'"),
        (["logistic", "model.keras", "--tolerance", "2"], 2, "--tolerance"),
    ],
)
def test_refusals(cache, tmp_path, monkeypatch, capsys, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    assert run(["export-model", *arguments, *cache]) == code
    assert said in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["tf2onnx", "onnxruntime"])
def test_onnx_without_its_packages(cache, tmp_path, capsys, monkeypatch, package):
    pytest.importorskip("tf2onnx")
    monkeypatch.setitem(sys.modules, package, None)
    assert run(["export-model", "logistic", str(tmp_path / "model.onnx"), *cache]) == 7
    said = capsys.readouterr().err
    assert package in said
    assert "pip install 'featurestore[onnx]'" in said


class TestSamples:
    """The images that a model is checked on."""

    @pytest.fixture
    def found(self, made):
        return find_run("logistic", cache=made / "cache")

    @pytest.fixture
    def record(self, made):
        from featurestore.catalogue import Catalogue

        return Catalogue(made / "cache").find("photos")

    def test_they_come_from_every_split_and_are_always_the_same(self, found, record):
        first = [expected for _, expected in Samples(found, record, count=30).batches()]
        again = [expected for _, expected in Samples(found, record, count=30).batches()]
        assert sum(map(len, first)) == 30
        np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
        rows = {split: {p.tobytes() for p in found.predictions(split).probabilities}
                for split in found.features.rows}  # fmt: skip
        drawn = {row.tobytes() for row in np.concatenate(first)}
        assert all(drawn & part for part in rows.values())

    def test_no_more_than_there_are(self, found, record):
        assert len(Samples(found, record, count=1000)) == 41

    def test_moved_photographs_are_found(self, made, found, record, tmp_path):
        shutil.copytree(made / "photos", tmp_path / "moved")
        samples = Samples(found, record, count=41, photographs=tmp_path / "moved")
        assert sum(len(images) for images, _ in samples.batches()) == 41

    @pytest.mark.parametrize("damage", ["changed", "gone"])
    def test_another_photograph_is_no_stand_in(self, made, found, record, tmp_path, damage):
        shutil.copytree(made / "photos", tmp_path / "moved")
        path = tmp_path / "moved" / "test" / "cats" / "cats.16.jpg"
        if damage == "changed":
            shutil.copyfile(path.with_name("cats.17.jpg"), path)
        else:
            path.unlink()
        samples = Samples(found, record, count=41, photographs=tmp_path / "moved")
        expected = (
            "has changed since it was embedded" if damage == "changed" else "the file is gone"
        )
        with pytest.raises(FeatureStoreError, match=rf"cats\.16\.jpg: .*{expected}"):
            list(samples.batches())
