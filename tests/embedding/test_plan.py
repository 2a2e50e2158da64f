"""What must be computed is decided without a model, a disk or a clock."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featurestore.augmentation import Augmentation
from featurestore.embedding.plan import cut_to_fit, plan_embedding
from featurestore.manifest import Manifest, ManifestSplit
from featurestore.recipe import Views


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


def views(count: int) -> Views:
    return Views(augmentation=Augmentation(), seed=2, count=count)


def of_views(numbers: list[int], view: int) -> np.ndarray:
    return views(1).digests(available(numbers), view)


def rows_of(plan) -> list[tuple[int, int | None]]:
    return [
        (int(unit.digests[image][0]), version)
        for unit in plan.units
        for image, version in unit.rows()
    ]


def test_views_are_of_training_images_alone_and_stand_beside_them():
    plan = plan_embedding(
        manifest_of(train=[1, 2], validation=[3], test=[2]),
        available=available([]),
        quarantined={},
        views=views(2),
    )
    assert rows_of(plan) == [(1, None), (1, 0), (1, 1), (2, None), (2, 0), (2, 1), (3, None)]
    assert (plan.to_compute, plan.repeated) == (3, 1)
    assert (plan.views_to_compute, plan.views_reused, plan.views_repeated) == (4, 0, 0)


def test_two_files_with_the_same_bytes_have_the_same_views():
    plan = plan_embedding(
        manifest_of(train=[1, 1]), available=available([]), quarantined={}, views=views(3)
    )
    assert rows_of(plan) == [(1, None), (1, 0), (1, 1), (1, 2)]
    assert (plan.repeated, plan.views_repeated) == (1, 3)


def test_only_the_versions_that_do_not_exist_are_computed():
    have = np.concatenate([available([1, 2]), of_views([1, 3], 0), of_views([1, 2], 1)])
    plan = plan_embedding(
        manifest_of(train=[1, 2, 3]), available=have, quarantined={}, views=views(3)
    )
    assert rows_of(plan) == [(1, 2), (2, 0), (2, 2), (3, None), (3, 1), (3, 2)]
    assert (plan.reused, plan.views_reused) == (2, 4)


def test_views_of_other_ranges_or_seeds_are_not_taken_for_these():
    others = [
        Views(augmentation=Augmentation(), seed=3, count=1),
        Views(augmentation=Augmentation(zoom=0.1), seed=2, count=1),
    ]
    have = np.concatenate([available([1]), *(each.digests(available([1]), 0) for each in others)])
    plan = plan_embedding(manifest_of(train=[1]), available=have, quarantined={}, views=views(1))
    assert rows_of(plan) == [(1, 0)]


def test_an_image_whose_views_cannot_be_read_is_quarantined_in_every_split():
    plan = plan_embedding(
        manifest_of(train=[1, 2], test=[1]),
        available=available([1]),
        quarantined={digest(1).tobytes().hex(): "truncated"},
        views=views(1),
    )
    assert rows_of(plan) == [(2, None), (2, 0)]
    assert [q.sample_id for q in plan.quarantined] == ["train/0000.png", "test/0000.png"]


def test_units_with_views_have_about_256_rows_and_whole_images():
    plan = plan_embedding(
        manifest_of(train=list(range(100)), test=[200]),
        available=available([]),
        quarantined={},
        views=views(6),
    )
    assert [len(unit) for unit in plan.units] == [37, 37, 27]
    assert [len(unit.rows()) for unit in plan.units] == [259, 259, 183]


@given(
    numbers=st.lists(st.integers(0, 60), max_size=30),
    tested=st.lists(st.integers(0, 60), max_size=10),
    staged=st.sets(st.integers(0, 20)),
    unit_rows=st.integers(1, 12),
    count=st.integers(1, 5),
)
def test_the_units_with_views_left_after_a_kill_are_the_ones_first_planned(
    numbers, tested, staged, unit_rows, count
):
    manifest, drawn = manifest_of(train=numbers, test=tested), views(count)
    first = plan_embedding(
        manifest, available=available([]), quarantined={}, views=drawn, unit_rows=unit_rows
    )
    done = [unit for at, unit in enumerate(first.units) if at in staged]
    left = [unit for at, unit in enumerate(first.units) if at not in staged]
    have = np.concatenate([available([]), *(unit.keys(unit.rows(), drawn) for unit in done)])
    again = plan_embedding(
        manifest, available=have, quarantined={}, views=drawn, unit_rows=unit_rows
    )
    assert [(u.digests.tolist(), u.versions) for u in again.units] == [
        (u.digests.tolist(), u.versions) for u in left
    ]
    every = again.views_to_compute + again.views_reused + again.views_repeated
    assert every == len(numbers) * count
    assert again.to_compute + again.reused + again.repeated == len(numbers) + len(tested)


@given(count=st.integers(1, 40), most=st.integers(1, 30))
def test_units_with_views_are_cut_to_fit_without_losing_a_row(count, most):
    plan = plan_embedding(
        manifest_of(train=list(range(9))), available=available([]), quarantined={},
        views=views(count),
    )  # fmt: skip
    pieces = cut_to_fit(plan.units, row_bytes=256 * 1024**2 // most)
    assert max(len(piece.rows()) for piece in pieces) <= most
    assert [(piece.sample_ids[image], version) for piece in pieces
            for image, version in piece.rows()] == [
        (unit.sample_ids[image], version) for unit in plan.units for image, version in unit.rows()
    ]  # fmt: skip
