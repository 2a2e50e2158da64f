"""Runs that differ in their seeds: who stands for whom, and what another seed would have said."""

import numpy as np
import pytest
from made_runs import answers, made_run, noisy

from featurestore.compare.comparison import compare
from featurestore.compare.results import Interval, SeedVerdicts
from featurestore.compare.statistics import mcnemar_exact
from featurestore.training.evaluation import METRICS
from featurestore.training.settings import DenseSettings, LogisticSettings

LABELS = np.arange(100) % 2
QUICK = 200


def right(*wrong):
    found = np.ones(len(LABELS), bool)
    found[list(wrong)] = False
    return found


@pytest.fixture
def logistic(tmp_path):
    return made_run(
        tmp_path, LABELS, answers(LABELS, right(4, *range(20, 34))), settings=LogisticSettings()
    )


def runs_wrong_on(tmp_path, settings, wrong, *, images=2000):
    """Return a run for each seed of `wrong`, which gets those rows wrong."""
    labels = np.arange(images) % 2
    runs = []
    for seed, rows in wrong.items():
        found = np.ones(images, bool)
        found[list(rows)] = False
        runs.append(
            made_run(tmp_path, labels, answers(labels, found), settings=settings, seed=seed)
        )
    return runs


def test_runs_that_differ_in_seed_only_are_one_contender(tmp_path, logistic):
    settings = DenseSettings(epochs=3)
    wrong = {2: range(9), 0: range(5), 1: range(7)}
    runs = [
        made_run(
            tmp_path,
            LABELS,
            answers(LABELS, right(*rows)),
            settings=settings,
            seed=seed,
            seconds={"fit": 1.0 + seed, "total": 9.0},
        )
        for seed, rows in wrong.items()
    ]
    found = compare([*runs, logistic], resamples=QUICK)
    dense, other = found.contenders
    assert [run.seed for run in dense.runs] == [0, 1, 2]
    assert dense.metrics["accuracy"].value == pytest.approx(0.93)
    assert dense.seed_spread["accuracy"] == pytest.approx(np.std([0.95, 0.93, 0.91], ddof=1))
    assert set(dense.seed_spread) == set(METRICS)
    assert (dense.fit_seconds, dense.predict_us) == (2.0, None)
    assert other.seed_spread is None
    (pair,) = found.pairs
    firsts = mcnemar_exact(right(*range(5)), right(4, *range(20, 34)))
    assert pair.test == firsts
    last = mcnemar_exact(right(*range(9)), right(4, *range(20, 34))).p_value
    assert pair.by_seed == SeedVerdicts(1, 0, 2, Interval(firsts.p_value, last))
    assert pair.winner == "dense"
    assert pair.difference.value == pytest.approx(0.93 - 0.85)


def test_a_seed_that_says_the_reverse_leaves_no_winner(tmp_path):
    """With seed 0 dense has 100 wrong of 2,000 and the other 150; with seed 1, 130 and 70."""
    dense = runs_wrong_on(tmp_path, DenseSettings(), {0: range(100), 1: range(130)})
    other = runs_wrong_on(
        tmp_path, DenseSettings(units=8), {0: range(500, 650), 1: range(500, 570)}
    )
    (pair,) = compare([*dense, *other], resamples=QUICK).pairs
    assert pair.adjusted_p < 0.05
    assert pair.winner is None
    assert (pair.by_seed.first, pair.by_seed.second, pair.by_seed.neither) == (1, 2, 1)
    assert pair.sentence.startswith("whether dense or dense:units=8 is better depends on the seed")


def test_seeds_are_judged_at_the_level_of_the_first(tmp_path):
    """With seed 1 p is 0.018: told apart as one of 3 pairs, and not as one of 6."""
    first = runs_wrong_on(tmp_path, DenseSettings(), {0: range(40), 1: range(60)})
    second = runs_wrong_on(tmp_path, LogisticSettings(), {0: range(100, 190)})
    third = runs_wrong_on(tmp_path, DenseSettings(units=8), {0: range(300, 341)})
    pairs = compare([*first, *second, *third], resamples=QUICK).pairs
    ours = next(pair for pair in pairs if (pair.first, pair.second) == ("dense", "logistic"))
    assert 0.01 < ours.by_seed.p_range.high < 0.025
    assert ours.winner == "dense" and ours.by_seed.neither == 0
    with_more = runs_wrong_on(tmp_path, DenseSettings(units=9), {0: range(100, 190)})
    pairs = compare([*first, *second, *third, *with_more], resamples=QUICK).pairs
    ours = next(pair for pair in pairs if (pair.first, pair.second) == ("dense", "logistic"))
    assert ours.winner == "dense" and ours.by_seed.neither == 1
    assert "1 of 2 pairs of their runs are not told apart" in ours.sentence


def test_any_run_may_meet_any_other_whatever_their_seeds(tmp_path):
    dense = runs_wrong_on(tmp_path, DenseSettings(), {0: range(50), 1: range(20)})
    other = runs_wrong_on(
        tmp_path, DenseSettings(units=8), {2: range(100, 150), 1: range(100, 120)}
    )
    (pair,) = compare([*dense, *other], resamples=QUICK).pairs
    assert (pair.by_seed.first, pair.by_seed.second, pair.by_seed.neither) == (1, 1, 2)


def test_the_newest_of_two_runs_with_one_seed_is_kept(tmp_path):
    older, newer = (
        made_run(tmp_path, LABELS, answers(LABELS, right(row)), created=created)
        for row, created in ((1, "2026-01-01T00:00:00+00:00"), (2, "2026-01-02T00:00:00+00:00"))
    )
    for runs in ([older, newer], [newer, older]):
        found = compare(runs, resamples=QUICK)
        assert found.contenders[0].runs == (newer,)
        assert found.notes == (
            f"run {older.id} is left out: {newer.id} is a newer run of the same settings",
        )
    assert compare([newer, newer], resamples=QUICK).notes == ()


def test_seeds_of_a_split_without_a_class(tmp_path):
    labels = np.zeros(30, int)
    runs = [
        made_run(tmp_path, labels, noisy(labels, n_classes=2, seed=seed), seed=seed)
        for seed in range(2)
    ]
    (contender,) = compare(runs, resamples=QUICK).contenders
    assert contender.seed_spread["roc_auc"] is None
    assert contender.seed_spread["accuracy"] is not None
    assert contender.majority_share == 1.0 and contender.chance_p == 1.0


def test_first_runs_that_answer_alike_are_not_all_runs(tmp_path):
    """Seed 1 gets other images wrong: as many, so the means agree as well."""
    wrong = {0: range(8), 1: range(10, 18)}
    first = runs_wrong_on(tmp_path, DenseSettings(), wrong, images=100)
    second = runs_wrong_on(tmp_path, DenseSettings(units=8), wrong, images=100)
    (pair,) = compare([*first, *second], resamples=QUICK).pairs
    assert (pair.test.only_first, pair.test.only_second) == (0, 0)
    assert pair.difference.value == 0 and pair.apart == pytest.approx(8)
    assert "same ones right" not in pair.sentence


@pytest.mark.parametrize(("wrong", "given"), [(8, False), (9, True)])
def test_images_needed_are_said_from_ten_apart(tmp_path, wrong, given):
    runs = [
        *runs_wrong_on(tmp_path, DenseSettings(), {0: range(wrong)}, images=100),
        *runs_wrong_on(tmp_path, LogisticSettings(), {0: [50]}, images=100),
    ]
    (pair,) = compare(runs, resamples=QUICK).pairs
    assert pair.apart == pytest.approx(wrong + 1)
    assert (pair.images_needed is not None) == given
