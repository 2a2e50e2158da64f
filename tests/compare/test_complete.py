"""What a comparison needs, what of it is reused, and what is trained."""

import dataclasses

import pytest
from made_runs import answers, changed, made_run

from featurestore.compare.complete import complete_runs, plan_runs
from featurestore.errors import InvalidInput
from featurestore.testing.heads import MemoryFeatures, blobs
from featurestore.training.runs import read_runs
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.train import TrainOptions

DENSE = DenseSettings(units=4, epochs=2)
LOGISTIC = LogisticSettings()
LABELS = [0, 1] * 10


@pytest.fixture
def features():
    rows = {"train": blobs(40, n_classes=2), "test": blobs(30, n_classes=2, seed=2)}
    return MemoryFeatures(rows, ("cats", "dogs"))


def planned(settings, *runs, seeds=(0,), views=None):
    return plan_runs("f" * 64, settings, seeds=seeds, runs=runs, views=views)


def test_a_head_without_chance_is_needed_once():
    plan = planned([DENSE, LOGISTIC], seeds=range(3))
    assert [(each.settings.head, each.seed, each.run) for each in plan] == [
        ("dense", 0, None),
        ("dense", 1, None),
        ("dense", 2, None),
        ("logistic", 0, None),
    ]
    assert [each.label for each in plan][2:] == ["dense:units=4:epochs=2, seed 2", "logistic"]


def test_only_the_very_same_run_is_reused(tmp_path):
    run = made_run(tmp_path, LABELS, answers(LABELS, [True] * 20), settings=DENSE, seed=1)
    others = [
        changed(run, fingerprint="a" * 64),
        made_run(tmp_path, LABELS, answers(LABELS, [True] * 20), settings=DENSE, seed=2),
        made_run(tmp_path, LABELS, answers(LABELS, [True] * 20), settings=DenseSettings(), seed=1),
        made_run(
            tmp_path,
            LABELS,
            answers(LABELS, [True] * 20),
            settings=DENSE,
            seed=1,
            shuffled_labels=True,
        ),
    ]
    others += [
        dataclasses.replace(run, path_taken="end-to-end"),  # it may have the same head and features
        dataclasses.replace(run, augmentation={"views": 6}),
    ]
    assert [each.run for each in planned([DENSE], *others, seeds=[1])] == [None]
    assert [each.run for each in planned([DENSE], *others, seeds=[1], views=6)] == [others[-1]]
    assert [each.run for each in planned([DENSE], *others, run, seeds=[1], views=5)] == [None]
    assert [each.run for each in planned([DENSE], *others, run, seeds=[1])] == [run]


def test_the_newest_is_reused(tmp_path):
    old, new = (
        made_run(tmp_path, LABELS, answers(LABELS, [True] * 20), settings=LOGISTIC, created=created)
        for created in ("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00")
    )
    assert planned([LOGISTIC], new, old)[0].run == planned([LOGISTIC], old, new)[0].run == new


def test_what_is_missing_is_trained_and_kept(features, tmp_path):
    said = []
    arguments = {"cache": tmp_path, "say": said.append, "options": TrainOptions()}
    first = complete_runs(features, planned([DENSE, LOGISTIC], seeds=[0]), **arguments)
    assert [run.head for run in first] == ["dense", "logistic"]
    assert said[0] == "training dense:units=4:epochs=2, seed 0"
    assert said[1].startswith("trained dense:units=4:epochs=2, seed 0 in ")
    said.clear()
    there = read_runs(tmp_path).runs
    plan = planned([DENSE, LOGISTIC], *there, seeds=[0, 1])
    again = complete_runs(features, plan, **arguments)
    assert [(run.head, run.seed) for run in again] == [("dense", 0), ("dense", 1), ("logistic", 0)]
    assert [again[0].id, again[2].id] == [run.id for run in first]
    assert said[0] == "2 of 3 runs are there already"
    assert sum(line.startswith("training") for line in said) == 1
    assert len(read_runs(tmp_path).runs) == 3


def test_what_was_trained_before_a_failure_is_kept(features, tmp_path):
    plan = planned([LOGISTIC, DenseSettings(learning_rate=1e30, epochs=3)])
    with pytest.raises(InvalidInput):
        complete_runs(features, plan, cache=tmp_path, say=lambda _: None, options=TrainOptions())
    assert [run.head for run in read_runs(tmp_path).runs] == ["logistic"]
