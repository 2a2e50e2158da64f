"""Checkpoints: whole or absent on disk, and a resumed fit that ends as an undisturbed one."""

import dataclasses
import errno
import time
from pathlib import Path

import numpy as np
import pytest

from featurestore.collect import find_garbage, remove_garbage
from featurestore.errors import Conflict, InvalidInput
from featurestore.locks import is_held
from featurestore.testing.faults import count_operations, fail_operation
from featurestore.testing.heads import MemoryFeatures, blobs
from featurestore.training.checkpoints import (
    CheckpointFolder,
    Resumption,
    checkpoints_of,
    find_unfinished,
)
from featurestore.training.contract import Checkpoint, FitOptions
from featurestore.training.heads import create_head
from featurestore.training.settings import DenseSettings
from featurestore.training.train import TrainOptions, train

TRAINING = {"head": "dense", "settings": {"learning_rate": 2e-5}, "seed": 3}


def made(epoch):
    rng = np.random.default_rng(epoch)
    return Checkpoint(
        epoch=epoch,
        arrays={
            "model 0": rng.normal(size=(3, 4)).astype(np.float32),
            "state": rng.integers(0, 2**32, 2, np.uint32),
            "optimizer 0": np.array(epoch, np.int64),
        },
        state={"history": {"train_loss": [0.1] * epoch}, "shuffles": {"state": 2**100 + epoch}},
    )


def same(found, expected):
    return (
        found.epoch == expected.epoch
        and found.state == expected.state
        and found.arrays.keys() == expected.arrays.keys()
        and all(
            np.array_equal(array, expected.arrays[name])
            and array.dtype == expected.arrays[name].dtype
            for name, array in found.arrays.items()
        )
    )


def test_the_last_one_is_found_and_the_one_before_is_gone(tmp_path):
    folder = CheckpointFolder(tmp_path)
    assert folder.latest() is None
    for epoch in (1, 2, 11):
        folder.save(made(epoch))
        assert same(folder.latest(), made(epoch))
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000011.checkpoint"]


@pytest.mark.parametrize("damage", ["torn", "empty", "flipped", "no archive"])
def test_a_damaged_one_is_passed_over(tmp_path, damage):
    folder = CheckpointFolder(tmp_path)
    folder.save(made(1))
    kept = next(tmp_path.iterdir()).read_bytes()
    folder.save(made(2))
    (last,) = tmp_path.iterdir()
    (tmp_path / "epoch-000001.checkpoint").write_bytes(kept)
    content = bytearray(last.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    damaged = {
        "torn": content[: len(content) // 2],
        "empty": b"",
        "flipped": content,
        "no archive": b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n",
    }
    last.write_bytes(damaged[damage])
    told = []
    folder = CheckpointFolder(tmp_path, resumption=Resumption(damaged=told.append))
    assert same(folder.latest(), made(1))
    assert told == [last]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError(errno.EIO, "Input/output error"), OSError), (MemoryError(), InvalidInput)],
    ids=["read error", "no memory"],
)
def test_one_that_cannot_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch, error, expected):
    """It may be whole, and the save after an epoch begun anew would remove it."""
    folder = CheckpointFolder(tmp_path)
    folder.save(made(7))

    def read_bytes(path):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "read_bytes", read_bytes)
        with pytest.raises(expected):
            folder.latest()
    assert same(folder.latest(), made(7))


def test_every_failing_operation_leaves_a_whole_one(tmp_path):
    def folder_with_one(name):
        (tmp_path / name).mkdir()
        folder = CheckpointFolder(tmp_path / name)
        folder.save(made(1))
        return folder

    counted = folder_with_one("counted")
    operations = count_operations(lambda: counted.save(made(2)))
    assert operations >= 4
    for k in range(operations):
        folder = folder_with_one(str(k))
        with fail_operation(k, errno.ENOSPC) as log, pytest.raises(OSError, match="No space"):
            folder.save(made(2))
        assert log.failed
        found = folder.latest()
        assert same(found, made(found.epoch)) and found.epoch in (1, 2)
        folder.save(made(2))
        assert same(folder.latest(), made(2))
        assert len(list(folder.path.iterdir())) == 1


def open_training(cache, *, restart=False, resumed=None, **changed):
    resumption = Resumption(restart=restart, resumed=resumed)
    return checkpoints_of({**TRAINING, **changed}, cache=cache, resumption=resumption)


def kill_after_first(cache, **changed):
    with pytest.raises(KeyboardInterrupt), open_training(cache, **changed) as checkpoints:
        checkpoints.save(made(1))
        raise KeyboardInterrupt


def test_a_training_finds_its_own_checkpoints_until_it_has_ended(tmp_path):
    kill_after_first(tmp_path)
    told = []
    with open_training(tmp_path, seed=4, resumed=told.append) as other:
        assert other.latest() is None
    with open_training(tmp_path, resumed=told.append) as checkpoints:
        assert same(checkpoints.latest(), made(1))
    assert told == [1]
    with open_training(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
    assert list((tmp_path / "runs" / ".unfinished").iterdir()) == []


@pytest.mark.parametrize(
    ("module", "name", "other"),
    [
        ("featurestore.backbones.network", "device_name", lambda: "another GPU"),
        ("importlib.metadata", "version", lambda name: "2.0" if name == "pillow" else "1.0"),
    ],
    ids=["device", "pillow"],
)
def test_what_decides_the_numbers_decides_what_is_found(tmp_path, monkeypatch, module, name, other):
    """Pillow decodes, resizes and warps; a GPU rounds otherwise than a processor."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0")
    kill_after_first(tmp_path)
    with open_training(tmp_path) as checkpoints, monkeypatch.context() as patched:
        assert checkpoints.latest() is not None
        patched.setattr(f"{module}.{name}", other)
        with open_training(tmp_path) as elsewhere:
            assert elsewhere.latest() is None


def test_restart_begins_anew(tmp_path):
    kill_after_first(tmp_path)
    with open_training(tmp_path, restart=True) as checkpoints:
        assert checkpoints.latest() is None


@pytest.fixture
def no_open_file_is_removed(monkeypatch):
    """As Windows has it: a lock file cannot be removed while it is held."""
    unlink = Path.unlink

    def refusing(path, missing_ok=False):
        if path.suffix == ".lock" and is_held(path):
            raise PermissionError(errno.EACCES, "it is used by another process", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)


@pytest.mark.usefixtures("no_open_file_is_removed")
def test_the_lock_goes_where_no_open_file_is_removed(tmp_path):
    unfinished = tmp_path / "runs" / ".unfinished"
    with open_training(tmp_path):
        pass
    assert list(unfinished.iterdir()) == []
    kill_after_first(tmp_path)
    remove_garbage(tmp_path, find_garbage(tmp_path, staging=True))
    assert list(unfinished.iterdir()) == []


def test_the_lock_goes_while_it_is_held(tmp_path, monkeypatch):
    """Removed afterwards, a waiter could hold it by then, and a third make a new one."""
    unlink, held = Path.unlink, []

    def noting(path, missing_ok=False):
        if path.suffix == ".lock":
            held.append(is_held(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", noting)
    with open_training(tmp_path):
        pass
    assert held[:1] == [True]


def test_the_same_training_goes_on_once_at_a_time(tmp_path):
    with open_training(tmp_path):
        with pytest.raises(Conflict, match="the same training is being written") as caught:
            open_training(tmp_path).__enter__()
        assert "--seed" in caught.value.next_step
        with open_training(tmp_path, seed=4):
            pass


def test_unfinished_trainings_are_listed(tmp_path):
    assert find_unfinished(tmp_path) == []
    kill_after_first(tmp_path)
    with open_training(tmp_path, seed=4):
        first, second = sorted(find_unfinished(tmp_path), key=lambda each: -each.epoch)
        assert (first.epoch, first.under_way) == (1, False)
        assert (second.epoch, second.under_way) == (0, True)
    assert [each.path for each in find_unfinished(tmp_path)] == [first.path]


def test_unfinished_trainings_say_what_they_are(tmp_path):
    kill_after_first(tmp_path, path="fine-tune", feature_set="photos/tiny", started_from="dense-1")
    (found,) = find_unfinished(tmp_path)
    told = (found.path_taken, found.feature_set, found.started_from)
    assert told == ("fine-tune", "photos/tiny", "dense-1")
    for damage in (b"{", b"[]", b'{"path": 3, "feature_set": {}}'):
        (found.path / "training.json").write_bytes(damage)
        (damaged,) = find_unfinished(tmp_path)
        told = (damaged.path_taken, damaged.feature_set, damaged.started_from)
        assert told == (None, None, None)
        assert damaged.epoch == 1


@pytest.mark.parametrize("error", [InvalidInput("an image has changed"), KeyboardInterrupt()])
def test_nothing_stays_of_a_training_that_ended_before_its_first_checkpoint(tmp_path, error):
    with pytest.raises(type(error)), open_training(tmp_path):
        raise error
    assert find_unfinished(tmp_path) == []
    assert list((tmp_path / "runs" / ".unfinished").iterdir()) == []


def test_forgotten_ones_are_garbage(tmp_path):
    kill_after_first(tmp_path)
    assert find_garbage(tmp_path) == []
    in_eight_days = time.time() + 8 * 24 * 3600
    (garbage,) = find_garbage(tmp_path, clock=lambda: in_eight_days)
    assert find_garbage(tmp_path, staging=True) == [garbage]
    assert "stopped after epoch 1" in garbage.reason
    with open_training(tmp_path) as checkpoints:  # begun again since it was listed
        assert [item.kept for item in find_garbage(tmp_path, staging=True)] == [
            "the training is under way"
        ]
        assert remove_garbage(tmp_path, [garbage]) == 0
        assert same(checkpoints.latest(), made(1))
    kill_after_first(tmp_path)
    (garbage,) = find_garbage(tmp_path, staging=True)
    assert remove_garbage(tmp_path, [garbage]) == garbage.size_bytes > 0
    assert list((tmp_path / "runs" / ".unfinished").iterdir()) == []


SETTINGS = DenseSettings(
    units=8, dropout=0.3, epochs=6, batch_size=7, optimizer="nadam", learning_rate=1e-3
)
ROWS = blobs(60, n_classes=2)
VALIDATION = blobs(20, n_classes=2, seed=1)


def fit(settings, checkpoints=None, *, stop_in=None, validation=VALIDATION):
    """Fit a dense head; in epoch `stop_in` it ends before the checkpoint, as a kill would."""
    passed = []

    def progress(epoch, total, numbers):
        passed.append((epoch, dict(numbers)))
        if epoch == stop_in:
            raise KeyboardInterrupt

    options = FitOptions(n_classes=2, seed=5, progress=progress, checkpoints=checkpoints)
    head = create_head(settings).fit(ROWS, validation, options=options)
    return head, passed


def assert_same_fit(found, expected):
    assert found.history_ == expected.history_
    assert found.chosen_ == expected.chosen_
    weights = zip(found.model_.get_weights(), expected.model_.get_weights(), strict=True)
    assert all(np.array_equal(one, other) for one, other in weights)


@pytest.mark.parametrize("optimizer", ["nadam", "rmsprop"])
def test_a_fit_stopped_again_and_again_ends_as_an_undisturbed_one(tmp_path, optimizer):
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer)
    undisturbed, expected = fit(settings)
    folder = CheckpointFolder(tmp_path)
    for stop_in in (1, 2, 3, 6):
        with pytest.raises(KeyboardInterrupt):
            fit(settings, folder, stop_in=stop_in)
        found = folder.latest()
        assert (found.epoch if found else 0) == stop_in - 1
    head, passed = fit(settings, folder)
    assert passed == expected  # the epochs before are told again
    assert_same_fit(head, undisturbed)
    assert "went on after epoch 5 of 6" in head.notes_[-1]
    again, _ = fit(settings, folder)  # stopped between its last epoch and the run
    assert_same_fit(again, undisturbed)


def test_the_seconds_of_a_fit_are_those_of_all_its_processes(tmp_path):
    features = MemoryFeatures({"train": ROWS, "validation": VALIDATION}, ("one", "two"))
    folder = CheckpointFolder(tmp_path / "checkpoints")
    folder.path.mkdir()

    def stop(epoch, total, numbers):
        if epoch == 3:
            raise KeyboardInterrupt

    def trained(progress=None):
        options = TrainOptions(checkpoints=folder, progress=progress)
        return train(features, SETTINGS, cache=tmp_path, options=options)

    with pytest.raises(KeyboardInterrupt):
        trained(stop)
    kept = folder.latest()
    assert 0 < kept.state["seconds"] < 500
    folder.save(dataclasses.replace(kept, state={**kept.state, "seconds": 1000.0}))
    with pytest.raises(KeyboardInterrupt):
        trained(stop)
    assert folder.latest().state["seconds"] == 1000
    run = trained()
    assert 1000 < run.seconds["fit"] < run.seconds["total"] < 1500
    assert "went on after epoch 2 of 6" in run.notes[0]


def test_early_stopping_goes_on_with_its_best_epoch(tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=30, patience=3, learning_rate=0.02)
    # Rows that nobody can tell apart: the loss soon rises.
    alike = blobs(20, n_classes=2, seed=1, distance=0)
    undisturbed, passed = fit(settings, validation=alike)
    ended = len(passed)
    assert undisturbed.chosen_["epoch"] == ended - 3 < 27
    folder = CheckpointFolder(tmp_path)
    for stop_in in (ended - 1, ended):
        with pytest.raises(KeyboardInterrupt):
            fit(settings, folder, stop_in=stop_in, validation=alike)
    for _ in range(2):  # the second finds that it has ended
        head, _ = fit(settings, folder, validation=alike)
        assert_same_fit(head, undisturbed)
        assert head.notes_[0] == undisturbed.notes_[0]


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(SETTINGS, folder, stop_in=2)
    with pytest.raises(Conflict, match="expected arrays") as caught:
        fit(dataclasses.replace(SETTINGS, units=9), folder)
    assert "--restart" in caught.value.next_step
