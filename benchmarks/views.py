"""A dense head on stored views against the same head trained end to end on augmented images.

K views of each training image are embedded once; a head on them shows each image in another view
each epoch, at the cost of cached features. Both heads have the reference's ranges, optimizer and
number of epochs. Run from the project's root:

    python benchmarks/views.py PHOTOGRAPHS WEIGHTS --cache DIR [--reproduced FILE] [--json FILE]

Seconds of an epoch are measured here, for both in one process: the end-to-end head runs
`--end-to-end-epochs` of its epochs, and the rest is reckoned from them. Its accuracy over all
epochs, and what embedding cost where the cache has the views already, come from the ledger that
`reproduce.py --json FILE` wrote; the output says which numbers do. Without that
ledger accuracy is judged only if the end-to-end head runs as many epochs as the one on views.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from reference_paths import (
    END_TO_END,
    SIZE,
    EpochClock,
    Ledger,
    embed_timed,
    run_numbers,
    say,
    take_photographs,
)

from featurestore.augmentation import REFERENCE
from featurestore.embedding.settings import EmbedSettings
from featurestore.features import open_features
from featurestore.training.checkpoints import Resumption
from featurestore.training.settings import DenseSettings
from featurestore.training.train import TrainOptions, train

POINTS, FASTER = 0.005, 50.0


def on_views(features: str, epochs: int, *, cache: Path, views: int, seed: int) -> dict:
    """Train the head on the views of a set, and return its numbers."""
    clock = EpochClock(part=f"dense on {views} views, seed {seed}", ledger=Ledger(), asked={})
    settings = DenseSettings(optimizer="nadam", learning_rate=2e-5, epochs=epochs)
    options = TrainOptions(seed=seed, views=views, progress=clock)
    with open_features(features, cache=cache) as opened:
        return run_numbers(train(opened, settings, cache=cache, options=options), clock)


def end_to_end(features: str, epochs: int, *, cache: Path) -> dict:
    """Train the head end to end, and return its numbers."""
    from featurestore.training.end_to_end import train_end_to_end
    from featurestore.training.streamed import StreamOptions

    clock = EpochClock(part="end to end", ledger=Ledger(), asked={})
    with open_features(features, cache=cache) as opened:
        run = train_end_to_end(
            opened,
            DenseSettings(optimizer="nadam", learning_rate=2e-5, epochs=epochs),
            cache=cache,
            options=TrainOptions(progress=clock),
            streaming=StreamOptions(
                augmentation=REFERENCE, resumption=Resumption(resumed=clock.went_on)
            ),
        )
    return run_numbers(run, clock)


def reckoned(numbers: dict, epochs: int) -> float:
    """Return the seconds of so many epochs: those that ran, and the rest at their median."""
    ran = numbers["epoch_seconds"]
    whole = numbers["seconds"] or sum(ran.values())
    return whole + (epochs - len(ran)) * (numbers["seconds_per_epoch"] or max(ran.values()))


def main() -> None:
    """Measure, print, and write the numbers."""
    arguments = parsed()
    cache, epochs = arguments.cache, arguments.epochs
    before = Ledger(arguments.reproduced)
    dataset = arguments.photographs
    if arguments.images is not None:
        dataset = take_photographs(
            dataset, cache.with_name(cache.name + "-trial"), of_each_class=arguments.images
        )
    plain = {"backbone": "vgg16", "weights": str(arguments.weights), "size": SIZE}
    clean = embed_timed(dataset, EmbedSettings(**plain), cache=cache)
    settings = EmbedSettings(**plain, views=arguments.views, augmentation=REFERENCE)
    embedded = embed_timed(dataset, settings, cache=cache)
    with open_features(embedded["fingerprint"], cache=cache) as opened:
        wanted = len(opened["train"]) * arguments.views
    embedding, whence = embedding_seconds(embedded, before, wanted=wanted)
    say(f"embedding {arguments.views} views: {_seconds(embedding)} ({whence})")

    heads = [
        on_views(embedded["fingerprint"], epochs, cache=cache, views=arguments.views, seed=seed)
        for seed in range(arguments.seeds)
    ]
    streamed = end_to_end(clean["fingerprint"], arguments.end_to_end_epochs, cache=cache)
    # Once more, so that a machine that got slower or faster meanwhile shows.
    again = on_views(embedded["fingerprint"], epochs, cache=cache, views=arguments.views, seed=0)
    training = statistics.median([head["seconds"] for head in (*heads, again)])
    whole = reckoned(streamed, epochs)
    ran = streamed["epochs"]
    each = ", ".join(f"{head['seconds']:.1f}" for head in (*heads, again))
    say(f"head on views, {epochs} epochs: {training:.1f} s, the median of {each}")
    how = "measured" if ran == epochs else f"reckoned from {ran}"
    say(f"end to end, {epochs} epochs: {whole:.1f} s ({how})")

    numbers: dict[str, object] = {
        "views": arguments.views,
        "epochs": epochs,
        "embedding_seconds": embedding,
        "training_seconds": training,
        "end_to_end_seconds": whole,
        "end_to_end_epochs_run": ran,
        "heads": heads,
        "end_to_end": streamed,
    }
    judge_seconds(numbers)
    reproduced = whole_run(before)
    enough = epochs if reproduced is None else reproduced["epochs"]
    judge_accuracy(numbers, reproduced or streamed, enough=enough)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=END_TO_END.epochs)
    parser.add_argument("--end-to-end-epochs", type=int, default=2, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, help="heads on views")
    parser.add_argument("--images", type=int, metavar="N", help="of each class, for a trial")
    parser.add_argument("--reproduced", type=Path, help="the ledger of reproduce.py")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def embedding_seconds(embedded: dict, before: Ledger, *, wanted: int) -> tuple[float | None, str]:
    """Return what embedding so many rows of views takes, and where the number is from.

    An embedding that went on, or that raised the number of views, has computed only some of them:
    then it is reckoned from how many it computed in a second.
    """
    sources = [(embedded, "measured")]
    earlier = before.get("embed views")
    if earlier is not None and earlier["fingerprint"] == embedded["fingerprint"]:
        sources.append((earlier, "measured by reproduce.py"))
    for numbers, whence in sources:
        if numbers["views_computed"] == wanted:
            return numbers["seconds"], whence
    for numbers, whence in sources:
        if numbers["views_computed"] and numbers["images_per_s"]:
            part = f"{numbers['views_computed']} of {wanted} views"
            return wanted / numbers["images_per_s"], f"reckoned from {part}, {whence}"
    return None, "not measured: the cache had them"


def whole_run(before: Ledger) -> dict | None:
    """Return the end-to-end run of a ledger; None where there is none that has ended."""
    found = before.get("end to end")
    return found if found is not None and "run" in found else None


def judge_seconds(numbers: dict[str, object]) -> None:
    """Print the two targets of time."""
    training, whole = numbers["training_seconds"], numbers["end_to_end_seconds"]
    ratio = numbers["times_faster"] = whole / training
    outcome = "met" if ratio >= FASTER else "MISSED"
    say(f"retraining {ratio:.0f} times faster; target {FASTER:.0f}: {outcome}")
    embedding = numbers["embedding_seconds"]
    if embedding is None:
        say("embedding paid back within one run: not known")
        return
    first = embedding + training
    outcome = "met" if first < whole else "MISSED"
    say(
        f"embedding and one training {first:.0f} s against {whole:.0f} s: paid back within "
        f"{embedding / (whole - training):.2f} runs: {outcome}"
        if whole > training
        else f"embedding is never paid back: {outcome}"
    )


def judge_accuracy(numbers: dict[str, object], streamed: dict, *, enough: int) -> None:
    """Print the target of accuracy; it is judged only after enough epochs end to end."""
    found = [head["validation"] for head in numbers["heads"]]
    mean = statistics.fmean(found)
    theirs = streamed["validation"]
    numbers["validation"] = {"views": found, "end to end": theirs, "epochs": streamed["epochs"]}
    if streamed["epochs"] < enough:
        outcome = f"not judged, that takes {enough} epochs end to end"
    else:
        outcome = "met" if abs(mean - theirs) <= POINTS else "MISSED"
    say(
        f"validation accuracy {mean:.4f} ({', '.join(f'{each:.4f}' for each in found)}) on views, "
        f"{theirs:.4f} end to end after {streamed['epochs']} of {numbers['epochs']} epochs: "
        f"{100 * (mean - theirs):+.2f} points; target within {100 * POINTS:g}: {outcome}"
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


if __name__ == "__main__":
    main()
