"""Fine-tune a block from cached features of the last frozen layer, against streaming the images.

    python benchmarks/fine_tune.py DATASET WEIGHTS CACHE [--epochs N] [--images N] [--unfreeze NAME]

DATASET is a folder with train and validation; with --images the first N of each class and split are
used. Features of the last feature map and of the last frozen layer are embedded in CACHE where they
are not there yet, and a dense head is trained. Two fine-tunings begin with it and see the same rows
in the same order; the streamed one runs every image through the frozen layers in every epoch, as
`fs train` does where images are augmented, or where --memory does not hold the computed rows. Where
it does, and nothing is augmented, `fs train` keeps them: later epochs then cost what cached ones
do. Their first steps and their epochs are timed in turn, so that what else the machine does weighs
on both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featurestore.catalogue import Catalogue
from featurestore.embedding.embed import embed
from featurestore.embedding.settings import EmbedSettings
from featurestore.features import open_features, open_record
from featurestore.training import fine_tune
from featurestore.training.contract import EpochRows, Rows
from featurestore.training.fine_tune_settings import FineTuneRequest
from featurestore.training.runs import Run
from featurestore.training.settings import DenseSettings
from featurestore.training.streamed import AugmentedRows, StreamOptions, open_pixels
from featurestore.training.streaming import RowSource
from featurestore.training.train import TrainOptions, train

if TYPE_CHECKING:
    from featurestore.training.tail import FineTunedHead

STEPS, BATCH, SEED, SIZE = 50, 20, 0, (150, 150)
TOLERANCE = 1e-3
"""Allowed difference of a step's loss, relative to it."""


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int)
    parser.add_argument("--unfreeze", default="block5")
    parser.add_argument("--name", help="of the dataset in CACHE; default: the folder's")
    parser.add_argument(
        "--keep", type=int, default=2**31, help="bytes of decoded images kept between epochs"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = arguments.dataset
        if arguments.images is not None:
            dataset = _first_images(dataset, Path(folder) / "photographs", arguments.images)
        found = _measure(dataset, arguments)
    print(json.dumps(found, indent=1))
    if found["losses"]["largest_relative_difference"] > TOLERANCE:  # type: ignore[index]
        raise SystemExit(1)


def _first_images(dataset: Path, folder: Path, count: int) -> Path:
    """Return a folder of links to the first images of every class and split."""
    for split in ("train", "validation"):
        for source in sorted(path for path in (dataset / split).iterdir() if path.is_dir()):
            target = folder / split / source.name
            target.mkdir(parents=True)
            for path in sorted(source.iterdir())[:count]:
                (target / path.name).symlink_to(path.resolve())
    return folder


class Fit:
    """The training of one fine-tuning, epoch by epoch."""

    def __init__(self, head: FineTunedHead, rows: Rows, validation: Rows) -> None:
        from featurestore.training.dense_network import build_optimizer
        from featurestore.training.dense_steps import Scoring, Training
        from featurestore.training.tail_network import build_tail

        assert head.start is not None
        model = build_tail(head.settings, 2, scale=head.start.scale)
        model.set_weights(head.start.weights)
        self._rows = RowSource(rows, held=not isinstance(rows, EpochRows))
        self._training = Training(
            model,
            build_optimizer(head.settings),
            self._rows,
            batch_size=BATCH,
            class_weights=None,
        )
        self._score = Scoring(model, RowSource(validation, held=True))
        self._shuffles = np.random.default_rng(SEED)
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []  # tells the ratio on a machine that others use too
        self.losses: list[float] = []

    def epoch(self) -> None:
        """Train for one epoch, and note its seconds and the loss of each step."""
        epoch = len(self.seconds) + 1
        began, used = time.perf_counter(), time.process_time()
        for piece in self._rows.epoch(self._shuffles, BATCH, epoch=epoch):
            self.losses.append(self._training.run([piece])[0])
        self.seconds.append(time.perf_counter() - began)
        self.processor_seconds.append(time.process_time() - used)

    def numbers(self) -> dict[str, object]:
        """Return what a reader compares."""
        return {
            "seconds_per_epoch": statistics.median(self.seconds),
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
            "validation_accuracy": self._score()[1],
        }


def _measure(dataset: Path, arguments: argparse.Namespace) -> dict[str, object]:
    cache = arguments.cache
    start = _start(dataset, arguments)
    work = fine_tune._Work(
        start=start,
        request=FineTuneRequest(unfreeze=(arguments.unfreeze,), batch_size=BATCH),
        cache=cache,
        options=TrainOptions(seed=SEED),
        streaming=StreamOptions(),
    )
    with ExitStack() as stack:
        source = stack.enter_context(open_record(Catalogue(cache).find(start.features.fingerprint)))
        plan = fine_tune._plan(work, source)
        _embed(dataset, arguments, layer=plan.recipe.layer)
        record = fine_tune._committed(work, plan, source)
        assert record is not None
        stored = stack.enter_context(open_record(record))
        pixels = open_pixels(
            source, "train", plan.recipe, options=work.streaming, memory_bytes=arguments.keep
        )
        streamed_rows = AugmentedRows(
            stored["train"], pixels, plan.frozen, augmentation=None, seed=SEED
        )
        streamed, cached = (
            Fit(plan.head, rows, stored["validation"]) for rows in (streamed_rows, stored["train"])
        )
        for _ in range(arguments.epochs):
            streamed.epoch()
            cached.epoch()
        ours, theirs = (np.array(each.losses[:STEPS]) for each in (streamed, cached))
        medians = [statistics.median(each.seconds) for each in (streamed, cached)]
        return {
            "images": len(stored["train"]),
            "cut": plan.recipe.layer,
            "precision": plan.recipe.precision,
            "streamed": streamed.numbers(),
            "cached": cached.numbers(),
            "streamed_means": "every image through the frozen layers in every epoch: as with "
            "augmentation, or where memory does not hold the computed rows",
            "streamed_over_cached": medians[0] / medians[1],
            "losses": {
                "steps": len(ours),
                "first": ours[0],
                "last": ours[-1],
                "largest_relative_difference": float(np.max(np.abs(ours - theirs) / theirs)),
                "tolerance": TOLERANCE,
            },
            "parameters": dict(plan.parameters),
        }


def _start(dataset: Path, arguments: argparse.Namespace) -> Run:
    """Return a dense head of 30 epochs on the last feature map."""
    with open_features(_embed(dataset, arguments), cache=arguments.cache) as features:
        return train(features, DenseSettings(), cache=arguments.cache)


def _embed(dataset: Path, arguments: argparse.Namespace, layer: str | None = None) -> str:
    settings = EmbedSettings(
        weights=str(arguments.weights), size=SIZE, layer=layer, name=arguments.name
    )
    return embed(dataset, settings=settings, cache=arguments.cache).feature_set


if __name__ == "__main__":
    main()
