"""What must be computed is decided without a model, a disk or a clock."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featurestore.embedding.plan import cut_to_fit, plan_embedding
from featurestore.manifest import Manifest, ManifestSplit


def digest(number: int) -> np.ndarray:
    # A trailing zero byte: NumPy's byte strings drop it unless keys are compared at full width.
    return np.array([number % 256, number // 256, *[7] * 29, 0], np.uint8)


def manifest_of(**splits: list[int]) -> Manifest:
    return Manifest(
        ("a", "b"),
        {
            name: ManifestSplit(
                sample_ids=tuple(f"{name}/{row:04d}.png" for row in range(len(numbers))),
                labels=np.arange(len(numbers)) % 2,
                sha256=np.array([digest(n) for n in numbers], np.uint8).reshape(-1, 32),
                paths=tuple(Path(f"{name}/{row:04d}.png") for row in range(len(numbers))),
            )
            for name, numbers in splits.items()
        },
    )


def available(numbers: list[int]) -> np.ndarray:
    return np.array([digest(n) for n in numbers], np.uint8).reshape(-1, 32)


def planned(plan) -> list[int]:
    return [int(row[0]) + 256 * int(row[1]) for unit in plan.units for row in unit.digests]


def test_everything_is_computed_when_nothing_exists():
    plan = plan_embedding(
        manifest_of(train=[1, 2, 3], test=[4]), available=available([]), quarantined={}
    )
    assert planned(plan) == [1, 2, 3, 4]
    assert (plan.to_compute, plan.reused, plan.repeated) == (4, 0, 0)


def test_identical_images_are_computed_once_across_splits():
    plan = plan_embedding(
        manifest_of(train=[1, 1, 2], test=[2, 3]), available=available([]), quarantined={}
    )
    assert planned(plan) == [1, 2, 3]
    assert plan.repeated == 2


def test_what_exists_is_reused_and_what_is_quarantined_is_left_alone():
    plan = plan_embedding(
        manifest_of(train=[1, 2, 3, 4]),
        available=available([2, 9]),
        quarantined={digest(3).tobytes().hex(): "truncated"},
    )
    assert planned(plan) == [1, 4]
    assert plan.reused == 1
    assert [(q.sample_id, q.reason) for q in plan.quarantined] == [("train/0002.png", "truncated")]


def test_units_hold_256_rows_and_name_their_files():
    plan = plan_embedding(
        manifest_of(train=list(range(600))), available=available([]), quarantined={}
    )
    assert [len(unit) for unit in plan.units] == [256, 256, 88]
    assert plan.units[1].sample_ids[0] == "train/0256.png"


@given(
    numbers=st.lists(st.integers(0, 400), max_size=60),
    staged=st.sets(st.integers(0, 20)),
    unit_rows=st.integers(1, 9),
)
def test_the_units_left_after_a_kill_are_the_ones_first_planned(numbers, staged, unit_rows):
    manifest = manifest_of(train=numbers)
    first = plan_embedding(manifest, available=available([]), quarantined={}, unit_rows=unit_rows)
    done = [unit for at, unit in enumerate(first.units) if at in staged]
    left = [unit for at, unit in enumerate(first.units) if at not in staged]
    have = np.concatenate([available([]), *(unit.digests for unit in done)])
    again = plan_embedding(manifest, available=have, quarantined={}, unit_rows=unit_rows)
    assert [u.digests.tolist() for u in again.units] == [u.digests.tolist() for u in left]


@given(
    numbers=st.lists(st.integers(0, 50), max_size=40),
    have=st.lists(st.integers(0, 50)),
)
def test_every_row_is_accounted_for_once(numbers, have):
    plan = plan_embedding(manifest_of(train=numbers), available=available(have), quarantined={})
    assert plan.to_compute + plan.reused + plan.repeated == len(numbers)
    assert set(planned(plan)) == set(numbers) - set(have)


def test_units_of_large_features_are_cut_to_fit_in_memory():
    plan = plan_embedding(
        manifest_of(train=list(range(300))), available=available([]), quarantined={}
    )
    assert [len(unit) for unit in cut_to_fit(plan.units, row_bytes=16_384)] == [256, 44]
    pieces = cut_to_fit(plan.units, row_bytes=12_845_056)
    assert [len(unit) for unit in pieces][:3] == [20, 20, 20]
    assert [name for unit in pieces for name in unit.sample_ids] == [
        name for unit in plan.units for name in unit.sample_ids
    ]
