"""What the benchmark of views calls measured, and what it judges."""

import pathlib

import pytest


@pytest.fixture
def views(monkeypatch):
    root = pathlib.Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import views

    return views


def embedded(views_computed, *, seconds=100.0, images_per_s=50.0):
    return {
        "fingerprint": "f",
        "computed": 0,
        "views_computed": views_computed,
        "seconds": seconds,
        "images_per_s": images_per_s,
    }


def test_only_a_whole_embedding_is_called_measured(views):
    ledger = views.Ledger()
    assert views.embedding_seconds(embedded(600), ledger, wanted=600) == (100.0, "measured")
    seconds, whence = views.embedding_seconds(embedded(200, seconds=4.0), ledger, wanted=600)
    assert (seconds, whence) == (12.0, "reckoned from 200 of 600 views, measured")
    nothing = embedded(0, images_per_s=0.0)
    assert views.embedding_seconds(nothing, ledger, wanted=600)[0] is None
    ledger.put("embed views", nothing)  # the ledger, too, may be of a second embedding
    assert views.embedding_seconds(nothing, ledger, wanted=600)[0] is None
    ledger.put("embed views", embedded(600, seconds=70.0))
    found = views.embedding_seconds(nothing, ledger, wanted=600)
    assert found == (70.0, "measured by reproduce.py")
    # Measured by another process is better than reckoned.
    assert views.embedding_seconds(embedded(200), ledger, wanted=600) == found


@pytest.mark.parametrize(
    ("epochs", "theirs", "outcome"), [(2, 0.96, "not judged"), (30, 0.96, "met"), (30, 0.9, "MISS")]
)
def test_accuracy_is_judged_after_enough_epochs(views, capsys, epochs, theirs, outcome):
    numbers = {"heads": [{"validation": 0.96}], "epochs": 30}
    views.judge_accuracy(numbers, {"validation": theirs, "epochs": epochs}, enough=30)
    out = capsys.readouterr().out
    assert f": {outcome}" in out and f"after {epochs} of 30 epochs" in out


def test_a_training_that_has_not_ended_is_no_run_to_compare_with(views):
    ledger = views.Ledger()
    assert views.whole_run(ledger) is None
    ledger.put("end to end", {"asked": {}, "epoch_seconds": {"1": 70.0}})
    assert views.whole_run(ledger) is None
    ledger.put("end to end", {"run": "dense-1", "epochs": 30, "validation": 0.96})
    assert views.whole_run(ledger)["epochs"] == 30
