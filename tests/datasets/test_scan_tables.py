"""CSV and Parquet manifests."""

import subprocess
import sys

import pytest

from featurestore.datasets import ScanOptions, scan_dataset
from featurestore.errors import InvalidInput

FOUR = [
    ("cats/1.jpg", "cats", "train"),
    ("dogs/2.jpg", "dogs", "train"),
    ("cats/3.jpg", "cats", "val"),
    ("dogs/4.jpg", "dogs", "Test"),
]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def csv_of(tmp_path, *lines, header="path,label,split"):
    return write(tmp_path / "images.csv", "\n".join([header, *lines]) + "\n")


def rows(scan):
    return [(entry.sample_id, entry.label, entry.split) for entry in scan.entries]


def test_csv(tmp_path):
    file = csv_of(tmp_path, *(",".join(row) for row in FOUR))
    scan = scan_dataset(file)
    assert rows(scan) == [
        ("cats/1.jpg", "cats", "train"),
        ("cats/3.jpg", "cats", "validation"),
        ("dogs/2.jpg", "dogs", "train"),
        ("dogs/4.jpg", "dogs", "test"),
    ]
    assert scan.class_names == ("cats", "dogs")
    assert scan.root == tmp_path
    assert scan.paths[0] == tmp_path / "cats" / "1.jpg"


def test_parquet_equals_csv(tmp_path):
    import pyarrow
    import pyarrow.parquet

    columns = dict(zip(("path", "label", "split"), map(list, zip(*FOUR, strict=True)), strict=True))
    pyarrow.parquet.write_table(
        pyarrow.table({"width": [1, 2, 3, 4], **columns}), tmp_path / "images.parquet"
    )
    file = csv_of(tmp_path, *(",".join(row) for row in FOUR))
    assert scan_dataset(tmp_path / "images.parquet") == scan_dataset(file)


def test_parquet_labels_may_be_numbers_but_not_null(tmp_path):
    import pyarrow
    import pyarrow.parquet

    def scan(labels):
        table = pyarrow.table({"path": ["1.jpg", "2.jpg"], "label": labels, "split": ["train"] * 2})
        pyarrow.parquet.write_table(table, tmp_path / "images.parquet")
        return scan_dataset(tmp_path / "images.parquet")

    assert scan([0, 1]).class_names == ("0", "1")
    with pytest.raises(InvalidInput, match="row 2: the label is empty"):
        scan([0, None])


def test_csv_as_spreadsheets_write_it(tmp_path):
    lines = (
        "\ufeffsplit,Path ,label,note",
        'train,"a, b\u2028.jpg",cats,x',
        "",
        'test,c.jpg, dogs ,"1\r\n2"',
    )
    text = "\r\n".join(lines)
    assert rows(scan_dataset(write(tmp_path / "images.CSV", text))) == [
        ("a, b\u2028.jpg", "cats", "train"),
        ("c.jpg", "dogs", "test"),
    ]


def test_paths_are_normalised_and_may_lie_elsewhere(tmp_path):
    (tmp_path / "lists").mkdir()
    outside = tmp_path / "outside.jpg"
    file = csv_of(
        tmp_path / "lists",
        "./a/../e\u0301.jpg,cats,train",
        "../up.jpg,dogs,train",
        f"{outside.as_posix()},dogs,train",
        f"{(tmp_path / 'lists' / 'in.jpg').as_posix()},dogs,train",
    )
    assert set(scan_dataset(file).sample_ids) == {
        "\u00e9.jpg",
        (tmp_path / "up.jpg").as_posix(),
        outside.as_posix(),
        "in.jpg",
    }


REFUSED = {
    "no label": (["path,split", "1.jpg,train"], "expected the columns path, label, split, found"),
    "no split": (["path,label", "1.jpg,cats"], "no column split, and no --split"),
    "empty file": ([], "expected the columns"),
    "no rows": (["path,label,split"], "two classes or more, found none"),
    "one class": (["path,label,split", "1.jpg,a,train"], "found only 'a'"),
    "empty label": (["path,label,split", "1.jpg,a,train", "2.jpg, ,train"], "line 3: the label is"),
    "empty path": (["path,label,split", ",a,train"], "line 2: the path is empty"),
    "short row": (["path,label,split", "1.jpg"], "line 2: the label is empty"),
    "unknown split": (["path,label,split", "1.jpg,a,holdout"], "line 2: .* found 'holdout'"),
    "empty split": (["path,label,split", "1.jpg,a,"], "line 2: .* found ''"),
    "listed twice": (
        ["path,label,split", "1.jpg,a,train", "./1.jpg,b,test"],
        "line 3: './1.jpg' is already listed in line 2",
    ),
    "column twice": (["path,label,split,label", "1.jpg,a,train,b"], "label appears twice"),
    "NUL": (["path,label,split", "1\0.jpg,a,train"], "line 2: the path holds a NUL"),
    "huge cell": (["path,label,split", f"1.jpg,{'a' * 200_000},train"], "cannot be read as CSV"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_tables(tmp_path, case):
    lines, message = REFUSED[case]
    with pytest.raises(InvalidInput, match=message):
        scan_dataset(write(tmp_path / "images.csv", "\n".join(lines)))


def test_csv_that_is_not_utf8(tmp_path):
    file = write(tmp_path / "images.csv", "path,label,split\né.jpg,a,train\n", "latin-1")
    with pytest.raises(InvalidInput, match="CSV in UTF-8"):
        scan_dataset(file)


def test_parquet_that_is_none(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
        scan_dataset(write(tmp_path / "images.parquet", "path,label,split\n"))


def test_csv_without_a_split_column_takes_fractions(tmp_path):
    file = csv_of(tmp_path, *(f"{n}.jpg,{'ab'[n % 2]}" for n in range(40)), header="path,label")
    scan = scan_dataset(file, options=ScanOptions(split="0.5,0.5"))
    assert {entry.split for entry in scan.entries} == {"train", "validation"}


def test_csv_with_a_split_column_refuses_fractions(tmp_path):
    file = csv_of(tmp_path, *(",".join(row) for row in FOUR))
    with pytest.raises(InvalidInput, match="the file has a column split"):
        scan_dataset(file, options=ScanOptions(split="0.5,0.5"))


def test_pyarrow_is_not_loaded_for_csv(tmp_path):
    file = csv_of(tmp_path, *(",".join(row) for row in FOUR))
    code = (
        "import sys; from pathlib import Path; from featurestore.datasets import scan_dataset\n"
        f"scan_dataset(Path({str(file)!r}))\n"
        "print(sorted({'pyarrow', 'tensorflow', 'zarr', 'h5py', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
