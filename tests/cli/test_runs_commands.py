"""`fs runs`, `show`, `evaluate` and `rm` as they are typed."""

import json
import shutil

import pytest

import featurestore as fs
from featurestore.catalogue import Catalogue
from featurestore.features import open_features
from featurestore.stores import durable
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder
from featurestore.training.runs import read_runs
from featurestore.training.settings import LogisticSettings
from featurestore.training.train import TrainOptions, train
from featurestore_cli.main import run

FITS = {
    "loose": (LogisticSettings(c=1000.0), TrainOptions(seed=2)),
    "tight": (LogisticSettings(c=1e-6), TrainOptions(seed=1)),
    "control": (LogisticSettings(), TrainOptions(seed=3, shuffle_labels=True)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache with one feature set and three runs, by name; the tests only read it."""
    root = tmp_path_factory.mktemp("runs")
    write_image_folder(root / "photos", splits={"train": 12, "validation": 4, "test": 6})
    fs.embed(root / "photos", fs.EmbedSettings(), cache=root / "cache", choose=TinyChoice)
    with open_features("photos", cache=root / "cache") as features:
        trained = {
            name: train(features, settings, cache=root / "cache", options=options)
            for name, (settings, options) in FITS.items()
        }
    # Told apart by more than the second they were made in.
    for day, found in enumerate(trained.values(), 1):
        edit(found, created=f"2025-01-0{day}T00:00:00+00:00")
    return root / "cache", trained


@pytest.fixture
def cache(made):
    return ["--cache", str(made[0])]


@pytest.fixture
def copy(made, tmp_path):
    """The same cache, to be changed."""
    shutil.copytree(made[0], tmp_path / "cache")
    return tmp_path / "cache"


def edit(found, **changes):
    record = found.path / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **changes}))


def fs_json(capsys, *arguments):
    capsys.readouterr()
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def order(capsys, made, *arguments):
    names = {found.id: name for name, found in made[1].items()}
    code, found = fs_json(capsys, "runs", "--cache", str(made[0]), *arguments)
    assert code == 0
    return [names[each["run"]] for each in found["runs"]]


def test_runs_prints_settings_metrics_and_the_control(made, cache, capsys):
    assert run(["runs", *cache]) == 0
    output = capsys.readouterr().out
    control, tight, loose = output.splitlines()[1:]
    assert made[1]["loose"].id in loose and "c=1000 " in loose
    assert "c=1e-06" in tight and "control" not in tight
    assert control.endswith("control") and " -  " in control
    fingerprint = made[1]["loose"].features.fingerprint
    assert f"photos {fingerprint[:8]}" in loose


def test_runs_as_json_holds_what_the_record_does(made, cache, capsys):
    _, found = fs_json(capsys, "runs", *cache)
    each = next(each for each in found["runs"] if each["seed"] == 2)
    loose = made[1]["loose"]
    assert each["metrics"] == loose.metrics
    assert each["changed_settings"] == {"c": 1000.0}
    assert each["model_bytes"] == loose.model_path.stat().st_size
    assert (each["head"], each["shuffled_labels"]) == ("logistic", False)
    assert each["fit_seconds"] == loose.seconds["fit"]


def test_runs_sort_by_what_is_better(made, capsys):
    assert order(capsys, made) == ["control", "tight", "loose"]
    assert order(capsys, made, "--reverse") == ["loose", "tight", "control"]
    assert order(capsys, made, "--sort", "seed") == ["tight", "loose", "control"]
    for key in ("accuracy", "log-loss", "roc-auc", "expected-calibration-error"):
        for split in ("train", "validation", "test"):
            name = key.replace("-", "_")
            values = {each: found.metrics[split][name] for each, found in made[1].items()}
            sorted_names = order(capsys, made, "--sort", key, "--split", split)
            got = [values[each] for each in sorted_names]
            best_first = sorted(got, reverse=key in ("accuracy", "roc-auc"))
            assert got == best_first


def test_runs_are_sorted_by_validation_and_a_choice_by_test_is_remarked_on(made, cache, capsys):
    by_default = order(capsys, made, "--sort", "log-loss")
    assert by_default == order(capsys, made, "--sort", "log-loss", "--split", "validation")
    assert by_default != order(capsys, made, "--sort", "log-loss", "--split", "test")
    for arguments, said in (
        (["--sort", "accuracy"], False),
        (["--sort", "accuracy", "--split", "test"], True),
        (["--sort", "fit", "--split", "test"], False),
    ):
        capsys.readouterr()
        assert run(["runs", *arguments, *cache]) == 0
        captured = capsys.readouterr()
        assert ("sorted by the test split" in captured.err) == said
        assert {"validation", "test"} <= set(captured.out.split("\n")[0].split())


def test_runs_without_the_metric_go_last_either_way(copy, capsys):
    old = next(found for found in read_runs(copy).runs if found.seed == 1)
    edit(old, metrics={**old.metrics, "test": {"accuracy": 1.0, "log_loss": 0.1}})
    for reverse in ([], ["--reverse"]):
        arguments = ["runs", "--sort", "roc-auc", "--split", "test", *reverse, "--cache", str(copy)]
        _, found = fs_json(capsys, *arguments)
        assert found["runs"][-1]["run"] == old.id
    assert run(["runs", "--cache", str(copy)]) == 0


def test_runs_of_a_head_or_a_feature_set(made, cache, capsys):
    fingerprint = made[1]["loose"].features.fingerprint
    assert len(order(capsys, made, "--head", "logistic", "--on", "photos/tiny")) == 3
    assert len(order(capsys, made, "--on", fingerprint[:6])) == 3
    assert order(capsys, made, "--on", "birds") == []
    assert order(capsys, made, "--head", "dense") == []
    capsys.readouterr()
    assert run(["runs", "--head", "dense", *cache]) == 0
    assert "none of the 3 runs" in capsys.readouterr().err


def test_runs_of_an_empty_cache_say_what_to_do(tmp_path, capsys):
    assert run(["runs", "--cache", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert (captured.out, "fs train" in captured.err) == ("", True)


def test_runs_tell_of_a_damaged_one_and_list_the_rest(copy, capsys):
    torn = read_runs(copy).runs[0]
    (torn.path / "run.json").write_text("{")
    code, found = fs_json(capsys, "runs", "--cache", str(copy))
    assert (code, len(found["runs"])) == (5, 2)
    assert run(["runs", "--cache", str(copy)]) == 5
    captured = capsys.readouterr()
    assert f"fs rm {torn.id}" in captured.err
    assert captured.out.count("logistic-photos") == 2
    assert run(["doctor", "--cache", str(copy)]) == 5
    assert torn.id in capsys.readouterr().out


def test_show_prints_the_whole_run(made, cache, capsys):
    loose = made[1]["loose"]
    code, found = fs_json(capsys, "show", loose.id, *cache)
    assert code == 0
    assert (found["kind"], found["id"], found["seed"]) == ("run", loose.id, 2)
    assert found["features"]["fingerprint"] == loose.features.fingerprint
    assert found["features"]["recipe"]["backbone"] == "tiny"
    assert found["metrics"] == loose.metrics
    assert {name: each["sha256"] for name, each in found["files"].items()} == loose.files
    assert found["versions"]["scikit-learn"]
    assert run(["show", loose.id, *cache]) == 0
    output = capsys.readouterr().out
    for expected in ("1000", "5000 (default)", "balanced accuracy", "model.skops", "notes: none"):
        assert expected in output
    assert run(["show", made[1]["control"].id, *cache]) == 0
    assert "labels of the training rows were shuffled" in capsys.readouterr().out


def test_show_sums_up_a_history(copy, capsys):
    found = read_runs(copy).runs[0]
    edit(found, history={"train_loss": [0.9, 0.25, 0.5], "train_accuracy": [0.5, 0.75, 0.625]})
    assert run(["show", found.id, "--cache", str(copy)]) == 0
    output = capsys.readouterr().out
    assert "history: 3 epochs" in output
    assert "0.9000 to 0.5000, best 0.2500 in epoch 2" in output
    assert "0.5000 to 0.6250, best 0.7500 in epoch 2" in output


def test_what_a_record_says_is_shown_and_not_obeyed_by_the_terminal(copy, capsys):
    found = read_runs(copy).runs[0]
    evil = "\x1b]0;title\x07\nerror: forged\u202e"
    shown = "\\x1b]0;title\\x07\\nerror: forged\\u202e"
    record = json.loads((found.path / "run.json").read_text())
    record["features"]["class_names"][0] = record["features"]["name"] = evil
    record["metrics"]["test"][evil] = 0.5
    edit(found, **record | {"notes": [evil], "versions": {evil: evil}, "chosen": {"c": evil}})
    for command in (["show", found.id], ["runs"]):
        assert run([*command, "--cache", str(copy)]) == 0
        captured = capsys.readouterr()
        assert not set("\x1b\x07\u202e") & set(captured.out + captured.err)
        assert not any(line.startswith("error") for line in captured.out.splitlines())
        assert shown in captured.out
    edit(found, head=evil)
    assert run(["runs", "--cache", str(copy)]) == 5
    assert "\x1b" not in capsys.readouterr().err
    _, as_json = fs_json(capsys, "show", read_runs(copy).runs[0].id, "--cache", str(copy))
    assert as_json["kind"] == "run"


@pytest.mark.parametrize("name", ["model.skops", "probabilities-test.npz"])
def test_show_finds_a_file_that_is_not_the_one_written(copy, capsys, name):
    found = read_runs(copy).runs[0]
    (found.path / name).write_bytes(b"other")
    code, shown = fs_json(capsys, "show", found.id, "--cache", str(copy))
    assert code == 5
    assert [each for each, fields in shown["files"].items() if "problem" in fields] == [name]
    assert run(["show", found.id, "--cache", str(copy)]) == 5
    captured = capsys.readouterr()
    assert "NOT AS WRITTEN" in captured.out
    assert "expected SHA-256" in captured.err and f"fs rm {found.id}" in captured.err


def test_show_takes_either_kind_by_its_unique_start(made, cache, capsys):
    _, found = fs_json(capsys, "show", "photos/t", *cache)
    assert found["kind"] == "feature set"
    _, found = fs_json(capsys, "show", made[1]["loose"].features.fingerprint[:8], *cache)
    assert found["kind"] == "feature set"
    assert run(["show", "logistic", *cache]) == 3
    assert "means 3 runs" in capsys.readouterr().err
    assert run(["show", "nothing", *cache]) == 4
    assert "it holds photos/" in capsys.readouterr().err


def test_show_of_what_may_be_either_names_both(copy, capsys):
    found = read_runs(copy).runs[0]
    found.path.rename(found.path.with_name("photos-run"))
    assert run(["show", "photos", "--cache", str(copy)]) == 3
    said = capsys.readouterr().err
    assert "photos-run" in said and "photos/tiny" in said
    for name, kind in (("photos-", "run"), ("photos/", "feature set")):
        code, shown = fs_json(capsys, "show", name, "--cache", str(copy))
        assert (code, shown["kind"]) == (0, kind)


def test_rm_removes_runs_and_only_those(copy, capsys):
    first, second, third = read_runs(copy).runs
    arguments = ["rm", first.id, first.id, second.id[:-1], "--cache", str(copy)]
    code, planned = fs_json(capsys, *arguments, "--dry-run")
    assert (code, planned["dry_run"]) == (0, True)
    assert len(read_runs(copy).runs) == 3
    code, done = fs_json(capsys, *arguments)
    assert done["removed"] == planned["removed"] and done["bytes"] == planned["bytes"] > 0
    assert read_runs(copy).runs == [third]
    assert [path.name for path in (copy / "runs").iterdir()] == [third.id]


def test_rm_of_one_unknown_removes_none(copy, capsys):
    found = read_runs(copy).runs[0]
    assert run(["rm", found.id, "nothing", "--cache", str(copy)]) == 4
    assert run(["rm", "logistic", "--cache", str(copy)]) == 3
    assert run(["rm", "../photos", "--cache", str(copy)]) == 4
    assert run(["rm", ".", "--cache", str(copy)]) == 4
    assert len(read_runs(copy).runs) == 3
    assert run(["rm", "--cache", str(copy)]) == 2


def test_rm_removes_a_damaged_run(copy):
    torn = read_runs(copy).runs[0]
    (torn.path / "run.json").write_text("{")
    assert run(["rm", torn.id, "--cache", str(copy)]) == 0
    assert len(read_runs(copy).runs) == 2


def test_rm_that_is_cut_short_leaves_the_run_whole_or_gone(copy, monkeypatch, capsys):
    found = read_runs(copy).runs[0]

    def cut(*arguments):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "rename", cut)
        assert run(["rm", found.id, "--cache", str(copy)]) == 3
    assert found in read_runs(copy).runs
    with monkeypatch.context() as patch:
        patch.setattr(durable, "remove", cut)
        assert run(["rm", found.id, "--cache", str(copy)]) == 3
    assert len(read_runs(copy).runs) == 2
    (rest,) = (copy / "runs").glob(".tmp-*")
    assert run(["rm", rest.name, "--cache", str(copy)]) == 4


def test_what_a_run_held_may_be_collected_once_it_is_removed(tmp_path, capsys):
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    images = write_image_folder(photos)
    arguments = ["--cache", str(cache)]
    trained = []
    for _ in range(2):
        fs.embed(photos, fs.EmbedSettings(), cache=cache, choose=TinyChoice)
        with open_features("photos", cache=cache) as features:
            trained += [train(features, LogisticSettings(), cache=cache) for _ in range(2)]
        images.pop(0).unlink()
    old = trained[0].features.fingerprint
    _, kept = fs_json(capsys, "gc", *arguments)
    assert len(kept["kept"]) == 1
    _, done = fs_json(capsys, "rm", trained[2].id, *arguments)
    assert done["collectable"] == []  # the current version stays in any case
    _, done = fs_json(capsys, "rm", trained[0].id, *arguments)
    assert done["collectable"] == []  # another run was trained on it
    _, done = fs_json(capsys, "rm", trained[1].id, *arguments)
    assert [each["fingerprint"] for each in done["collectable"]] == [old]
    assert len(Catalogue(cache).records()) == 2
    assert run(["gc", *arguments]) == 0
    assert [record.fingerprint for record in Catalogue(cache).records()] != [old]


def test_gc_keeps_every_version_while_a_run_cannot_be_read(tmp_path, capsys):
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    images = write_image_folder(photos)
    for _ in range(2):
        fs.embed(photos, fs.EmbedSettings(), cache=cache, choose=TinyChoice)
        images.pop(0).unlink()
    (cache / "runs" / "torn").mkdir(parents=True)
    code, found = fs_json(capsys, "gc", "--cache", str(cache))
    assert (code, found["removed"]) == (0, [])
    assert "cannot be read" in found["kept"][0]["reason"]
    _, done = fs_json(capsys, "rm", "torn", "--cache", str(cache))
    assert len(done["collectable"]) == 1
    assert run(["gc", "--cache", str(cache)]) == 0
    assert len(Catalogue(cache).records()) == 1
