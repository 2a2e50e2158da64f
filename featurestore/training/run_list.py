"""Lists of runs: which are meant, in what order, and what is told of each in a line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from featurestore.training.fine_tune_settings import FineTuneRequest
from featurestore.training.methods import unfrozen
from featurestore.training.run_record import FINE_TUNE
from featurestore.training.runs import Run

NEWEST = "created"
SORT_METRICS = (
    "accuracy",
    "balanced-accuracy",
    "macro-f1",
    "roc-auc",
    "log-loss",
    "expected-calibration-error",
)
_LESS_IS_BETTER = ("log-loss", "expected-calibration-error")
# What a run is sorted by; the best, the fastest, the smallest and the newest come first.
_KEYS: Mapping[str, Callable[[Run], Any]] = {
    "head": lambda run: run.head,
    "seed": lambda run: run.seed,
    "feature-set": lambda run: run.features.name,
    "fit": lambda run: run.seconds.get("fit"),
    "predict": lambda run: run.seconds.get("predict_per_row"),
    "size": lambda run: model_bytes(run),
}
SORT_KEYS = (NEWEST, *SORT_METRICS, *_KEYS)


def is_on(run: Run, prefix: str | None) -> bool:
    """Whether the feature set's name, or four digits or more of its fingerprint, so start."""
    return (
        prefix is None
        or run.features.name.startswith(prefix)
        or (len(prefix) >= 4 and run.features.fingerprint.startswith(prefix.lower()))
    )


def sorted_runs(
    found: Sequence[Run], key: str, *, split: str = "validation", reverse: bool = False
) -> list[Run]:
    """Sort runs that come newest first, by one of `SORT_KEYS`; `split` is whose metrics count.

    The best, fastest, smallest and newest come first. Equal ones stay as they are, and those
    without a value go last, `reverse` or not.
    """
    if key == NEWEST:
        return list(found[::-1] if reverse else found)

    def metric(run: Run) -> Any:
        return (run.metrics.get(split) or {}).get(key.replace("-", "_"))

    value = metric if key in SORT_METRICS else _KEYS[key]
    known = [run for run in found if value(run) is not None]
    descending = key in SORT_METRICS and key not in _LESS_IS_BETTER
    ordered = sorted(known, key=value, reverse=descending != reverse)
    return ordered + [run for run in found if value(run) is None]


def told_settings(run: Run) -> dict[str, object]:
    """Return the settings that are not at their defaults; of a fine-tuning, those it was asked."""
    if run.path_taken != FINE_TUNE:
        return run.changed_settings()
    usual = {field.name: field.default for field in dataclasses.fields(FineTuneRequest)}
    given = {
        name: value
        for name, value in run.settings.to_dict().items()
        if name in usual and value != usual[name]
    }
    return {**given, "unfreeze": " ".join(unfrozen(run))}


def settings_text(settings: Mapping[str, object]) -> str:
    """Return settings as `--settings`-like text; one that is no scalar as JSON."""
    texts = (
        f"{name}={value:g}"
        if isinstance(value, float)
        else f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in settings.items()
    )
    return ", ".join(texts) or "-"


def model_bytes(run: Run) -> int | None:
    """Return the size of the model file; None where it is gone."""
    try:
        return run.model_path.stat().st_size
    except OSError:
        return None
