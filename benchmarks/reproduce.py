"""Every path of the reference experiment on its photographs and weights, in one table.

Embed, train on cached features in full, to the letter and tuned, train on stored views, train end
to end with the reference's augmentation, fine-tune block5 from cached features of block4_pool and
streamed; then compare all runs. Run from the project's root:

    python benchmarks/reproduce.py PHOTOGRAPHS WEIGHTS --cache DIR [--json FILE] [--curves FILE]

On two cores all of it takes many hours; `--end-to-end-epochs` and `--streamed-fine-tune-epochs`
run fewer of the slow ones, and the table says so. Ended at any moment, the same command goes on.
`--images 32 --epochs 1` is a trial of a few minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from reference_paths import (
    CACHED,
    END_TO_END,
    FINE_TUNED,
    SIZE,
    EpochClock,
    Ledger,
    Reported,
    embed_timed,
    run_in,
    run_numbers,
    say,
    take_photographs,
)

from featurestore.augmentation import REFERENCE
from featurestore.embedding.settings import EmbedSettings
from featurestore.features import open_features
from featurestore.training.checkpoints import Resumption
from featurestore.training.contract import HeadSettings
from featurestore.training.runs import Run
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.train import TrainOptions, train

Numbers = dict[str, object]


@dataclasses.dataclass(kw_only=True)
class Experiment:
    """What every part is told: where things lie, how many epochs, and what came before."""

    dataset: Path
    weights: Path
    cache: Path
    ledger: Ledger
    views: int
    epochs: dict[str, int]

    def embed(self, part: str, settings: EmbedSettings) -> Numbers:
        """Embed what is missing. A part that computed something keeps the time that took."""
        found = embed_timed(self.dataset, settings, cache=self.cache)
        before = self.ledger.get(part)
        if before is not None and before["fingerprint"] == found["fingerprint"]:
            for name in ("computed", "views_computed", "seconds", "images_per_s"):
                found[name] = before[name]
        return found

    def settings(self, **fields: object) -> EmbedSettings:
        return EmbedSettings(backbone="vgg16", weights=str(self.weights), size=SIZE, **fields)

    def features(self, part: str) -> str:
        """Return the fingerprint of the feature set that an earlier part embedded."""
        found = self.ledger.get(part)
        if found is None:
            raise SystemExit(f"{part} comes first: leave out --only, or name it too")
        return str(found["fingerprint"])

    def started_from(self, part: str) -> Run:
        found = self.ledger.get(part)
        run = run_in(self.cache, found.get("run")) if found else None
        if run is None:
            raise SystemExit(f"{part} comes first: leave out --only, or name it too")
        return run

    def trained(
        self, part: str, asked: Numbers, fit: Callable[[EpochClock], Run], *, epochs: bool = True
    ) -> Numbers:
        """Train, unless the ledger has this part's run with nothing asked for differently."""
        before = self.ledger.get(part)
        if before and before.get("asked") == asked and run_in(self.cache, before.get("run")):
            return before
        clock = EpochClock(part=part, ledger=self.ledger, asked=asked)
        run = fit(clock)
        return {"asked": asked, **run_numbers(run, clock if epochs else None)}

    def on_features(
        self, part: str, settings: HeadSettings, *, embedded: str, views: int | None = None
    ) -> Numbers:
        asked = {"settings": settings.to_dict(), "views": views, "on": self.features(embedded)}

        def fit(clock: EpochClock) -> Run:
            options = TrainOptions(progress=clock, **({} if views is None else {"views": views}))
            with open_features(self.features(embedded), cache=self.cache) as features:
                return train(features, settings, cache=self.cache, options=options)

        return self.trained(part, asked, fit, epochs=settings.head == "dense")

    def end_to_end(self, part: str) -> Numbers:
        from featurestore.training.end_to_end import train_end_to_end
        from featurestore.training.streamed import StreamOptions

        settings = DenseSettings(
            optimizer="nadam", learning_rate=2e-5, epochs=self.epochs["end to end"]
        )
        asked = {"settings": settings.to_dict(), "on": self.features("embed")}

        def fit(clock: EpochClock) -> Run:
            with open_features(self.features("embed"), cache=self.cache) as features:
                return train_end_to_end(
                    features,
                    settings,
                    cache=self.cache,
                    options=TrainOptions(progress=clock),
                    streaming=StreamOptions(
                        augmentation=REFERENCE, resumption=Resumption(resumed=clock.went_on)
                    ),
                )

        return self.trained(part, asked, fit)

    def fine_tune(
        self, part: str, *, start: str, streamed: bool = False, views: int | None = None
    ) -> Numbers:
        from featurestore.training.fine_tune import FineTuneRequest, fine_tune
        from featurestore.training.streamed import StreamOptions

        begun_with = self.started_from(start)
        epochs = self.epochs["streamed fine-tune" if streamed else "fine-tune"]
        request = FineTuneRequest(unfreeze=("block5",), epochs=epochs, tell=say)
        asked = {"from": begun_with.id, "epochs": epochs, "streamed": streamed}
        if views is not None:
            asked["views"] = views

        def fit(clock: EpochClock) -> Run:
            return fine_tune(
                begun_with,
                request,
                cache=self.cache,
                options=TrainOptions(progress=clock, views=views),
                streaming=StreamOptions(
                    augmentation=REFERENCE if streamed else None,
                    resumption=Resumption(resumed=clock.went_on),
                ),
            )

        return self.trained(part, asked, fit)


def dense(experiment: Experiment, **fields: object) -> DenseSettings:
    return DenseSettings(epochs=experiment.epochs["dense"], **fields)


@dataclasses.dataclass(frozen=True)
class Part:
    """One row of the table; `reported` where the reference has it too."""

    name: str
    do: Callable[[Experiment, str], Numbers]
    reported: Reported | None = None


PARTS = (
    Part("embed", lambda e, part: e.embed(part, e.settings())),
    Part("cached dense", lambda e, part: e.on_features(part, dense(e), embedded="embed"), CACHED),
    Part(
        "cached dense, raw",
        lambda e, part: e.on_features(part, dense(e, scaled=False), embedded="embed"),
        CACHED,
    ),
    Part(
        "logistic, tuned",
        lambda e, part: e.on_features(part, LogisticSettings(tune=True), embedded="embed"),
    ),
    Part(
        "embed views",
        lambda e, part: e.embed(part, e.settings(views=e.views, augmentation=REFERENCE)),
    ),
    Part(
        "dense on views",
        # As end to end, whose shortcut it is.
        lambda e, part: e.on_features(
            part, dense(e, optimizer="nadam"), embedded="embed views", views=e.views
        ),
    ),
    Part(
        "logistic on views",
        lambda e, part: e.on_features(
            part, LogisticSettings(tune=True), embedded="embed views", views=e.views
        ),
    ),
    Part("end to end", lambda e, part: e.end_to_end(part), END_TO_END),
    Part("embed block4", lambda e, part: e.embed(part, e.settings(layer="block4_pool"))),
    Part("fine-tune", lambda e, part: e.fine_tune(part, start="cached dense"), FINE_TUNED),
    Part(
        "fine-tune from end to end",
        lambda e, part: e.fine_tune(part, start="end to end"),
        FINE_TUNED,
    ),
    Part(
        "embed block4 views",
        lambda e, part: e.embed(
            part, e.settings(layer="block4_pool", views=e.views, augmentation=REFERENCE)
        ),
    ),
    Part(
        "fine-tune on views",
        # The reference augments while it fine-tunes; these are its images, drawn beforehand.
        lambda e, part: e.fine_tune(part, start="end to end", views=e.views),
        FINE_TUNED,
    ),
    Part(
        "fine-tune, streamed",
        lambda e, part: e.fine_tune(part, start="cached dense", streamed=True),
        FINE_TUNED,
    ),
)
NAMES = tuple(part.name for part in PARTS)


def main() -> None:
    """Do every part that is not done, and print the table, the targets and the comparison."""
    arguments = parsed()
    cache: Path = arguments.cache
    cache.mkdir(parents=True, exist_ok=True)
    dataset = arguments.photographs
    if arguments.images is not None:
        dataset = take_photographs(
            dataset, cache.with_name(cache.name + "-trial"), of_each_class=arguments.images
        )
        say(f"a trial: at most {arguments.images} images of each class of each split")
    most = arguments.epochs or max(FINE_TUNED.epochs, CACHED.epochs)
    experiment = Experiment(
        dataset=dataset,
        weights=arguments.weights,
        cache=cache,
        ledger=Ledger(arguments.json or cache / "reproduce.json"),
        views=arguments.views,
        epochs={
            "dense": min(CACHED.epochs, most),
            "end to end": min(arguments.end_to_end_epochs, most),
            "fine-tune": min(arguments.fine_tune_epochs, most),
            "streamed fine-tune": min(arguments.streamed_fine_tune_epochs, most),
        },
    )
    begun = time.perf_counter()
    for part in PARTS:
        if arguments.only and part.name not in arguments.only:
            continue
        say(f"[{time.perf_counter() - begun:.0f} s] {part.name}")
        experiment.ledger.put(part.name, part.do(experiment, part.name))
    say(f"[{time.perf_counter() - begun:.0f} s] done\n")
    print_table(experiment.ledger)
    print_targets(experiment.ledger)
    runs = [
        run
        for part in PARTS
        if (run := run_in(cache, (experiment.ledger.get(part.name) or {}).get("run", "none")))
    ]
    print_comparison(runs, cache)
    if arguments.curves is not None:
        from featurestore.report.curves_plot import draw_curves

        draw_curves([run for run in runs if run.history], arguments.curves, smooth=0.8)
        say(f"wrote {arguments.curves}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--views", type=int, default=6)
    for name, reported in (
        ("end-to-end", END_TO_END),
        ("fine-tune", FINE_TUNED),
        ("streamed-fine-tune", FINE_TUNED),
    ):
        parser.add_argument(f"--{name}-epochs", type=int, default=reported.epochs, metavar="N")
    parser.add_argument("--epochs", type=int, metavar="N", help="of any training at most")
    parser.add_argument("--images", type=int, metavar="N", help="of each class, for a trial")
    parser.add_argument("--only", choices=NAMES, action="append", help="a part; all by default")
    parser.add_argument("--json", type=Path, help="where numbers are kept; CACHE/reproduce.json")
    parser.add_argument("--curves", type=Path, help="draw every run's curves there, .png or .svg")
    return parser.parse_args()


def print_table(ledger: Ledger) -> None:
    """Print one line for each part that is done, the reference's numbers in brackets."""
    say(f"{'path':27}{'epochs':>11}  {'validation':>15}  {'test':>15}  {'seconds':>17}")
    for part in PARTS:
        found = ledger.get(part.name)
        if found is None:
            continue
        if "feature_set" in found:
            computed = found["computed"] + found["views_computed"]
            rate = f"{found['images_per_s']:.0f} images/s" if computed else "was there"
            say(
                f"{part.name:27}{'':>11}  {rate:>15}  {'':>15}  {found['seconds']:>17.1f}"
                f"  {found['feature_set']}"
            )
            continue
        if "run" not in found:
            say(f"{part.name:27}{'unfinished':>11}")
            continue
        reported = part.reported
        epochs = "-" if found["epochs"] is None else str(found["epochs"])
        if reported is not None:
            epochs += f" of {reported.epochs}"
        cells = [f"{part.name:27}{epochs:>11}"]
        for name, width, digits in (("validation", 15, 3), ("test", 15, 3), ("seconds", 17, 1)):
            theirs = None if reported is None else getattr(reported, name)
            cells.append(f"{_with_reported(found[name], theirs, digits):>{width}}")
        say("  ".join(cells))
    say("In brackets: the reference, one GPU of 2019. Validation: after the last epoch.\n")


def print_targets(ledger: Ledger) -> None:
    """Print each target as met or missed, and over how many epochs."""
    targets = (
        (0.955, "validation", ("cached dense",), CACHED),
        (0.960, "validation", ("end to end",), END_TO_END),
        (0.967, "test", tuple(name for name in NAMES if name.startswith("fine-tune")), FINE_TUNED),
    )
    for least, what, names, reported in targets:
        rows = {name: ledger.get(name) for name in names}
        numbers = {name: row for name, row in rows.items() if row and row.get(what) is not None}
        if not numbers:
            say(f"target: {names[0]} {what} accuracy at least {least}: not measured")
            continue
        best = max(numbers, key=lambda name: numbers[name][what])
        found = numbers[best]
        outcome = "met" if found[what] >= least else "MISSED"
        fewer = "" if found["epochs"] == reported.epochs else f" of {reported.epochs}"
        say(
            f"target: {names[0]} {what} accuracy at least {least}: {outcome}, {found[what]:.4f} "
            f"by {best} after {found['epochs']}{fewer} epochs"
        )
    say("")


def print_comparison(runs: list[Run], cache: Path) -> None:
    """Print what `fs compare` prints of all runs."""
    if len(runs) < 2:
        return
    from featurestore_cli.main import run

    names = [one.id for one in runs]
    say("fs compare " + " ".join(names))
    code = run(["compare", *names, "--cache", str(cache)])
    if code:
        say(f"fs compare ended with exit code {code}")


def _with_reported(value: float | None, theirs: float | None, digits: int) -> str:
    text = "-" if value is None else f"{value:.{digits}f}"
    return text if theirs is None else f"{text} ({theirs:.{digits}f})"


if __name__ == "__main__":
    main()
