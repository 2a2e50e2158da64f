"""`fs audit` as it is typed."""

import json
import shutil
import subprocess
import sys

import pytest

import featurestore as fs
from featurestore.testing.embedding import TinyChoice
from featurestore.testing.images import write_image_folder
from featurestore_cli.main import run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A cache with a clean set, and the same set with one leak and one quarantined image."""
    root = tmp_path_factory.mktemp("audit")
    for name in ("clean", "leaky"):
        write_image_folder(root / name, splits={"train": 6, "test": 3})
    shutil.copyfile(
        root / "leaky" / "train" / "cats" / "cats.0.jpg",
        root / "leaky" / "test" / "dogs" / "[bold]copy.jpg",
    )
    (root / "leaky" / "train" / "dogs" / "empty.jpg").write_bytes(b"")
    for name in ("clean", "leaky"):
        fs.embed(root / name, fs.EmbedSettings(), cache=root / "cache", choose=TinyChoice)
    return root


@pytest.fixture
def cache(root):
    return ["--cache", str(root / "cache")]


def test_a_leak_ends_with_1_and_says_what_to_remove(cache, capsys):
    assert run(["audit", "leaky", "--no-near", *cache]) == 1
    captured = capsys.readouterr()
    assert "identical images: 1 group across splits, 0 within one; 1 under several labels" in (
        captured.out
    )
    row = next(line for line in captured.out.splitlines() if "copy.jpg" in line)
    assert row.startswith("leak labels")
    assert "train/cats/cats.0.jpg (train, cats), test/dogs/[bold]copy.jpg (test, dogs)" in row
    assert "near" not in captured.out
    assert "quarantine: 1" in captured.out
    assert "leak: 1 group of identical images across splits" in captured.err
    assert "remove 1 image" in captured.err and "train/cats/cats.0.jpg" in captured.err


def test_a_clean_set_ends_with_0(cache, capsys):
    assert run(["audit", "clean", "--near", "0.99999", *cache]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "near duplicates, cosine 0.99999 or more: 0 pairs across splits" in captured.out
    assert "all 153 pairs were compared; the next has cosine 0.9" in captured.out
    assert "quarantine: none" in captured.out


def test_near_duplicates_across_splits_are_leaks(cache, capsys):
    assert run(["audit", "clean", "--near", "0.9", "--show", "1", *cache]) == 1
    captured = capsys.readouterr()
    assert "more (--show N)" in captured.out
    assert "look at the pairs" in captured.err


def test_json_holds_everything(cache, capsys):
    assert run(["audit", "leaky", "--near", "0.99999", "--json", *cache]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["leaks"] is True
    assert found["feature_set"].startswith("leaky/tiny-")
    (group,) = found["identical"]["groups"]
    assert (group["leaks"], group["disagrees"], len(group["samples"])) == (True, True, 2)
    assert found["near"]["across"] == 0  # a copy is identical, not near
    assert found["remove"] == {"train": ["train/cats/cats.0.jpg"]}
    assert found["balance"]["splits"][0]["counts"] == {"cats": 6, "dogs": 6}
    assert found["balance"]["splits"][1]["imbalance"] == pytest.approx(4 / 3)
    assert found["quarantine"] == [
        {"reason": found["quarantine"][0]["reason"], "split": "train", "label": "dogs", "count": 1}
    ]


def test_memory_that_holds_nothing_is_bad_input(cache, capsys):
    assert run(["audit", "clean", "--memory", "10", *cache]) == 3
    assert "--memory" in capsys.readouterr().err


def test_a_cosine_above_one_is_a_usage_error(cache, capsys):
    assert run(["audit", "clean", "--near", "1.5", *cache]) == 2


def test_it_loads_no_tensorflow_and_no_scikit_learn(cache):
    code = (
        "import sys; from featurestore_cli.main import run; "
        f"code = run(['audit', 'clean', '--json', *{cache!r}]); "
        "heavy = ('tensorflow', 'keras', 'sklearn', 'matplotlib', 'statsmodels'); "
        "print([name for name in heavy if name in sys.modules], code)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1].startswith("[]"), found.stdout + found.stderr
