"""The reference experiment's paths, each trained once through the library, for the scripts here.

What the reference reports stands in `REFERENCE_PATHS`. Every path leaves a run in the cache and its
numbers in a ledger, a JSON file that is written after every epoch: a script that was ended goes on
with the path it was at, from that path's last checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from featurestore.embedding.embed import embed
from featurestore.embedding.settings import EmbedSettings, Silent
from featurestore.errors import NotFound
from featurestore.manifest import SPLITS
from featurestore.training.runs import Run, find_run

SIZE = (150, 150)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reported:
    """What the reference notebook reports of a path: one GPU of 2019."""

    epochs: int
    validation: float | None = None
    test: float | None = None
    seconds: float | None = None


CACHED = Reported(epochs=30, validation=0.963, seconds=14.2)
END_TO_END = Reported(epochs=30, validation=0.966, seconds=281.5)
FINE_TUNED = Reported(epochs=100, validation=0.962, test=0.967)


def say(text: str) -> None:
    """Print at once: these scripts run for hours, mostly into a file."""
    print(text, flush=True)


def take_photographs(
    source: Path, target: Path, *, of_each_class: int, splits: tuple[str, ...] = SPLITS
) -> Path:
    """Copy the first images of each class of the splits into a folder, and return the folder."""
    for split in splits:
        for folder in sorted(path for path in (source / split).glob("*") if path.is_dir()):
            (target / split / folder.name).mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.iterdir())[:of_each_class]:
                copy = target / split / folder.name / path.name
                if not copy.exists():
                    shutil.copyfile(path, copy)
    return target


class Ledger:
    """Numbers by part, in one JSON file that is replaced as a whole; None: in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._parts: dict[str, dict] = {}
        if path is not None and path.exists():
            self._parts = json.loads(path.read_text())["parts"]

    def get(self, part: str) -> dict | None:
        return self._parts.get(part)

    def put(self, part: str, numbers: Mapping[str, object]) -> None:
        self._parts[part] = dict(numbers)
        if self.path is None:
            return
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_text(json.dumps({"parts": self._parts}, indent=1) + "\n")
        os.replace(fresh, self.path)


@dataclasses.dataclass(kw_only=True)
class EpochClock:
    """A `Progress` that times epochs, prints them, and keeps the times in the ledger.

    The first epoch's time holds everything since the start: reading, compiling, the scale. A
    training that goes on from a checkpoint is told of the epochs before it again, and keeps what
    the ledger has of their times; `went_on` is its `Resumption.resumed`.
    """

    part: str
    ledger: Ledger
    asked: Mapping[str, object]

    def __post_init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._before = 0
        self._last = time.perf_counter()
        self._printed = self._last

    @property
    def resumed(self) -> bool:
        return self._before > 0

    def went_on(self, epoch: int) -> None:
        """Note that this training goes on after an epoch of an earlier process."""
        self._before = epoch
        found = self.ledger.get(self.part) or {}
        if found.get("asked") == self.asked and "run" not in found:
            known = found.get("epoch_seconds", {})
            self.seconds = {done: known[done] for done in known if int(done) <= epoch}

    def __call__(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        now = time.perf_counter()
        spent, self._last = now - self._last, now
        if done <= self._before:
            return
        self.seconds[str(done)] = spent
        self.ledger.put(self.part, {"asked": self.asked, "epoch_seconds": self.seconds})
        if now - self._printed > 5 or done == total:
            self._printed = now
            shown = ", ".join(
                f"{name.replace('_', ' ')} {value:.4f}" for name, value in numbers.items()
            )
            whole = sum(self.seconds.values())
            say(f"  {self.part}: epoch {done} of {total} after {whole:.0f} s: {shown}")

    def per_epoch(self) -> float | None:
        """Return the median seconds of an epoch but the first."""
        later = sorted(s for done, s in self.seconds.items() if done != "1")
        return later[len(later) // 2] if later else None


def run_numbers(run: Run, clock: EpochClock | None) -> dict[str, object]:
    """Return what the tables need of a run, as JSON-ready values."""
    history = run.history.get("validation_accuracy")
    validation = run.metrics.get("validation") or {}
    test = run.metrics.get("test") or {}
    seconds: float | None = run.seconds["fit"]
    if clock is not None and clock.resumed:
        # Of several sittings. Epochs that the ledger has lost, or never had, have no times.
        whole = len(clock.seconds) == len(history or ())
        seconds = sum(clock.seconds.values()) if whole else None
    return {
        "run": run.id,
        "epochs": len(history) if history else None,
        "validation": history[-1] if history else validation.get("accuracy"),
        "test": test.get("accuracy"),
        "seconds": seconds,
        "seconds_per_epoch": None if clock is None else clock.per_epoch(),
        "epoch_seconds": {} if clock is None else clock.seconds,
        "parameters": dict(run.parameters),
    }


def run_in(cache: Path, run_id: object) -> Run | None:
    """Return the run of that id, None where the cache has it no longer."""
    try:
        return find_run(str(run_id), cache=cache)
    except NotFound:
        return None


class _Every(Silent):
    """An embedding's progress, a line now and then."""

    def __init__(self) -> None:
        self._begun = self._printed = time.perf_counter()
        self._computed = self._planned = 0

    def planned(self, *, name: str, to_compute: int, reused: int) -> None:
        self._planned = to_compute
        say(f"  {name}: {to_compute} to compute, {reused} reused")

    def advanced(self, images: int, quarantined: int) -> None:
        self._computed += images
        now = time.perf_counter()
        if now - self._printed > 30:
            self._printed = now
            say(f"  {self._computed} of {self._planned} after {now - self._begun:.0f} s")


def embed_timed(dataset: Path, settings: EmbedSettings, *, cache: Path) -> dict[str, object]:
    """Embed, and return the name, what was computed, and the seconds."""
    begun = time.perf_counter()
    found = embed(dataset, settings, cache=cache, progress=_Every())
    fields = dataclasses.asdict(found)
    return {
        "feature_set": found.feature_set,
        "fingerprint": found.fingerprint,
        "computed": found.computed,
        "reused": found.reused,
        "views_computed": fields.get("views_computed", 0),
        "images_per_s": found.images_per_s,
        "seconds": time.perf_counter() - begun,
    }
