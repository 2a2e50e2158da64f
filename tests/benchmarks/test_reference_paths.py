"""The clock and the ledger of the benchmarks, over trainings that are ended and go on."""

import pathlib

import pytest

ASKED = {"epochs": 4}


@pytest.fixture
def reference_paths(monkeypatch):
    root = pathlib.Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import reference_paths

    now = [100.0]
    monkeypatch.setattr(reference_paths.time, "perf_counter", lambda: now[0])
    reference_paths.now = now
    return reference_paths


def sitting(module, path, *, epochs, after=0, asked=ASKED):
    """Train so many epochs of 10 s, the earlier ones told again first; return the clock."""
    clock = module.EpochClock(part="part", ledger=module.Ledger(path), asked=asked)
    module.now[0] += 3
    if after:
        clock.went_on(after)
    for epoch in range(1, after + epochs + 1):
        if epoch > after:
            module.now[0] += 10
        clock(epoch, 4, {"train_loss": 0.5})
    return clock


def test_times_of_epochs_before_a_stop_are_kept(reference_paths, tmp_path):
    sitting(reference_paths, tmp_path / "ledger.json", epochs=2)
    clock = sitting(reference_paths, tmp_path / "ledger.json", epochs=2, after=2)
    assert clock.resumed
    assert clock.seconds == {"1": 13, "2": 10, "3": 10, "4": 10}
    kept = reference_paths.Ledger(tmp_path / "ledger.json").get("part")
    assert kept == {"asked": ASKED, "epoch_seconds": clock.seconds}


def test_times_that_are_lost_stay_unknown(reference_paths, tmp_path):
    clock = sitting(reference_paths, tmp_path / "ledger.json", epochs=2, after=2)
    assert clock.resumed
    assert clock.seconds == {"3": 10, "4": 10}


@pytest.mark.parametrize("asked", [ASKED, {"epochs": 5}])
def test_a_training_that_begins_anew_is_timed_anew(reference_paths, tmp_path, asked):
    sitting(reference_paths, tmp_path / "ledger.json", epochs=3)
    clock = sitting(reference_paths, tmp_path / "ledger.json", epochs=2, asked=asked)
    assert not clock.resumed
    assert clock.seconds == {"1": 13, "2": 10}


def test_an_epoch_whose_checkpoint_is_gone_is_timed_again(reference_paths, tmp_path):
    sitting(reference_paths, tmp_path / "ledger.json", epochs=3)
    clock = sitting(reference_paths, tmp_path / "ledger.json", epochs=2, after=1)
    assert clock.seconds == {"1": 13, "2": 10, "3": 10}
