"""From a scan to digests: complete, memoised, and honest about what cannot be read."""

import errno
import hashlib
import os
import sys
import time

import numpy as np
import pytest

from featurestore.datasets import ScanOptions, build, build_manifest, scan_dataset
from featurestore.errors import InvalidInput
from featurestore.state import StateFile
from featurestore.testing.images import write_class_folder, write_image_folder


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "data"
    write_image_folder(root, splits={"train": 3, "val": 2}, size=(8, 8))
    old = time.time() - 100
    for path in root.rglob("*.*"):
        os.utime(path, (old, old))
    return root


@pytest.fixture
def hashed(monkeypatch):
    """The paths whose bytes were hashed."""
    seen = []
    original = build.hash_file

    def recorded(path):
        seen.append(path)
        return original(path)

    monkeypatch.setattr(build, "hash_file", recorded)
    return seen


def test_rows_are_the_files(dataset):
    manifest, unreadable = build_manifest(scan_dataset(dataset))
    assert unreadable == ()
    assert manifest.rows == {"train": 6, "validation": 4}
    for split in manifest.splits.values():
        assert list(split.sample_ids) == sorted(split.sample_ids)
        for at, path in enumerate(split.paths):
            assert split.digests[at] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert split.sample_ids[at] == path.relative_to(dataset).as_posix()
            assert manifest.class_names[split.labels[at]] == path.parent.name
    assert manifest.splits["train"].labels.dtype == np.int64


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_workers_and_memo_do_not_move_the_fingerprint(dataset, tmp_path, workers):
    scan = scan_dataset(dataset)
    expected = build_manifest(scan).manifest.fingerprint
    with StateFile(tmp_path / "state.sqlite") as state:
        for _ in range(2):
            manifest, _ = build_manifest(scan, state=state, workers=workers)
            assert manifest.fingerprint == expected


def test_nothing_is_read_twice(dataset, tmp_path, hashed):
    with StateFile(tmp_path / "state.sqlite") as state:
        build_manifest(scan_dataset(dataset), state=state)
        assert len(hashed) == 10
        hashed.clear()
        build_manifest(scan_dataset(dataset), state=state)
        assert hashed == []
        changed = dataset / "train" / "cats" / "cats.0.jpg"
        changed.write_bytes(b"other bytes")
        manifest, _ = build_manifest(scan_dataset(dataset), state=state)
        assert hashed == [str(changed)]
        assert hashlib.sha256(b"other bytes").hexdigest() in manifest.splits["train"].digests


def test_memo_holds_for_another_working_folder(dataset, tmp_path, hashed, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    with StateFile(tmp_path / "state.sqlite") as state:
        build_manifest(scan_dataset(Path("data")), state=state)
        monkeypatch.chdir(dataset)
        hashed.clear()
        build_manifest(scan_dataset(Path()), state=state)
        assert hashed == []


def test_a_file_that_changed_just_now_is_hashed_again(dataset, tmp_path, hashed):
    path = dataset / "train" / "cats" / "cats.0.jpg"
    path.write_bytes(b"aaaa")
    mtime = path.stat().st_mtime_ns
    with StateFile(tmp_path / "state.sqlite") as state:
        build_manifest(scan_dataset(dataset), state=state)
        # The same size in the same tick of a coarse clock: the stat does not tell.
        path.write_bytes(b"bbbb")
        os.utime(path, ns=(mtime, mtime))
        hashed.clear()
        manifest, _ = build_manifest(scan_dataset(dataset), state=state)
    assert hashed == [str(path)]
    assert hashlib.sha256(b"bbbb").hexdigest() in manifest.splits["train"].digests


def test_long_scans_are_remembered_in_parts(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_FILES_PER_TRANSACTION", 4)
    monkeypatch.setattr(build, "_FILES_PER_TASK", 1)
    original, calls = build.hash_file, []

    def interrupted(path):
        calls.append(path)
        if len(calls) > 8:
            raise KeyboardInterrupt
        return original(path)

    monkeypatch.setattr(build, "hash_file", interrupted)
    with StateFile(tmp_path / "state.sqlite") as state:
        with pytest.raises(KeyboardInterrupt):
            build_manifest(scan_dataset(dataset), state=state, workers=1)
        calls.clear()
        build_manifest(scan_dataset(dataset), state=state, workers=1)
    assert len(calls) == 2


@pytest.mark.parametrize("with_state", [False, True])
def test_a_listed_file_that_is_missing_is_unreadable(tmp_path, with_state):
    write_class_folder(tmp_path / "data", images=2, size=(8, 8))
    (tmp_path / "images.csv").write_text(
        "path,label,split\ndata/cats/cats.0.jpg,cats,train\ndata/dogs/dogs.0.jpg,dogs,train\n"
        "data/gone.jpg,dogs,test\ndata/cats,cats,test\ndata/cats/cats.0.jpg/x,cats,test\n"
    )
    state = StateFile(tmp_path / "state.sqlite") if with_state else None
    manifest, unreadable = build_manifest(scan_dataset(tmp_path / "images.csv"), state=state)
    assert manifest.rows == {"train": 2}
    assert [tuple(each) for each in unreadable] == [
        ("data/cats", "a folder, not a file", None),
        ("data/cats/cats.0.jpg/x", "no such file", None),
        ("data/gone.jpg", "no such file", None),
    ]
    if state:
        state.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOENT, "no such file"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, f"cannot be read: {os.strerror(errno.EIO)}"),
    ],
)
def test_a_file_that_fails_is_unreadable(dataset, monkeypatch, code, reason):
    fail_one(monkeypatch, code)
    manifest, unreadable = build_manifest(scan_dataset(dataset))
    assert [tuple(each) for each in unreadable] == [("train/cats/cats.0.jpg", reason, None)]
    assert manifest.rows == {"train": 5, "validation": 4}
    assert manifest.class_names == ("cats", "dogs")


def fail_one(monkeypatch, code):
    original = build.hash_file

    def failing(path):
        if path.endswith("cats.0.jpg"):
            raise OSError(code, os.strerror(code), path)
        return original(path)

    monkeypatch.setattr(build, "hash_file", failing)


def test_out_of_file_handles_is_no_fault_of_the_file(dataset, monkeypatch):
    fail_one(monkeypatch, errno.EMFILE)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        build_manifest(scan_dataset(dataset))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_what_the_scan_could_not_name_is_reported_too(dataset):
    (dataset / "train" / "cats" / "gone.jpg").symlink_to(dataset / "nothing")
    _, unreadable = build_manifest(scan_dataset(dataset))
    assert [each.reason for each in unreadable] == ["link to nothing"]


def test_no_readable_file_at_all(tmp_path):
    (tmp_path / "images.csv").write_text("path,label,split\n1.jpg,a,train\n2.jpg,b,train\n")
    with pytest.raises(InvalidInput, match=r"none of its 2 files can be read; .* '1\.jpg'"):
        build_manifest(scan_dataset(tmp_path / "images.csv"))


def test_renamed_file_keeps_its_digest_and_moves_the_fingerprint(dataset):
    before, _ = build_manifest(scan_dataset(dataset))
    path = dataset / "train" / "cats" / "cats.0.jpg"
    path.rename(path.with_name("renamed.jpg"))
    after, _ = build_manifest(scan_dataset(dataset))
    assert sorted(after.splits["train"].digests) == sorted(before.splits["train"].digests)
    assert after.fingerprint != before.fingerprint


def test_unsplit_folder(tmp_path):
    write_class_folder(tmp_path, images=12, size=(8, 8))
    options = ScanOptions(split="0.5,0.25,0.25", seed=1)
    manifest, _ = build_manifest(scan_dataset(tmp_path, options=options))
    assert list(manifest.splits) == ["train", "validation", "test"]
    assert sum(manifest.rows.values()) == 24
