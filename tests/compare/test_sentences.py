"""What is said of numbers: who wins, by how much, and what stays open."""

import dataclasses

import pytest
from made_runs import made_run

from featurestore.compare.results import (
    Contender,
    Estimate,
    Interval,
    Pair,
    PairedTest,
    SeedVerdicts,
)
from featurestore.compare.sentences import chance_sentence, p_text, pair_sentence, points_text

CLEAR = Pair(
    first="logistic",
    second="knn",
    difference=Estimate(0.031, Interval(0.012, 0.05)),
    test=PairedTest(1000, 45, 14, 0.0002),
    adjusted_p=0.002,
    by_seed=None,
    winner="logistic",
    apart=59.0,
    images_needed=480,
    sentence="",
)
OPEN = dataclasses.replace(
    CLEAR,
    first="dense",
    second="logistic",
    difference=Estimate(0.004, Interval(-0.006, 0.014)),
    test=PairedTest(1000, 16, 12, 0.57),
    adjusted_p=1.0,
    winner=None,
    apart=28.0,
    images_needed=8970,
)


SPREAD = Interval(0.0002, 0.31)


def with_seeds(pair, found):
    return dataclasses.replace(pair, by_seed=found)


def test_told_apart():
    assert pair_sentence(CLEAR, pairs=10) == (
        "logistic is better than knn: 3.1 points (95 % 1.2 to 5.0) on 1,000 images, "
        "p = 0.002 after Holm's correction over 10 pairs"
    )


def test_the_second_wins():
    pair = dataclasses.replace(
        CLEAR,
        difference=Estimate(-0.031, Interval(-0.05, -0.012)),
        test=PairedTest(1000, 14, 45, 0.0002),
        adjusted_p=0.0002,
        winner="knn",
    )
    assert pair_sentence(pair, pairs=1) == (
        "knn is better than logistic: 3.1 points (95 % 1.2 to 5.0) on 1,000 images, p < 0.001"
    )


def test_not_told_apart():
    assert pair_sentence(OPEN, pairs=3) == (
        "dense and logistic are not distinguishable on 1,000 images (difference 0.4 points, "
        "95 % −0.6 to 1.4; p = 1 after Holm's correction over 3 pairs); about 9,000 would be "
        "needed to tell them apart with 80 % power, if the difference is as large as observed"
    )


@pytest.mark.parametrize(
    ("needed", "said"), [(1001, "1,100"), (123_456, "130,000"), (9001, "9,100")]
)
def test_images_needed_are_rounded_up(needed, said):
    pair = dataclasses.replace(OPEN, images_needed=needed)
    assert f"about {said} would be needed" in pair_sentence(pair, pairs=1)


@pytest.mark.parametrize("needed", [None, 900, 1000])
def test_no_number_is_given_that_there_already_is(needed):
    pair = dataclasses.replace(OPEN, images_needed=needed)
    assert "needed" not in pair_sentence(pair, pairs=1)


def test_the_same_answers():
    pair = dataclasses.replace(
        OPEN,
        difference=Estimate(0.0, Interval(-0.004, 0.004)),
        test=PairedTest(1, 0, 0, 1.0),
        apart=0.0,
        images_needed=None,
    )
    assert pair_sentence(pair, pairs=1) == (
        "dense and logistic are not distinguishable on 1 image: they get the same ones right"
    )


def test_first_runs_that_answer_alike_do_not_speak_for_the_others():
    pair = dataclasses.replace(
        OPEN, test=PairedTest(1000, 0, 0, 1.0), difference=Estimate(0.0, None), apart=12.5
    )
    assert "the same ones right" not in pair_sentence(
        with_seeds(pair, SeedVerdicts(0, 0, 4, SPREAD)), pairs=1
    )


def test_of_few_images_apart_no_number_is_said():
    pair = dataclasses.replace(OPEN, test=PairedTest(2, 1, 0, 1.0), apart=1.0, images_needed=None)
    assert pair_sentence(pair, pairs=1).endswith(
        "; fewer than 10 images set them apart, too few to say how many would be needed"
    )


def test_the_corrected_test_decides_against_the_interval():
    pair = dataclasses.replace(
        OPEN,
        difference=Estimate(0.014, Interval(0.002, 0.026)),
        test=PairedTest(1000, 30, 16, 0.04),
        adjusted_p=0.12,
        images_needed=1900,
    )
    said = pair_sentence(pair, pairs=3)
    assert said.startswith("dense and logistic are not distinguishable")
    assert "leaves out zero, but it is not corrected, and the corrected test decides" in said
    assert "leaves out zero, but the exact test decides" in pair_sentence(
        dataclasses.replace(pair, test=PairedTest(1000, 30, 16, 0.06), adjusted_p=0.06), pairs=1
    )


def test_of_several_seeds_the_test_of_the_first_decides():
    pair = dataclasses.replace(
        OPEN,
        difference=Estimate(0.01, Interval(0.001, 0.02)),
        test=PairedTest(1000, 18, 10, 0.18),
        adjusted_p=0.18,
        by_seed=SeedVerdicts(0, 0, 3, Interval(0.06, 0.18)),
    )
    assert "leaves out zero, but the exact test of the first runs decides" in pair_sentence(
        pair, pairs=1
    )


def test_the_test_decides_against_an_interval_that_holds_zero():
    pair = dataclasses.replace(CLEAR, difference=Estimate(0.01, Interval(-0.001, 0.02)))
    assert "the interval includes zero, but the exact test decides" in pair_sentence(pair, pairs=3)


def test_seeds_that_disagree_with_the_first():
    pair = dataclasses.replace(
        CLEAR, difference=Estimate(-0.002, Interval(-0.01, 0.006)), winner=None
    )
    assert pair_sentence(pair, pairs=1) == (
        "the first run of logistic is better than that of knn on 1,000 images, p = 0.002, but over "
        "all seeds it is not: logistic less knn is −0.2 points (95 % −1.0 to 0.6)"
    )


def test_a_decision_that_depends_on_the_seed_says_so():
    said = pair_sentence(with_seeds(CLEAR, SeedVerdicts(7, 0, 2, SPREAD)), pairs=3)
    assert said.startswith("logistic is better than knn: 3.1 points")
    assert said.endswith("; 2 of 9 pairs of their runs are not told apart")
    said = pair_sentence(with_seeds(OPEN, SeedVerdicts(0, 2, 7, SPREAD)), pairs=3)
    assert "; in 2 of 9 pairs of their runs logistic is better; about" in said


def test_seeds_that_agree_are_not_mentioned():
    for pair, found in ((CLEAR, (9, 0, 0)), (OPEN, (0, 0, 9))):
        said = pair_sentence(with_seeds(pair, SeedVerdicts(*found, SPREAD)), pairs=3)
        assert "runs" not in said and "seed" not in said


@pytest.mark.parametrize("pair", [CLEAR, OPEN], ids=["clear", "open"])
def test_seeds_that_go_both_ways_leave_no_winner(pair):
    pair = dataclasses.replace(with_seeds(pair, SeedVerdicts(2, 1, 1, SPREAD)), winner=None)
    points = "3.1 points (95 % 1.2 to 5.0)" if pair.test == CLEAR.test else "0.4 points"
    assert pair_sentence(pair, pairs=3).startswith(
        f"whether {pair.first} or {pair.second} is better depends on the seed: of 4 pairs of their "
        f"runs on 1,000 images, {pair.first} is better in 2 and {pair.second} in 1, after Holm's "
        f"correction over 3 pairs; over all seeds {pair.first} less {pair.second} is {points}"
    )


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (0.0, "p < 0.001"),
        (0.00099, "p < 0.001"),
        (0.0123, "p = 0.012"),
        (0.0497, "p = 0.0497"),
        (0.05, "p = 0.050"),
        (0.561, "p = 0.56"),
        (0.994, "p = 0.99"),
        (0.996, "p > 0.99"),
        (1.0, "p = 1"),
    ],
)
def test_p_values(p, said):
    assert p_text(p) == said


def test_points_have_a_true_minus_and_no_minus_zero():
    assert [points_text(x) for x in (-0.0123, 0.0123, -0.0001, 0.0)] == [
        "−1.2",
        "1.2",
        "0.0",
        "0.0",
    ]


@pytest.fixture
def contender(tmp_path):
    run = made_run(tmp_path, [0, 1], [[0.9, 0.1], [0.2, 0.8]])
    return Contender(
        label="dense",
        runs=(run,),
        metrics={},
        seed_spread=None,
        fit_seconds=1.0,
        predict_us=None,
        model_bytes=1,
        majority_share=0.5,
        chance_share=0.501,
        chance_p=0.0001,
        majority_p=0.0001,
        sentence="",
    )


def said(contender, one_answer=False, **changes):
    return chance_sentence(
        dataclasses.replace(contender, **changes),
        majority_class="cats",
        right=968,
        samples=1000,
        one_answer=one_answer,
    )


def test_better_than_chance(contender):
    assert said(contender) == (
        "dense is better than chance on 1,000 images: 96.8 % right, where its answers in random "
        "order get 50.1 % (p < 0.001) and always answering cats gets 50.0 % (p < 0.001)"
    )


def test_better_than_chance_and_not_than_the_majority(contender):
    assert said(contender, majority_p=0.4).startswith(
        "dense is better than chance on 1,000 images, but is not shown to beat always answering "
        "cats: 96.8 % right, where"
    )


def test_not_better_than_chance(contender):
    assert said(contender, chance_p=0.4).startswith(
        "dense is not distinguishable from chance on 1,000 images: 96.8 % right, where its answers "
        "in random order get 50.1 % (p = 0.40)"
    )


def test_one_answer_may_hide_a_ranking(contender):
    metrics = {"roc_auc": Estimate(0.945, Interval(0.92, 0.97))}
    assert said(contender, True, chance_p=1.0, metrics=metrics) == (
        "dense is not distinguishable from chance on 1,000 images: 96.8 % right, with the same "
        "answer for every image; its probabilities rank the images all the same: ROC AUC 0.945 "
        "(95 % 0.920 to 0.970)"
    )
    no_better = {"roc_auc": Estimate(0.51, Interval(0.49, 0.53))}
    assert "ROC" not in said(contender, True, chance_p=1.0, metrics=no_better)


def test_a_control_that_beats_chance_raises_a_doubt(contender):
    shuffled = dataclasses.replace(contender.runs[0], shuffled_labels=True)
    assert "a control should not be" in said(contender, runs=(shuffled,))
    assert "a control" not in said(contender, runs=(shuffled,), chance_p=0.5)


def test_of_several_seeds_the_tested_one_is_named(contender):
    assert "96.8 % right with seed 0, where" in said(contender, runs=contender.runs * 2)
