"""Runs on disk: whole or absent, checked before they are read."""

import dataclasses
import json
import os
import re
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.augmentation import Augmentation
from featurestore.digests import sha256_file
from featurestore.errors import Conflict, IntegrityError, InvalidInput, NotFound
from featurestore.stores import durable
from featurestore.testing.heads import MemoryFeatures, blobs
from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.runs import (
    find_run,
    load_run,
    matching_ids,
    new_run_id,
    read_runs,
)
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.sklearn_settings import SklearnSettings
from featurestore.training.train import TrainOptions, train

NOON = datetime(2025, 3, 4, 12, 5, 6, tzinfo=UTC)


def features(**fields):
    rows = {
        "train": blobs(40, n_classes=2),
        "validation": blobs(20, n_classes=2, seed=1),
        "test": blobs(30, n_classes=2, seed=2),
    }
    return MemoryFeatures(rows, ("cats", "dogs"), **fields)


@pytest.fixture
def run(tmp_path):
    return train(features(), LogisticSettings(c=3.0), cache=tmp_path, options=TrainOptions(seed=5))


def edit(run, **changes):
    record = run.path / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **changes}))


def test_read_back_equals_what_was_returned(run):
    assert load_run(run.path) == run
    assert run.settings == LogisticSettings(c=3.0)
    assert run.seed == 5


def test_directory_holds_what_the_record_names(run):
    found = {path.name for path in run.path.iterdir()}
    assert found == {"run.json", *run.files}
    assert set(run.files) == {
        "model.skops",
        "probabilities-train.npz",
        "probabilities-validation.npz",
        "probabilities-test.npz",
    }
    for name, digest in run.files.items():
        assert sha256_file(run.path / name) == digest


def test_probabilities_keep_ids_and_labels(run):
    expected = features()["test"]
    for read in (run.predictions("test"), load_run(run.path).predictions("test")):
        assert read.sample_ids.tolist() == expected.sample_ids.tolist()
        np.testing.assert_array_equal(read.labels, expected.labels)
        assert read.probabilities.shape == (30, 2)


def test_loaded_head_gives_the_recorded_probabilities(run):
    head = load_run(run.path).load_head()
    found = head.predict_proba(features()["test"].features)
    np.testing.assert_array_equal(found, run.predictions("test").probabilities)


def test_unknown_split(run):
    with pytest.raises(NotFound, match="train, validation, test"):
        run.predictions("holdout")


@pytest.mark.parametrize("name", ["model.skops", "probabilities-test.npz"])
def test_one_flipped_bit_is_refused(run, name):
    path = run.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    loaded = load_run(run.path)
    with pytest.raises(IntegrityError, match=f"{name}.*expected SHA-256"):
        loaded.load_head() if name.startswith("model") else loaded.predictions("test")


def test_missing_model_is_refused(run):
    (run.path / "model.skops").unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_run(run.path).load_head()


def test_run_that_was_removed_meanwhile_is_not_called_damaged(run):
    shutil.rmtree(run.path)
    for read in (run.load_head, run.damages, lambda: run.predictions("test")):
        with pytest.raises(NotFound, match=f"run {run.id} is gone"):
            read()


def test_model_of_another_run_is_refused(run, tmp_path):
    other = train(features(), LogisticSettings(c=1.0), cache=tmp_path)
    os.replace(other.path / "model.skops", run.path / "model.skops")
    with pytest.raises(IntegrityError, match="expected SHA-256"):
        load_run(run.path).load_head()


def test_newer_format_is_a_conflict(run):
    edit(run, format_version=4)
    with pytest.raises(Conflict, match="at most 3, found 4"):
        load_run(run.path)


def test_format_1_is_read(run):
    # Format 1 had neither of these fields, two metrics a split, and no prediction time.
    record = run.path / "run.json"
    fields = json.loads(record.read_text())
    del fields["shuffled_labels"], fields["chosen"], fields["seconds"]["predict_per_row"]
    fields["metrics"] = {"train": {"accuracy": 1.0, "log_loss": 0.1}, "validation": None}
    record.write_text(json.dumps(fields | {"format_version": 1}))
    old = load_run(run.path)
    assert (old.shuffled_labels, old.chosen) == (False, {})
    assert old.metrics["train"] == {"accuracy": 1.0, "log_loss": 0.1}
    np.testing.assert_array_equal(
        old.predictions("test").probabilities, run.predictions("test").probabilities
    )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1}', "not json"])
def test_damaged_record_is_refused(run, content):
    (run.path / "run.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"run\.json"):
        load_run(run.path)


FIELDS = [
    "id", "created", "head", "settings", "seed", "shuffled_labels", "path_taken", "augmentation",
    "started_from", "parameters", "features", "metrics", "history", "chosen", "notes",
    "versions", "seconds", "files", "format_version",
]  # fmt: skip
FEATURES = [
    "name", "fingerprint", "manifest_fingerprint", "recipe_fingerprint", "recipe", "class_names",
    "feature_shape", "rows", "comparable",
]  # fmt: skip

WRONG = ("dropped", None, [], {}, "text", 1.5, True, [None], {"train": None})
# Of these, what a run may well hold: text, an object of anything, a list without a note.
OBJECTS = (
    "settings",
    "metrics",
    "history",
    "chosen",
    "versions",
    "recipe",
    "rows",
    "parameters",
)
ALLOWED = [
    *((f"{name}fingerprint", "text") for name in ("", "manifest_", "recipe_")),
    *((name, "text") for name in ("id", "name", "comparable")),
    *((name, None) for name in ("augmentation", "started_from")),
    *((name, {}) for name in OBJECTS),
    *((name, {"train": None}) for name in ("metrics", "chosen", "recipe")),
    ("shuffled_labels", True),
    ("notes", []),
    ("format_version", True),  # it equals 1
]


def test_the_fields_above_are_those_of_a_record(run):
    record = json.loads((run.path / "run.json").read_text())
    assert sorted(record) == sorted(FIELDS)
    assert sorted(record["features"]) == sorted(FEATURES)


@pytest.mark.parametrize("name", [*FIELDS, *(f"features.{name}" for name in FEATURES)])
def test_a_record_without_a_field_or_with_another_type_in_it_is_refused(run, tmp_path, name):
    record = run.path / "run.json"
    whole = record.read_text()
    field = name.removeprefix("features.")
    for value in (value for value in WRONG if (field, value) not in ALLOWED):
        fields = json.loads(whole)
        holder = fields if field == name else fields["features"]
        if value == "dropped":
            del holder[field]
        else:
            holder[field] = value
        record.write_text(json.dumps(fields))
        found = read_runs(tmp_path)
        assert found.runs == [], (name, value)
        (problem,) = found.problems
        assert isinstance(problem, IntegrityError)
        assert field in problem.message and str(record) in problem.message
        assert problem.next_step == f"fs rm {run.id}"
    record.write_text(whole)
    assert read_runs(tmp_path) == ([run], [])


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"test": {"accuracy": "0.9"}}},
        {"metrics": {"holdout": None}},
        {"history": {"train_loss": []}},
        {"history": {"train_loss": 0.5}},
        {"seconds": {"total": 1.0}},
        {"seconds": {"fit": 10**400}},
        {"created": "yesterday"},
        {"seed": -1},
        {"other": 1},
        {"format_version": 0},
    ],
)
def test_values_that_no_run_writes_are_refused(run, changes):
    edit(run, **changes)
    with pytest.raises(IntegrityError, match=next(iter(changes))):
        load_run(run.path)


RANGES = Augmentation().to_dict()
DRAWN = RANGES | {"seed": 5}


def of_its_head(changes):
    """Return the fields of the head that goes with a record's path."""
    heads = {"end-to-end": DenseSettings(), "fine-tune": tuned_settings()}
    settings = heads.get(changes.get("path_taken"))
    return {} if settings is None else {"head": settings.head, "settings": settings.to_dict()}


def tuned_settings():
    return FineTuneSettings(
        backbone="vgg16",
        size=(150, 150),
        layer="block5_pool",
        pooling="none",
        precision="float32",
        cut="block4_pool",
        unfreeze=("block5",),
        statistics=False,
        units=256,
        dropout=0.0,
        scaled=True,
        epochs=30,
        batch_size=20,
        optimizer="rmsprop",
        learning_rate=1e-5,
        patience=None,
        class_weight="none",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"path_taken": "end-to-end", "augmentation": DRAWN},
        {"path_taken": "end-to-end"},
        {"augmentation": DRAWN | {"views": 6}},
        {"path_taken": "fine-tune", "started_from": "dense-photos-1"},
        {"path_taken": "fine-tune", "started_from": "dense-фото_1.a", "augmentation": DRAWN},
    ],
)
def test_what_each_path_writes_is_read(run, changes):
    edit(run, **of_its_head(changes), **changes)
    found = load_run(run.path)
    assert {name: getattr(found, name) for name in changes} == changes


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"augmentation": DRAWN}, "augmentation: expected stored views of path cached"),
        ({"augmentation": DRAWN | {"views": 0}}, "augmentation: expected null, or ranges"),
        ({"augmentation": DRAWN | {"views": True}}, "augmentation: expected null, or ranges"),
        ({"augmentation": DRAWN | {"tilt": "3"}}, "augmentation: expected null, or ranges"),
        ({"path_taken": "streamed"}, "path_taken: expected one of cached, end-to-end, fine-tune"),
        ({"started_from": "dense-photos-1"}, "started_from: expected null of path cached"),
        ({"path_taken": "fine-tune"}, "started_from: expected the id of a run"),
        (
            {"path_taken": "fine-tune", "started_from": "dense-photos-1", "head": "dense"},
            "head: expected fine-tuned of path fine-tune, found .dense",
        ),
        ({"path_taken": "end-to-end", "head": "logistic"}, "head: expected dense of path end-to"),
        ({"head": "fine-tuned"}, "head: expected one that is chosen by name of path cached"),
        ({"parameters": {"trainable": -1}}, "parameters: expected whole numbers of at least 0"),
        *(
            (
                {"path_taken": "end-to-end", "augmentation": wrong},
                "augmentation: expected (null|ranges and a seed of path end-to-end)",
            )
            for wrong in (
                RANGES,
                DRAWN | {"views": 6},
                DRAWN | {"seed": -1},
                DRAWN | {"rule": "affine-0"},
                DRAWN | {"zoom": "2"},
                DRAWN | {"flip": "yes"},
            )
        ),
        *(
            ({"path_taken": "fine-tune", "started_from": name}, "started_from: expected null or")
            for name in ("", ".", "..", "../outside", "a/b", "a\\b", ".hidden", "C:x", "a\nb")
        ),
    ],
)
def test_what_no_path_writes_is_refused(run, changes, named):
    edit(run, **of_its_head(changes) | changes)
    with pytest.raises(IntegrityError, match=named):
        load_run(run.path)


def test_the_run_that_another_started_from_is_found_beside_it(run):
    other = run.path.with_name("tuned")
    shutil.copytree(run.path, other)
    tuned = dataclasses.replace(load_run(other), path_taken="fine-tune", started_from=run.id)
    assert tuned.load_start() == run
    assert run.load_start() is None
    edit(run, seed=-1)
    assert tuned.load_start() is None
    shutil.rmtree(run.path)
    assert tuned.load_start() is None


def test_numbers_that_are_no_json_are_refused(run):
    record = run.path / "run.json"
    whole = record.read_text()
    for number in ("NaN", "Infinity", "1e999"):
        record.write_text(whole.replace('"seed": 5', f'"seed": {number}'))
        with pytest.raises(IntegrityError, match=r"run\.json"):
            load_run(run.path)


def test_metrics_of_a_split_without_rows_are_refused(run):
    features = json.loads((run.path / "run.json").read_text())["features"]
    edit(run, features=features | {"rows": {"train": 40}})
    with pytest.raises(IntegrityError, match="of validation, test, of which"):
        load_run(run.path)


@pytest.mark.parametrize(
    "name",
    ["/dev/stdin", "../other/model.skops", "model.pkl", "model.", "probabilities-holdout.npz"],
)
def test_a_file_name_that_no_run_has_is_refused(run, name):
    digest = "0" * 64
    edit(run, files={**run.files, name: digest})
    with pytest.raises(IntegrityError, match=f'files: no run has a file "{re.escape(name)}"'):
        load_run(run.path)
    edit(run, files={name: digest})
    with pytest.raises(IntegrityError, match="files: expected SHA-256 by name, one of model"):
        load_run(run.path)


@pytest.mark.parametrize("files", [{}, {"model.keras": "0" * 64}, {"model.skops": "x"}])
def test_a_run_has_exactly_one_model_and_digests(run, files):
    edit(run, files={**run.files, **files} if files else {})
    with pytest.raises(IntegrityError, match="files: expected SHA-256"):
        load_run(run.path)


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "nope"},
        {"settings": {"c": -1.0}},
        {"settings": {"c": "1"}},
        {"settings": {"c": 10**400}},
        {"settings": {"units": 3}},
    ],
)
def test_settings_of_no_head_are_refused(run, changes):
    edit(run, **changes)
    with pytest.raises(IntegrityError, match=r"run\.json: stored settings"):
        load_run(run.path)


def test_run_may_be_moved(run, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    run.path.rename(moved)
    loaded = load_run(moved)
    assert loaded.id == "renamed"
    loaded.load_head()


def test_list_is_newest_first_and_skips_unfinished(tmp_path):
    assert read_runs(tmp_path) == ([], [])
    runs = [train(features(), LogisticSettings(), cache=tmp_path) for _ in range(3)]
    (tmp_path / "runs" / ".tmp-1-abcd-run").mkdir()
    for i, run in enumerate(runs):
        edit(run, created=f"2025-01-0{i + 1}T00:00:00+00:00")
    assert [run.id for run in read_runs(tmp_path).runs] == [run.id for run in reversed(runs)]


def test_damaged_and_newer_runs_do_not_hide_the_others(tmp_path):
    good, torn, newer = (train(features(), LogisticSettings(), cache=tmp_path) for _ in range(3))
    (torn.path / "run.json").write_text("{")
    edit(newer, format_version=4)
    (tmp_path / "runs" / "stray").mkdir()
    found = read_runs(tmp_path)
    assert found.runs == [good]
    assert sorted(problem.exit_code for problem in found.problems) == [5, 5, 6]
    texts = " ".join(str(problem) for problem in found.problems)
    assert f"fs rm {torn.id}" in texts and "stray is not a run: it has no run.json" in texts


def test_run_removed_while_the_folder_is_read_is_no_problem(monkeypatch, run, tmp_path):
    gone = tmp_path / "runs" / "gone"
    monkeypatch.setattr("featurestore.training.runs._run_paths", lambda cache: [gone, run.path])
    assert read_runs(tmp_path) == ([run], [])


def test_changed_settings_are_those_that_differ_from_the_default(run, tmp_path):
    assert run.changed_settings() == {"c": 3.0}
    assert train(features(), LogisticSettings(), cache=tmp_path).changed_settings() == {}


def test_changed_settings_of_a_scikit_learn_class_leave_out_what_is_empty(run):
    for parameters in ({}, {"max_depth": 3}):
        settings = SklearnSettings(estimator="sklearn.tree.DecisionTreeClassifier",
                                   parameters=parameters)  # fmt: skip
        changed = dataclasses.replace(run, settings=settings).changed_settings()
        assert changed.get("parameters", {}) == parameters
        assert ("parameters" in changed) == bool(parameters)


def test_damages_name_each_file_that_is_not_as_written(run):
    assert run.damages() == {}
    (run.path / "model.skops").write_bytes(b"other")
    (run.path / "probabilities-test.npz").unlink()
    found = run.damages()
    assert set(found) == {"model.skops", "probabilities-test.npz"}
    assert "expected SHA-256" in found["model.skops"]


def test_matching_ids_prefer_a_whole_id_and_normalise(tmp_path):
    for name in ("dense-a", "dense-a-b", "dense-\u00e9"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert matching_ids("dense-a", cache=tmp_path) == ["dense-a"]
    assert matching_ids("dense-e\u0301", cache=tmp_path) == ["dense-\u00e9"]
    assert len(matching_ids("dense", cache=tmp_path)) == 3
    assert matching_ids("", cache=tmp_path) == []


def test_find_by_unique_prefix(run, tmp_path):
    assert find_run(run.id, cache=tmp_path) == run
    assert find_run("logistic-", cache=tmp_path) == run
    other = train(features(), LogisticSettings(), cache=tmp_path)
    with pytest.raises(InvalidInput, match="means 2 runs"):
        find_run("logistic", cache=tmp_path)
    assert find_run(other.id[:-1], cache=tmp_path) == other
    for missing in ("dense", ""):
        with pytest.raises(NotFound, match="it holds logistic"):
            find_run(missing, cache=tmp_path)
    with pytest.raises(NotFound, match="none yet"):
        find_run("x", cache=tmp_path / "empty")


@pytest.mark.parametrize("operation", ["sync", "rename", "write", "make_directory"])
def test_failed_write_leaves_no_run(monkeypatch, tmp_path, operation):
    kept = train(features(), LogisticSettings(), cache=tmp_path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, operation, full)
        with pytest.raises(InvalidInput, match="No space left"):
            train(features(), LogisticSettings(), cache=tmp_path)
    assert [run.id for run in read_runs(tmp_path).runs] == [kept.id]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [kept.id]
    train(features(), LogisticSettings(), cache=tmp_path)


def test_record_is_synced_after_everything_it_names(monkeypatch, tmp_path):
    # The rename comes last, and after a sync of each file and of the directory.
    events = []
    real_sync_file, real_rename = durable.sync_file, durable.rename
    monkeypatch.setattr(
        durable, "sync_file", lambda path: (events.append(path.name), real_sync_file(path))
    )
    monkeypatch.setattr(
        durable, "rename", lambda *paths: (events.append("rename"), real_rename(*paths))
    )
    run = train(features(), LogisticSettings(), cache=tmp_path)
    assert events[-1] == "rename"
    assert set(events[:-1]) == {"run.json", *run.files}


def test_record_is_strict_json(run):
    def refuse(text):
        raise AssertionError(text)

    fields = json.loads((run.path / "run.json").read_text(), parse_constant=refuse)
    assert fields["format_version"] == 3
    assert "path" not in fields


def test_runs_are_values(run):
    assert dataclasses.replace(run, seed=6) != run


def test_run_id_of_a_scikit_learn_class_is_found_by_a_prefix_with_dots(run, tmp_path):
    name = new_run_id("sklearn.tree.DecisionTreeClassifier", "a.b", created=NOON, suffix="3f9a")
    assert name == "sklearn.tree.DecisionTreeClassifier-a.b-20250304T120506-3f9a"
    run.path.rename(tmp_path / "runs" / name)
    assert find_run("sklearn.tree.", cache=tmp_path).id == name
    assert find_run(name, cache=tmp_path).model_path.name == "model.skops"


def test_run_id_is_readable():
    name = new_run_id("dense", "Katzen & Hunde/2", created=NOON, suffix="3f9a")
    assert name == "dense-Katzen_Hunde_2-20250304T120506-3f9a"
    assert (
        new_run_id("dense", "犬と猫", created=NOON, suffix="0") == "dense-犬と猫-20250304T120506-0"
    )


@given(st.text(max_size=80))
def test_run_id_is_a_file_name_on_every_system(dataset):
    name = new_run_id("dense", dataset, created=NOON, suffix="3f9a")
    assert not set(name) & set('/\\<>:"|?*\n\t \0')
    assert len(name) < 80
    assert name.startswith("dense-") and name.endswith("-20250304T120506-3f9a")
