"""Folders: which layout it is, what counts as a sample, and what is refused."""

import os
import sys

import pytest

from featurestore.datasets import ScanOptions, scan_dataset
from featurestore.errors import InvalidInput, NotFound

SPLIT = ScanOptions(split="0.5,0.25,0.25", seed=3)


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def rows(scan):
    return [(entry.sample_id, entry.label, entry.split) for entry in scan.entries]


def test_folder_of_splits(tmp_path):
    touch(tmp_path, "train/dogs/2.jpg", "train/cats/1.jpg", "test/cats/3.jpg", "test/dogs/4.jpg")
    scan = scan_dataset(tmp_path)
    assert rows(scan) == [
        ("test/cats/3.jpg", "cats", "test"),
        ("test/dogs/4.jpg", "dogs", "test"),
        ("train/cats/1.jpg", "cats", "train"),
        ("train/dogs/2.jpg", "dogs", "train"),
    ]
    assert scan.class_names == ("cats", "dogs")
    assert scan.sample_ids[0] == "test/cats/3.jpg"
    assert scan.paths[0] == tmp_path / "test" / "cats" / "3.jpg"


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("val", "validation"),
        ("VALID", "validation"),
        ("dev", "validation"),
        ("Validation", "validation"),
        ("test", "test"),
        ("testing", "test"),
    ],
)
def test_names_of_splits(tmp_path, folder, split):
    touch(tmp_path, f"{folder}/a/1.jpg", f"{folder}/b/2.jpg")
    assert {entry.split for entry in scan_dataset(tmp_path).entries} == {split}


def test_folder_of_classes_is_split_by_fractions(tmp_path):
    touch(tmp_path, *(f"{label}/{n}.jpg" for label in ("cats", "dogs") for n in range(40)))
    scan = scan_dataset(tmp_path, options=SPLIT)
    counts = {}
    for entry in scan.entries:
        counts[entry.split] = counts.get(entry.split, 0) + 1
    assert set(counts) == {"train", "validation", "test"}
    assert 28 <= counts["train"] <= 52
    assert len(scan.entries) == 80


def test_the_path_s_spelling_and_the_working_folder_do_not_matter(tmp_path, monkeypatch):
    touch(tmp_path, "data/train/a/1.jpg", "data/train/b/2.jpg")
    monkeypatch.chdir(tmp_path)
    scan = scan_dataset(tmp_path / "data")
    from pathlib import Path

    assert scan_dataset(Path("data")) == scan
    assert scan_dataset(Path("./data/../data/")) == scan


def test_class_missing_from_a_split_is_allowed(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg")
    (tmp_path / "test" / "b").mkdir()
    assert scan_dataset(tmp_path).class_names == ("a", "b")


def test_files_at_any_depth_and_of_any_name_are_samples(tmp_path):
    touch(tmp_path, "train/a/x/y/1.jpg", "train/a/notes.txt", "train/a/no suffix", "train/b/2.JPEG")
    assert [row[0] for row in rows(scan_dataset(tmp_path))] == [
        "train/a/no suffix",
        "train/a/notes.txt",
        "train/a/x/y/1.jpg",
        "train/b/2.JPEG",
    ]


def test_litter_is_passed_over(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "README.md", "train/labels.csv")
    touch(tmp_path, ".git/config", ".cats/1.jpg", "__MACOSX/train/._1.jpg", "train/.cache/3.jpg")
    touch(tmp_path, "train/a/.DS_Store", "train/a/._1.jpg", "train/a/Thumbs.db")
    touch(tmp_path, "train/b/desktop.ini", "train/b/.hidden/4.jpg", "train/b/@eaDir/2.jpg")
    assert len(scan_dataset(tmp_path).entries) == 2


def test_names_in_any_script(tmp_path):
    touch(tmp_path, "train/chats rayés/été 1.jpg", "train/собаки/犬.jpg", "train/🐈/a, b.jpg")
    scan = scan_dataset(tmp_path)
    assert scan.class_names == ("chats rayés", "собаки", "🐈")
    assert "train/chats rayés/été 1.jpg" in scan.sample_ids


def test_ids_and_labels_are_nfc_and_paths_are_as_on_disk(tmp_path):
    decomposed = "train/cafe\u0301/e\u0301.jpg"
    touch(tmp_path, decomposed, "train/b/1.jpg")
    scan = scan_dataset(tmp_path)
    assert scan.class_names == ("b", "caf\u00e9")
    entry = scan.entries[1]
    assert entry.sample_id == "train/caf\u00e9/\u00e9.jpg"
    assert os.path.exists(entry.path)


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system normalises names")
def test_two_names_that_normalise_to_one_are_refused(tmp_path):
    touch(tmp_path, "train/a/e\u0301.jpg", "train/a/\u00e9.jpg", "train/b/1.jpg")
    with pytest.raises(InvalidInput, match="same name once Unicode is normalised"):
        scan_dataset(tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system normalises names")
def test_two_class_folders_that_normalise_to_one_are_refused(tmp_path):
    touch(tmp_path, "train/e\u0301/1.jpg", "train/\u00e9/2.jpg", "train/b/1.jpg")
    with pytest.raises(InvalidInput, match="two class folders"):
        scan_dataset(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_unreadable_not_a_crash(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", os.fsdecode(b"train/a/\xff\xfe.jpg"))
    touch(tmp_path, os.fsdecode(b"train/a/\xe9t\xe9/3.jpg"))
    scan = scan_dataset(tmp_path)
    assert [tuple(each) for each in scan.unreadable] == [
        ("train/a/\\xe9t\\xe9/3.jpg", "file name is not valid UTF-8", None),
        ("train/a/\\xff\\xfe.jpg", "file name is not valid UTF-8", None),
    ]
    assert len(scan.entries) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_class_folder_that_is_not_utf8_is_refused(tmp_path):
    touch(tmp_path, "train/a/1.jpg", os.fsdecode(b"train/\xff/2.jpg"))
    with pytest.raises(InvalidInput, match=r"class folder '\\\\xff' is not valid UTF-8"):
        scan_dataset(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_links_are_followed_and_circles_end(tmp_path):
    touch(tmp_path, "elsewhere/3.jpg", "data/train/a/1.jpg", "data/train/b/2.jpg")
    a = tmp_path / "data" / "train" / "a"
    (a / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (a / "file.jpg").symlink_to(tmp_path / "elsewhere" / "3.jpg")
    (a / "circle").symlink_to(a, target_is_directory=True)
    (tmp_path / "elsewhere" / "up").symlink_to(a, target_is_directory=True)
    scan = scan_dataset(tmp_path / "data")
    assert scan.sample_ids == (
        "train/a/1.jpg",
        "train/a/file.jpg",
        "train/a/linked/3.jpg",
        "train/b/2.jpg",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_what_is_no_file_is_unreadable(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg")
    (tmp_path / "train/a/gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "train/a/self.jpg").symlink_to(tmp_path / "train/a/self.jpg")
    os.mkfifo(tmp_path / "train/a/pipe.jpg")
    reasons = {each.sample_id: each.reason for each in scan_dataset(tmp_path).unreadable}
    assert reasons.pop("train/a/self.jpg")
    assert reasons == {
        "train/a/gone.jpg": "link to nothing",
        "train/a/pipe.jpg": "not a regular file",
    }


REFUSED = {
    "nothing in it": ([], None, "no folders of images"),
    "no split": (["a/1.jpg", "b/2.jpg"], None, "nothing says how to split them"),
    "mixture": (["train/a/1.jpg", "train/b/2.jpg", "cats/3.jpg"], None, "'cats' beside them"),
    "mixture with fractions": (["a/1.jpg", "b/2.jpg", "test/3.jpg"], SPLIT, "beside them are not"),
    "one split twice": (["val/a/1.jpg", "valid/b/2.jpg"], None, "both mean the validation split"),
    "split twice over": (["train/a/1.jpg", "train/b/2.jpg"], SPLIT, "already split"),
    "one class": (["train/a/1.jpg", "test/a/2.jpg"], None, "two classes or more, found only 'a'"),
    "loose images": (["train/a/1.jpg", "train/b/2.jpg", "3.PNG"], None, "1 image files lie in no"),
    "loose in a split": (
        ["train/a/1.jpg", "train/b/2.jpg", "train/3.jpg"],
        None,
        "no class folder",
    ),
    "a flat folder": (["1.jpg", "2.jpg"], SPLIT, "2 image files lie in no class folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_layouts(tmp_path, case):
    names, options, message = REFUSED[case]
    touch(tmp_path, *names)
    with pytest.raises(InvalidInput, match=message):
        scan_dataset(tmp_path, options=options)


def test_unsplit_folder_is_told_both_layouts_and_what_to_type(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    with pytest.raises(InvalidInput) as caught:
        scan_dataset(tmp_path)
    assert "DATASET/train/cats/1.jpg" in str(caught.value)
    assert "DATASET/cats/1.jpg" in str(caught.value)
    assert "--split 0.7,0.15,0.15" in (caught.value.next_step or "")


@pytest.mark.parametrize("options", [None, SPLIT])
def test_empty_class_folder_is_refused_by_name(tmp_path, options):
    top = tmp_path if options else tmp_path / "train"
    touch(top, "a/1.jpg", "b/2.jpg")
    (top / "c" / "deeper").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="no images in the class folders 'c'"):
        scan_dataset(tmp_path, options=options)


def test_empty_split_folder_is_refused_by_name(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg")
    (tmp_path / "test" / "a").mkdir(parents=True)
    with pytest.raises(InvalidInput, match=r"test: no class folder with images"):
        scan_dataset(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(NotFound):
        scan_dataset(tmp_path / "missing")


def test_another_kind_of_file(tmp_path):
    touch(tmp_path, "images.zip")
    with pytest.raises(InvalidInput, match=r"neither \.csv nor \.parquet"):
        scan_dataset(tmp_path / "images.zip")


def test_a_folder_that_cannot_be_listed_is_an_error_not_a_gap(tmp_path, monkeypatch):
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "train/b/locked/3.jpg")
    listed = os.scandir

    def refuse(folder):
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InvalidInput, match="locked: the folder cannot be listed"):
        scan_dataset(tmp_path)


def test_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    touch(tmp_path, *(f"train/{label}/{n}.jpg" for label in "ab" for n in range(9)))
    scan = scan_dataset(tmp_path)
    listed = os.scandir

    class Reversed:
        def __init__(self, folder):
            self.items = listed(folder)

        def __enter__(self):
            return reversed(list(self.items))

        def __exit__(self, *error):
            self.items.close()

    monkeypatch.setattr(os, "scandir", Reversed)
    assert scan_dataset(tmp_path) == scan
