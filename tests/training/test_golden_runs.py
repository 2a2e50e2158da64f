"""Runs written by earlier versions stay readable: record, predictions and head.

Those of format 1 were written by the last commit of that format, with its own code; those of
formats 2 and 3 by the commits that brought them. All are of `features()` below; format3-dense has
the path and the augmentation of an end-to-end run. Never write them anew: a run that today's code
has written proves nothing about yesterday's.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import IntegrityError
from featurestore.testing.heads import blobs
from featurestore.training.runs import RUN_FORMAT_VERSION, find_run, load_run, read_runs
from featurestore.training.settings import LogisticSettings

GOLDEN = Path(__file__).with_name("golden_runs")
NAMES = [
    "format1-dense",
    "format1-logistic",
    "format2-logistic",
    "format3-dense",
    "format3-logistic",
]
SPLITS = {"train": (40, 0), "validation": (20, 1), "test": (30, 2)}  # rows, seed


def rows(split):
    count, seed = SPLITS[split]
    return blobs(count, n_classes=2, seed=seed)


def test_every_format_has_a_golden_run():
    formats = {int(name[len("format")]) for name in NAMES}
    assert formats == set(range(1, RUN_FORMAT_VERSION + 1))
    assert sorted(path.name for path in GOLDEN.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_record_is_read_whole(name):
    run = load_run(GOLDEN / name)
    assert (run.id, run.seed, run.shuffled_labels, run.chosen) == (name, 5, False, {})
    assert run.head == name.partition("-")[2]
    assert run.features.rows == {"train": 40, "validation": 20, "test": 30}
    found = run.predictions("test")
    right = np.mean(found.probabilities.argmax(axis=1) == found.labels)
    assert run.metrics["test"]["accuracy"] == pytest.approx(right)
    assert run.damages() == {}


def test_settings_added_since_take_the_value_that_was_meant_then():
    assert load_run(GOLDEN / "format1-logistic").settings == LogisticSettings(c=3.0)
    changed = load_run(GOLDEN / "format1-dense").changed_settings()
    assert changed == {"units": 4, "epochs": 2}


def test_dense_head_of_before_it_could_scale_did_not(tmp_path):
    shutil.copytree(GOLDEN / "format1-dense", tmp_path / "run")
    record = tmp_path / "run" / "run.json"
    fields = json.loads(record.read_text())
    del fields["settings"]["scaled"]
    record.write_text(json.dumps(fields))
    assert load_run(tmp_path / "run").changed_settings() == {
        "units": 4, "epochs": 2, "scaled": False,
    }  # fmt: skip
    record.write_text(json.dumps(fields | {"settings": None}))
    with pytest.raises(IntegrityError, match="settings: expected a JSON object"):
        load_run(tmp_path / "run")


def test_paths_that_came_later_were_cached_features_then():
    for name in NAMES:
        run = load_run(GOLDEN / name)
        assert (run.started_from, run.parameters) == (None, {})
        if name != "format3-dense":
            assert (run.path_taken, run.augmentation) == ("cached", None)
    streamed = load_run(GOLDEN / "format3-dense")
    assert streamed.path_taken == "end-to-end"
    assert streamed.augmentation == {
        "rule": "affine-bilinear-1",
        "rotation": "40",
        "shift": "0.2",
        "shear": "10",
        "zoom": "0.2",
        "flip": True,
        "fill": 0,
        "seed": 5,
    }
    assert streamed.features.comparable == load_run(GOLDEN / "format3-logistic").features.comparable


@pytest.mark.parametrize("name", NAMES)
def test_head_gives_the_recorded_probabilities(name):
    run = load_run(GOLDEN / name)
    head = run.load_head()
    for split in SPLITS:
        recorded = run.predictions(split)
        assert recorded.sample_ids.tolist() == rows(split).sample_ids.tolist()
        np.testing.assert_array_equal(recorded.labels, rows(split).labels)
        # Another processor or library adds in another order.
        np.testing.assert_allclose(
            head.predict_proba(rows(split).features), recorded.probabilities, atol=1e-5
        )


def test_run_of_format_1_is_listed_and_moved_like_any_other(tmp_path):
    for name in NAMES:
        shutil.copytree(GOLDEN / name, tmp_path / "runs" / name)
    assert {run.id for run in read_runs(tmp_path).runs} == set(NAMES)
    assert find_run("format1-l", cache=tmp_path).head == "logistic"
