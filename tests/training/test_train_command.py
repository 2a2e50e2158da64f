"""`fs train`: what it prints, where, and what it refuses."""

import contextlib
import json

import pytest

from featurestore.errors import NotFound
from featurestore.testing.heads import MemoryFeatures, blobs
from featurestore.training.runs import read_runs
from featurestore.training.settings import LogisticSettings
from featurestore_cli import train as command
from featurestore_cli.dataset_argument import Meant
from featurestore_cli.main import run

LOGISTIC = ["train", "blobs", "--head", "logistic"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    rows = {"train": blobs(40, n_classes=2), "test": blobs(30, n_classes=2, seed=2)}

    def meant_by(name, *, cache, with_views):
        if name != "blobs":
            raise NotFound(f"no feature set {name!r} in cache {cache}", next_step="fs ls")
        return Meant(name)

    @contextlib.contextmanager
    def open_record(record):
        yield MemoryFeatures(rows, ("cats", "dogs"))

    monkeypatch.setattr(command, "meant_by", meant_by)
    monkeypatch.setattr(command, "open_record", open_record)
    monkeypatch.setenv("FS_CACHE", str(tmp_path))
    return tmp_path


def test_json_is_one_object_on_stdout(cache, capsys):
    assert run([*LOGISTIC, "--json", "--C", "7", "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    (written,) = read_runs(cache).runs
    assert printed["run"] == written.id
    assert printed["feature_set"] == "blobs/vgg16-150-block5_pool-fp32-w000000"
    assert printed["fingerprint"] == "f" * 64
    assert printed["head"] == "logistic"
    assert printed["settings"] == LogisticSettings(c=7.0).to_dict()
    assert printed["seed"] == written.seed == 3
    assert set(printed["metrics"]) == {"train", "validation", "test"}
    assert printed["metrics"]["validation"] is None
    assert 0 <= printed["metrics"]["test"]["accuracy"] <= 1
    assert printed["fit_seconds"] > 0
    assert "note: feature set blobs" in err


def test_table_for_people(cache, capsys):
    assert run(["train", "blobs", "--head", "dense", "--units", "8", "--epochs", "2"]) == 0
    out, err = capsys.readouterr()
    (written,) = read_runs(cache).runs
    assert out.startswith(written.id)
    lines = [line.split() for line in out.splitlines()]
    assert [line[:2] for line in lines if line and line[0] in ("train", "validation", "test")] == [
        ["train", "40"],
        ["test", "30"],
    ]
    assert "next: fs train blobs/vgg16-150-block5_pool-fp32-w000000 --head logistic" in err
    assert "\x1b" not in out + err and "\r" not in out + err


def test_option_of_another_head_is_a_usage_error(cache, capsys):
    assert run([*LOGISTIC, "--batch-size", "5", "--dropout", "0.1", "--raw"]) == 2
    out, err = capsys.readouterr()
    assert "--batch-size, --dropout, --raw: not an option of --head logistic" in " ".join(
        err.split()
    )
    assert out == ""
    assert read_runs(cache).runs == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tune", "--C", "5"], "--C: not together with --tune"),
        (["--folds", "3"], "--folds: only with --tune"),
    ],
)
def test_option_that_would_do_nothing_is_a_usage_error(options, message, cache, capsys):
    assert run([*LOGISTIC, *options]) == 2
    assert message in capsys.readouterr().err
    assert read_runs(cache).runs == []


def test_tuned_c_is_printed_and_recorded(cache, capsys):
    assert (
        run([*LOGISTIC, "--tune", "--folds", "3", "--standardise", "--class-weight", "balanced"])
        == 0
    )
    out, _ = capsys.readouterr()
    (written,) = read_runs(cache).runs
    assert written.chosen["folds"] == 3
    assert len(written.chosen["grid"]) == len(written.chosen["log_loss"]) == 10
    assert f"c {written.chosen['c']:g}, folds 3" in out
    assert written.settings.standardise and written.settings.class_weight == "balanced"


def test_settings_of_every_kind_of_head(cache, capsys):
    for head, given, expected in (
        ("linear-svm", ["--C", "2", "--folds", "3"], {"c": 2.0, "folds": 3}),
        ("knn", ["--neighbors", "3", "--neighbor-weights", "distance"], {"neighbors": 3}),
        ("random-forest", ["--trees", "5", "--max-depth", "2"], {"trees": 5, "max_depth": 2}),
        ("gradient-boosting", ["--trees", "5", "--max-bins", "9"], {"trees": 5, "max_bins": 9}),
        ("nearest-centroid", [], {}),
        ("sgd", ["--epochs", "2", "--learning-rate", "1"], {"epochs": 2, "learning_rate": 1.0}),
    ):
        assert run(["train", "blobs", "--head", head, *given]) == 0
        (written,) = (found for found in read_runs(cache).runs if found.head == head)
        assert expected.items() <= written.settings.to_dict().items()
        assert written.load_head().n_classes_ == 2
    capsys.readouterr()


def test_any_classifier_of_scikit_learn(cache, capsys):
    head = "sklearn.tree.DecisionTreeClassifier"
    assert run(["train", "blobs", "--head", head, "--params", '{"max_depth": 2}', "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (written,) = read_runs(cache).runs
    assert printed["head"] == written.head == head
    assert printed["settings"] == {"estimator": head, "parameters": {"max_depth": 2}}
    assert printed["run"].startswith(f"{head}-blobs-")
    assert written.load_head().model_.get_params()["max_depth"] == 2


def test_settings_of_a_class_stand_in_params(cache, capsys):
    tree = ["train", "blobs", "--head", "sklearn.tree.DecisionTreeClassifier"]
    assert run([*tree, "--max-depth", "2"]) == 2
    assert "takes its parameters in --params" in " ".join(capsys.readouterr().err.split())
    assert run([*LOGISTIC, "--params", "{}"]) == 2
    assert read_runs(cache).runs == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", "blobs"], 2),
        (["train", "blobs", "--head", "forest"], 2),
        (["train", "blobs", "--head", "sklearn.tree.DecisionTreeClassifier", "--params", "{"], 2),
        (["train", "blobs", "--head", "sklearn.tree.DecisionTreeClassifier", "--params", "1"], 3),
        (["train", "blobs", "--head", "sklearn.tree.DecisionTree"], 3),
        (["train", "blobs", "--head", "os.system"], 2),
        ([*LOGISTIC, "--C", "-1"], 3),
        (["train", "blobs", "--head", "dense", "--dropout", "1"], 3),
        (["train", "nothing", "--head", "logistic"], 4),
    ],
)
def test_exit_codes(arguments, code, capsys):
    assert run(arguments) == code
    assert capsys.readouterr().err


def test_unconverged_fit_is_said_once(capsys, recwarn):
    assert run([*LOGISTIC, "--max-iter", "1"]) == 0
    assert capsys.readouterr().err.count("did not converge") == 1
    assert not [warning for warning in recwarn if "converge" in str(warning.message)]
