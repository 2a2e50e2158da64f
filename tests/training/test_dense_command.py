"""`fs train --head dense`: its options, its line on a terminal, its event files."""

import contextlib
import json
import re
import sys

import pytest

from featurestore.testing.heads import MemoryFeatures, blobs
from featurestore_cli import train as command
from featurestore_cli.dataset_argument import Meant
from featurestore_cli.main import run

DENSE = ["train", "blobs", "--head", "dense", "--units", "8", "--epochs", "3", "--json"]


@pytest.fixture(autouse=True)
def rows(monkeypatch, tmp_path):
    rows = {
        split: blobs(40, n_classes=2, seed=seed)
        for seed, split in enumerate(("train", "validation", "test"))
    }

    @contextlib.contextmanager
    def open_record(record):
        yield MemoryFeatures(rows, ("cats", "dogs"))

    monkeypatch.setattr(command, "meant_by", lambda name, **_: Meant(name))
    monkeypatch.setattr(command, "open_record", open_record)
    monkeypatch.setenv("FS_CACHE", str(tmp_path / "cache"))
    return rows


def test_options_are_the_settings(capsys):
    given = ["--optimizer", "adam", "--early-stopping", "2", "--class-weight", "balanced"]
    assert run([*DENSE, *given]) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = {"optimizer": "adam", "patience": 2, "class_weight": "balanced"}
    assert printed["settings"].items() >= expected.items()
    assert set(printed["chosen"]) == {"epoch"}


def test_early_stopping_without_validation_rows_is_bad_input(rows, capsys):
    del rows["validation"]
    assert run([*DENSE, "--early-stopping", "2"]) == 3
    assert "--early-stopping" in capsys.readouterr().err


def test_event_files_bear_the_name_of_the_run(tmp_path, capsys):
    assert run([*DENSE, "--tensorboard", str(tmp_path / "logs")]) == 0
    printed = json.loads(capsys.readouterr().out)
    (folder,) = (tmp_path / "logs").iterdir()
    assert folder.name == printed["run"]
    assert sorted(path.name for path in folder.iterdir()) == ["train", "validation"]


def test_event_files_of_a_head_without_epochs_are_a_usage_error(tmp_path, capsys):
    logs = str(tmp_path / "logs")
    assert run(["train", "blobs", "--head", "logistic", "--tensorboard", logs]) == 2
    assert "--tensorboard: not an option of --head logistic" in capsys.readouterr().err


def test_a_terminal_shows_each_epoch_on_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "70")
    assert run(DENSE) == 0
    lines = capsys.readouterr().err.split("\r\x1b[K")
    shown = [line for line in lines if line.startswith("epoch")]
    assert [line.split(":")[0] for line in shown] == [f"epoch {n} of 3" for n in (1, 2, 3)]
    assert all(re.search(r": loss \d\.\d{4}, acc.*; validation \d", line) for line in shown)
    assert max(map(len, shown)) < 70
    assert lines[-1].startswith("note") or "epoch" not in lines[-1]
