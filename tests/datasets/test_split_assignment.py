"""Seeded splits: where each sample goes depends on its id and the seed."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.datasets import Entry, SplitFractions
from featurestore.datasets.splitting import assign_splits, position
from featurestore.errors import InvalidInput

THREE = SplitFractions.parse("0.7,0.15,0.15")


def entries(label, numbers):
    return [Entry(f"{label}/{n}.jpg", f"/{label}/{n}.jpg", label, "") for n in numbers]


def splits(found):
    return {entry.sample_id: entry.split for entry in found}


def test_position_is_the_stated_hash():
    expected = int(hashlib.sha256(b"7/cats/\xc3\xa9.jpg").hexdigest()[:16], 16)
    assert position("cats/é.jpg", seed=7) == expected


@pytest.mark.parametrize(
    ("seed", "letters"),
    [
        (1, "tttetteettvvtteetttt"),
        # By hash alone "vttttttttt": of the nine in train, number 2 is the nearest to test.
        (0, "vtettttttt"),
    ],
)
def test_assignment_known_answer(seed, letters):
    # Literal, so that no change of code can move anybody's test images unseen.
    fractions = SplitFractions.parse("0.7,0.15,0.15", seed=seed)
    found = splits(assign_splits(entries("cats", range(len(letters))), fractions))
    names = {"t": "train", "v": "validation", "e": "test"}
    assert found == {f"cats/{n}.jpg": names[letter] for n, letter in enumerate(letters)}


def test_fractions_are_met_per_class_within_chance():
    members = [*entries("a", range(4000)), *entries("b", range(2000))]
    for label, total in (("a", 4000), ("b", 2000)):
        found = Counter(e.split for e in assign_splits(members, THREE) if e.label == label)
        assert found["train"] / total == pytest.approx(0.7, abs=0.04)
        assert found["validation"] / total == pytest.approx(0.15, abs=0.04)
        assert found["test"] / total == pytest.approx(0.15, abs=0.04)


@given(st.integers(0, 2**31), st.integers(40, 80), st.integers(0, 40))
def test_added_files_move_nothing(seed, before, added):
    fractions = SplitFractions.parse("0.6,0.2,0.2", seed=seed)
    first = splits(assign_splits(entries("a", range(before)), fractions))
    if len(set(first.values())) < 3:
        return  # forty images that miss a split by chance: the exception, tested below
    unfilled = {
        sample_id: next(
            name
            for name, (_, stop) in fractions.intervals.items()
            if position(sample_id, seed=seed) < stop
        )
        for sample_id in first
    }
    second = splits(
        assign_splits(
            [*entries("b", range(added)), *entries("a", range(before + added))], fractions
        )
    )
    if len(set(unfilled.values())) == 3:
        assert {sample_id: second[sample_id] for sample_id in first} == first == unfilled


@given(
    st.integers(0, 10_000),
    st.integers(0, 12),
    st.sampled_from(["0.7,0.15,0.15", "0.9,0.1", "0.98,0.01,0.01", "0,0.5,0.5", "1,0,0"]),
)
def test_small_classes_reach_every_split_that_has_a_fraction(seed, images, text):
    fractions = SplitFractions.parse(text, seed=seed)
    wanted = set(fractions.intervals)
    found = splits(assign_splits(entries("a", range(images)), fractions))
    assert len(found) == images
    assert set(found.values()) <= wanted
    if images >= len(wanted):
        assert set(found.values()) == wanted
    shuffled = assign_splits(entries("a", reversed(range(images))), fractions)
    assert splits(shuffled) == found


def test_the_nearest_image_is_the_one_that_moves():
    fractions = SplitFractions.parse("0.5,0.5", seed=0)
    half = 1 << 63
    ids = [f"a/{n}.jpg" for n in range(200)]
    low = sorted((i for i in ids if position(i, seed=0) < half), key=lambda i: position(i, seed=0))
    found = splits(assign_splits([Entry(i, "/" + i, "a", "") for i in low[:5]], fractions))
    assert [i for i in low[:5] if found[i] == "validation"] == [low[4]]
    high = sorted(
        (i for i in ids if position(i, seed=0) >= half), key=lambda i: position(i, seed=0)
    )
    found = splits(assign_splits([Entry(i, "/" + i, "a", "") for i in high[:5]], fractions))
    assert [i for i in high[:5] if found[i] == "train"] == [high[0]]


def test_seed_moves_samples():
    one, two = (
        splits(assign_splits(entries("a", range(50)), SplitFractions.parse("0.5,0.5", seed=seed)))
        for seed in (1, 2)
    )
    assert one != two


@pytest.mark.parametrize(
    "text", ["0.7,0.15,0.15", "0.8,0.2", " 0.1, 0.2 ,0.7", "1/3,1/3,1/3", "1,0", "0,0,1", "7e-1,.3"]
)
def test_fractions_that_are_fine(text):
    assert sum(SplitFractions.parse(text).fractions) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a number"),
        ("0.7", "found 1 numbers"),
        ("0.25,0.25,0.25,0.25", "found 4 numbers"),
        ("0.7,0.2,0.2", "sum to 1.1"),
        ("70,15,15", "sum to 100"),
        ("0.33,0.33,0.33", "sum to 0.99"),
        ("1.2,-0.2", "negative"),
        ("nan,1", "not a number"),
        ("inf,1", "not a number"),
        ("1/0,1", "not a number"),
        ("a,b", "not a number"),
    ],
)
def test_fractions_that_are_not(text, why):
    with pytest.raises(InvalidInput, match=why):
        SplitFractions.parse(text)


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1))
def test_intervals_cover_every_position_once(place):
    owners = [name for name, (start, stop) in THREE.intervals.items() if start <= place < stop]
    assert len(owners) == 1
