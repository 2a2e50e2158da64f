"""Which runs a comparison needs, and training those that are missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from featurestore.training.contract import Features, HeadSettings
from featurestore.training.head_specs import head_label, settings_key
from featurestore.training.run_record import CACHED
from featurestore.training.runs import Run
from featurestore.training.train import TrainOptions, train


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison: `run` is there already, or None and to be trained."""

    settings: HeadSettings
    seed: int
    run: Run | None

    @property
    def label(self) -> str:
        """The head, and its seed where that decides anything."""
        label = head_label(self.settings)
        return f"{label}, seed {self.seed}" if self.settings.uses_seed else label


def plan_runs(
    fingerprint: str,
    settings: Sequence[HeadSettings],
    *,
    seeds: Sequence[int],
    runs: Iterable[Run],
    views: int | None = None,
) -> tuple[PlannedRun, ...]:
    """Return what a comparison of these heads on one feature set needs, head by head.

    A head that no seed moves is needed once, with seed 0. A run is there if it was trained on
    exactly this feature set, on `views` of its views, with exactly these settings and this seed; of
    several the newest is taken. A control with shuffled labels is not, nor a run of another path.
    """
    there: dict[tuple[str, int], Run] = {}
    for run in sorted(runs, key=lambda run: (run.created, run.id)):
        plain = run.path_taken == CACHED and not run.shuffled_labels
        seen = None if run.augmentation is None else run.augmentation.get("views")
        if run.features.fingerprint == fingerprint and plain and seen == views:
            there[settings_key(run.settings), run.seed] = run
    return tuple(
        PlannedRun(each, seed, there.get((settings_key(each), seed)))
        for each in settings
        for seed in (seeds if each.uses_seed else [0])
    )


def complete_runs(
    features: Features,
    plan: Sequence[PlannedRun],
    *,
    cache: Path,
    say: Callable[[str], None],
    options: TrainOptions,
) -> list[Run]:
    """Train what of a plan is missing, and return all of its runs in order.

    Each run is durable as soon as it is trained: a second call after a failure goes on from there.

    Parameters
    ----------
    say
        Told what is reused and what is trained, a line each.
    options
        How each is trained; the seed is the plan's, and the views must be those it was made for.

    Raises
    ------
    InvalidInput
        As `train`.
    """
    missing = [planned for planned in plan if planned.run is None]
    if len(missing) < len(plan):
        say(f"{len(plan) - len(missing)} of {len(plan)} runs are there already")
    runs = []
    for planned in plan:
        run = planned.run
        if run is None:
            say(f"training {planned.label}")
            run = train(
                features,
                planned.settings,
                cache=cache,
                options=dataclasses.replace(options, seed=planned.seed),
            )
            say(f"trained {planned.label} in {run.seconds['fit']:.1f} s: {run.id}")
        runs.append(run)
    return runs
