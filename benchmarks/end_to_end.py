"""Images per second of an augmented end-to-end epoch against the bare network, in one run.

(a) the bare compiled network on decoded images in memory;
(b) an epoch of training with the base frozen: augment, network, head; decoded images kept;
(c) the same with nothing kept: every image is read, checked and decoded again;
(d), (e) the pixels of (b) and (c) alone, without a network.

All take turns, round by round, because machines drift. Then the peak memory of `fs train --path
end-to-end` for each number of small images. Run from the project's root:

    python benchmarks/end_to_end.py PHOTOGRAPHS WEIGHTS [--images 640] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from commands import fs
from memory import write_images
from reference_paths import SIZE, say, take_photographs

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from featurestore.augmentation import REFERENCE
from featurestore.embedding.backbone import network_of
from featurestore.embedding.embed import embed
from featurestore.embedding.settings import EmbedSettings
from featurestore.features import FeatureSet, open_features
from featurestore.pixels import PixelStream
from featurestore.training.settings import DenseSettings

NAMES = {
    "a": "bare network",
    "b": "epoch, decoded images kept",
    "c": "epoch, nothing kept",
    "d": "pixels alone, kept",
    "e": "pixels alone, not kept",
}
TARGET = 0.95
_KEPT_BYTES = 2 * 2**30
_WARM_EPOCHS = 1


class Streams:
    """The five, on the training images of one feature set and one network."""

    def __init__(self, features: FeatureSet, weights: Path, *, workers: int) -> None:
        from featurestore.training.dense_network import build_network, build_optimizer
        from featurestore.training.dense_steps import Training
        from featurestore.training.streamed import AugmentedRows, StreamOptions, open_pixels
        from featurestore.training.streaming import RowSource

        self.rows = features["train"]
        self.network = network_of(features.recipe, weights=str(weights))
        options = StreamOptions(workers=workers)
        self.pixels = {
            name: open_pixels(
                features, "train", features.recipe, options=options, memory_bytes=memory_bytes
            )
            for name, memory_bytes in (("kept", _KEPT_BYTES), ("read again", 0))
        }
        settings = DenseSettings(optimizer="nadam")

        def training(pixels: PixelStream) -> Training:
            rows = AugmentedRows(self.rows, pixels, self.network, augmentation=REFERENCE, seed=0)
            model = build_network(
                settings, self.rows.feature_shape, len(features.class_names), seeds=[0, 1, 2],
                scale=1.0,
            )  # fmt: skip
            return Training(
                model,
                build_optimizer(settings),
                RowSource(rows, held=False),
                batch_size=settings.batch_size,
                class_weights=None,
            )

        self.trainings = {name: training(pixels) for name, pixels in self.pixels.items()}
        self.order = np.arange(len(self.rows))
        batches = self.pixels["kept"].batches(self.order, batch_size=self.network.batch_size)
        self.images = list(batches)
        self.epoch = 0

    def bare(self) -> None:
        for _ in self.network.embed_stream(iter(self.images)):
            pass

    def train(self, name: str) -> None:
        self.trainings[name].epoch(np.random.default_rng(self.epoch), epoch=self.epoch)

    def draw(self, name: str) -> None:
        for _ in self.augmented(name):
            pass

    def augmented(self, name: str) -> Iterator[np.ndarray]:
        return self.pixels[name].batches(
            self.order, batch_size=self.network.batch_size, augmentation=REFERENCE, view=self.epoch
        )

    def each(self) -> dict[str, Callable[[], None]]:
        return {
            "a": self.bare,
            "b": lambda: self.train("kept"),
            "c": lambda: self.train("read again"),
            "d": lambda: self.draw("kept"),
            "e": lambda: self.draw("read again"),
        }


def throughput(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure images per second of the five, by turns, and print the ratios."""
    rates: dict[str, list[float]] = {name: [] for name in NAMES}
    cores: dict[str, list[float]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as scratch:
        folder = take_photographs(
            arguments.photographs,
            Path(scratch) / "photographs",
            of_each_class=arguments.images // 2,
            splits=("train",),
        )
        settings = EmbedSettings(weights=str(arguments.weights), size=SIZE)
        found = embed(folder, settings, cache=Path(scratch) / "cache")
        with open_features(found.fingerprint, cache=Path(scratch) / "cache") as features:
            streams = Streams(features, arguments.weights, workers=arguments.workers)
            count = len(streams.rows)
            precision = features.recipe.precision
            for round_ in range(-_WARM_EPOCHS, arguments.rounds):
                streams.epoch += 1
                for name, act in streams.each().items():
                    begun, spent = time.perf_counter(), time.process_time()
                    act()
                    taken = time.perf_counter() - begun
                    if round_ >= 0:
                        rates[name].append(count / taken)
                        cores[name].append((time.process_time() - spent) / taken)
                if round_ >= 0:
                    shown = {name: round(rate[-1], 1) for name, rate in rates.items()}
                    say(f"round {round_ + 1}: {shown} images/s")
    say(f"{count} images, {precision}, {arguments.workers} workers, {os.cpu_count()} processors")
    for name, text in NAMES.items():
        cost = 1000 * np.array(cores[name]) / np.array(rates[name])
        say(
            f"({name}) {text:27} median {np.median(rates[name]):7.1f} images/s, "
            f"{np.median(cores[name]):.2f} cores, {np.median(cost):.1f} ms of processor an image"
        )
    ratios = {}
    for name in "bc":
        each = np.array(rates[name]) / np.array(rates["a"])
        ratios[name] = [float(np.median(each)), float(each.min()), float(each.max())]
        outcome = "met" if np.median(each) >= TARGET else "MISSED"
        say(
            f"({name})/(a) {np.median(each):.2f}, by round {each.min():.2f} to {each.max():.2f}; "
            f"target {TARGET}: {outcome}"
        )
        # Beside other work on the machine, processor time says more than the clock.
        spent = each * np.array(cores["a"]) / np.array(cores[name])
        say(f"  in processor time {np.median(spent):.2f}, {spent.min():.2f} to {spent.max():.2f}")
    for name in "de":
        say(f"({name})/(a) {np.median(np.array(rates[name]) / np.array(rates['a'])):.1f}")
    return {
        "images": count,
        "precision": precision,
        "rates": rates,
        "cores": cores,
        "ratios": ratios,
    }


def peak_memory(images: int, *, memory: str) -> dict[str, float]:
    """Return peak MiB and seconds of one end-to-end epoch on so many small images (POSIX only).

    `fs embed` runs first, as a process of its own: what is measured is training. The cut is
    memory.py's: rows of 32 KiB, so that rows or pixels kept in memory would show.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, cache = Path(scratch) / "images", Path(scratch) / "cache"
        write_images(folder, images)
        cut = ["--layer", "block1_pool", "--size", "32", "--weights", "random:0"]
        subprocess.run(
            fs("embed", folder, *cut, "--cache", cache, "--json"),
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        begun = time.perf_counter()
        child = subprocess.Popen(
            fs(
                "train", folder, "--path", "end-to-end", "--epochs", "1", "--units", "4", *cut,
                "--memory", memory, "--cache", cache, "--json",
            ),
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            code = os.waitstatus_to_exitcode(status)
            raise SystemExit(f"fs train ended with exit code {code}")
        return {"peak_mib": usage.ru_maxrss / 1024, "seconds": time.perf_counter() - begun}


def memory(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure and print peaks; their ratio is what must stay near one."""
    peaks = {}
    for images in arguments.memory_images:
        peaks[images] = peak_memory(images, memory=arguments.memory)
        say(
            f"{images} images: peak {peaks[images]['peak_mib']:.0f} MiB "
            f"in {peaks[images]['seconds']:.1f} s"
        )
    each = [found["peak_mib"] for found in peaks.values()]
    say(f"peak, largest over smallest: {max(each) / min(each):.3f}")
    return {"memory": arguments.memory, "peaks": peaks}


def main() -> None:
    """Measure, print, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--images", type=int, default=640, help="of the training split")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--memory-images", type=int, nargs="*", default=[2000, 20000])
    parser.add_argument("--memory", default="1GiB", help="as of fs train, for the peaks")
    parser.add_argument("--only", choices=("throughput", "memory"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    numbers = {}
    if arguments.only != "memory":
        numbers["throughput"] = throughput(arguments)
    if arguments.only != "throughput" and arguments.memory_images:
        numbers["memory"] = memory(arguments)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
