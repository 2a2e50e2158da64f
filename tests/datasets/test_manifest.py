"""The manifest's fingerprint: what moves it and what does not."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from featurestore.digests import fingerprint
from featurestore.manifest import SPLITS, Manifest, ManifestSplit

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@st.composite
def row_lists(draw):
    """Unordered [sample id, digest, label, split] rows with unique ids, two labels or more."""
    ids = draw(st.lists(TEXT, min_size=2, max_size=12, unique=True))
    labels = draw(st.lists(TEXT, min_size=2, max_size=3, unique=True))
    return [
        [
            sample_id,
            draw(st.binary(min_size=32, max_size=32)).hex(),
            labels[at % len(labels)],
            draw(st.sampled_from(SPLITS)),
        ]
        for at, sample_id in enumerate(ids)
    ]


def manifest_of(rows):
    class_names = tuple(sorted({row[2] for row in rows}))
    splits = {}
    for split in reversed(SPLITS):
        members = sorted(row for row in rows if row[3] == split)
        splits[split] = ManifestSplit(
            sample_ids=tuple(row[0] for row in members),
            labels=np.array([class_names.index(row[2]) for row in members], np.int64),
            sha256=np.array([list(bytes.fromhex(row[1])) for row in members], np.uint8).reshape(
                -1, 32
            ),
            paths=tuple(Path("somewhere", str(at)) for at in range(len(members))),
        )
    return Manifest(class_names, splits)


def in_order(rows):
    return sorted(rows, key=lambda row: (SPLITS.index(row[3]), row[0]))


@given(row_lists())
def test_fingerprint_is_that_of_the_ordered_rows(rows):
    assert manifest_of(rows).fingerprint == fingerprint(in_order(rows))


@given(row_lists(), st.randoms())
def test_order_does_not_move_the_fingerprint(rows, random):
    before = manifest_of(rows).fingerprint
    random.shuffle(rows)
    assert manifest_of(rows).fingerprint == before


@given(row_lists(), st.data())
def test_every_field_of_every_row_moves_the_fingerprint(rows, data):
    before = manifest_of(rows).fingerprint
    row = data.draw(st.sampled_from(rows))
    field = data.draw(st.integers(0, 3))
    new = {
        0: TEXT,
        1: st.binary(min_size=32, max_size=32).map(bytes.hex),
        2: TEXT,
        3: st.sampled_from(SPLITS),
    }
    value = data.draw(new[field])
    assume(value != row[field])
    assume(field != 0 or all(other[0] != value for other in rows))
    row[field] = value
    assert manifest_of(rows).fingerprint != before


@pytest.mark.parametrize("count", [1023, 1024, 1025, 2048, 2500])
def test_pieces_join_without_a_seam(count):
    rows = [[f"{n}.jpg", f"{n:064x}", "ab"[n % 2], "train"] for n in range(count)]
    assert manifest_of(rows).fingerprint == fingerprint(in_order(rows))


def test_known_answer():
    rows = [["b.jpg", "00" * 32, "é", "test"], ["a.jpg", "ff" * 32, "z", "train"]]
    text = '[["a.jpg","' + "ff" * 32 + '","z","train"],["b.jpg","' + "00" * 32 + '","é","test"]]'
    import hashlib

    assert manifest_of(rows).fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_same_in_processes_with_different_hash_seeds():
    code = (
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from featurestore.manifest import Manifest, ManifestSplit\n"
        "parts = {s: ManifestSplit(sample_ids=(f'{s}/1', f'{s}/2'), labels=np.array([0, 1]),\n"
        "    sha256=np.zeros((2, 32), np.uint8), paths=(Path('x'), Path('y')))\n"
        "    for s in {'test', 'train', 'validation'}}\n"
        "print(Manifest(tuple(sorted({'a', 'b'})), parts).fingerprint)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(found) == 1


@given(row_lists(), st.data())
def test_without_drops_the_rows_of_those_digests_and_no_class(rows, data):
    dropped = set(data.draw(st.lists(st.sampled_from([row[1] for row in rows]))))
    whole = manifest_of(rows)
    kept = whole.without(dropped)
    assert kept.class_names == whole.class_names
    assert kept.fingerprint == fingerprint(in_order([r for r in rows if r[1] not in dropped]))
    for name, split in kept.splits.items():
        was = dict(zip(whole.splits[name].sample_ids, whole.splits[name].paths, strict=True))
        assert split.paths == tuple(was[sample_id] for sample_id in split.sample_ids)


def test_select_by_masks():
    rows = [[f"{n}.jpg", f"{n:064x}", "ab"[n % 2], SPLITS[n % 2]] for n in range(6)]
    kept = manifest_of(rows).select({"train": np.array([True, False, True])})
    assert kept.rows == {"train": 2}
    assert kept.splits["train"].sample_ids == ("0.jpg", "4.jpg")
    assert kept.splits["train"].digests == [f"{0:064x}", f"{4:064x}"]


def test_splits_are_in_canonical_order_and_never_empty():
    rows = [["a", "00" * 32, "x", "test"], ["b", "11" * 32, "y", "train"]]
    manifest = manifest_of(rows)
    assert list(manifest.splits) == ["train", "test"]
    assert manifest.rows == {"train": 1, "test": 1}
    assert list(manifest.without({"11" * 32}).splits) == ["test"]


def test_wrong_columns_are_a_bug():
    one = {"labels": np.array([0]), "sha256": np.zeros((1, 32), np.uint8), "paths": (Path("x"),)}
    with pytest.raises(ValueError, match="columns of 2 rows"):
        ManifestSplit(sample_ids=("a", "b"), **one)
    with pytest.raises(ValueError, match="sorted"):
        Manifest(("b", "a"), {})
    with pytest.raises(ValueError, match="splits are"):
        Manifest(("a", "b"), {"val": ManifestSplit(sample_ids=("a",), **one)})
