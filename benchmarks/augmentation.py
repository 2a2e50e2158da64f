"""Versions of images against the reference notebook's generator, on the same parameters.

(a) images per second, each way in turn, round by round, because machines drift:

    notebook     Keras's ImageDataGenerator, `next(flow)` in one thread
    threads      the same through Keras 3's PyDataset, with as many threads as the stream
    processes    the same with as many processes
    first        PixelStream, first pass: read, check the digest, decode and resize, warp
    nearest      the same with the generator's own resizing, by nearest neighbour; bilinear, which
                 `fs embed` takes by default, costs more than decoding
    later        PixelStream, with every decoded image kept: warp alone

Ratios are taken to the notebook's loop and to the best of the generator's three ways, in the same
round. Beside them stands what an image costs one processor: where other programs keep the machine
busy, threads bring nothing, and the ratio of rates falls to that of these costs.

(b) the transforms: a picture of three blobs goes through both, each blob's centroid is measured in
what comes out, and the affine map that they give is taken apart. Run from the project's root:

    python benchmarks/augmentation.py PHOTOGRAPHS [--images 500] [--rounds 5] [--draws 3000]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from embed import take
from PIL import Image
from scipy import stats

from featurestore.augmentation import REFERENCE
from featurestore.pixels import PixelStream
from featurestore.testing.affine import Transform, blobs, decompose, recover

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SIZE, BATCH = 150, 20
GENERATOR_WAYS = ("notebook", "threads", "processes")
TARGET = 2.0
BLOBS_SIZE = (300, 300)  # at this size a recovered angle is off by 0.02 degrees at most


def notebook_generator():
    """Return the generator with the notebook's parameters."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(
        rotation_range=40,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
        fill_mode="constant",
        cval=0,
    )


class Generator:
    """One pass of the notebook's generator over a folder, in the ways that Keras 3 offers."""

    def __init__(self, folder: Path, images: int, workers: int) -> None:
        self.folder, self.images, self.workers = folder, images, workers

    def _flow(self):
        with contextlib.redirect_stdout(io.StringIO()):
            return notebook_generator().flow_from_directory(
                str(self.folder), target_size=(SIZE, SIZE), batch_size=BATCH, class_mode="binary"
            )

    def notebook(self) -> None:
        flow = self._flow()
        count = 0
        while count < self.images:
            count += len(next(flow)[0])

    def threads(self) -> None:
        self._enqueued(use_multiprocessing=False)

    def processes(self) -> None:
        self._enqueued(use_multiprocessing=True)

    def _enqueued(self, *, use_multiprocessing: bool) -> None:
        from keras.src.trainers.data_adapters.py_dataset_adapter import OrderedEnqueuer

        queue = OrderedEnqueuer(
            self._flow(), workers=self.workers, use_multiprocessing=use_multiprocessing
        )
        queue.start()
        count = 0
        for images, _ in queue.get():
            count += len(images)
            if count >= self.images:
                break
        queue.stop()


class Stream:
    """Passes of a `PixelStream` over the same files, each with another view."""

    def __init__(self, paths: list[Path], workers: int, interpolation: str) -> None:
        digests = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
        self.paths, self.workers, self.interpolation = paths, workers, interpolation
        self.sha256 = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        self.view = 0
        self.kept: PixelStream | None = None

    def _opened(self) -> PixelStream:
        def read(row: int) -> bytes:
            content = self.paths[row].read_bytes()
            # As training does it: pixels of other bytes than were embedded are an error.
            assert hashlib.sha256(content).digest() == self.sha256[row].tobytes()
            return content

        return PixelStream(
            read,
            self.sha256,
            size=(SIZE, SIZE),
            interpolation=self.interpolation,
            workers=self.workers,
            memory_bytes=len(self.paths) * SIZE * SIZE * 3,
        )

    def _take(self, stream: PixelStream) -> None:
        self.view += 1
        rows = np.random.default_rng(self.view).permutation(len(self.paths))
        for _ in stream.batches(
            rows, batch_size=BATCH, augmentation=REFERENCE, seed=0, view=self.view
        ):
            pass

    def first(self) -> None:
        self._take(self._opened())

    def later(self) -> None:
        self.kept = self.kept or self._opened()
        self._take(self.kept)


def processor_s() -> float:
    """Return seconds of processors that this process and its ended children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def rates(paths: list[Path], folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Measure (a) and print it."""
    generator = Generator(folder, len(paths), arguments.workers)
    stream = Stream(paths, arguments.workers, "bilinear")
    ways: dict[str, Callable[[], None]] = {
        name: getattr(generator, name) for name in GENERATOR_WAYS
    } | {
        "first": stream.first,
        "nearest": Stream(paths, arguments.workers, "nearest").first,
        "later": stream.later,
    }
    for way in ways.values():
        way()
    per_s: dict[str, list[float]] = {name: [] for name in ways}
    cost_ms: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(arguments.rounds):
        for name, way in ways.items():
            begun, used = time.perf_counter(), processor_s()
            way()
            per_s[name].append(len(paths) / (time.perf_counter() - begun))
            cost_ms[name].append(1e3 * (processor_s() - used) / len(paths))
        print(f"round {round_ + 1}:", {name: round(each[-1]) for name, each in per_s.items()})
    print(f"\n{len(paths)} images, {arguments.workers} workers, batches of {BATCH}")
    for name in ways:
        print(
            f"{name:10s} median {np.median(per_s[name]):7.1f} images/s, "
            f"{np.median(cost_ms[name]):5.2f} ms of a processor each"
        )
    best = np.max([per_s[name] for name in GENERATOR_WAYS], axis=0)
    median = {name: float(np.median(each)) for name, each in per_s.items()}
    cost = {name: float(np.median(each)) for name, each in cost_ms.items()}
    ratios = {}
    for name in ("first", "nearest", "later"):
        for text, base in (("notebook", np.array(per_s["notebook"])), ("best of the three", best)):
            each = np.array(per_s[name]) / base
            met = "met" if np.median(each) >= TARGET else "MISSED"
            ratios[f"{name}/{text}"] = float(np.median(each))
            print(
                f"{name} / {text}: median {np.median(each):.2f}, by round {each.min():.2f} to "
                f"{each.max():.2f}; target {TARGET:g}: {met}"
            )
        print(f"{name}: notebook's cost of a processor / its own: ", end="")
        print(f"{cost['notebook'] / cost[name]:.2f}")
    return {"images_per_s": median, "processor_ms": cost, "ratios": ratios}


def by_generator(original: np.ndarray, draws: int) -> Iterator[np.ndarray]:
    """Yield the picture as the notebook's generator gives it."""
    flow = notebook_generator().flow(
        np.repeat(original[None].astype(np.float32), BATCH, axis=0), batch_size=BATCH, shuffle=False
    )
    for _ in range(-(-draws // BATCH)):
        yield from next(flow)


def by_stream(original: np.ndarray, draws: int) -> Iterator[np.ndarray]:
    """Yield the picture as the stream gives it to rows of that many different images."""
    content = io.BytesIO()
    Image.fromarray(original).save(content, "PNG")
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(draws)]
    stream = PixelStream(
        lambda row: content.getvalue(),
        np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        size=BLOBS_SIZE,
        interpolation="nearest",
        workers=2,
        memory_bytes=0,
    )
    for batch in stream.batches(np.arange(draws), batch_size=BATCH, augmentation=REFERENCE):
        yield from batch


def transforms(draws: int) -> dict[str, object]:
    """Measure (b) and print it."""
    original = blobs(BLOBS_SIZE)
    found: dict[str, list[Transform]] = {
        name: [
            decompose(recover(version, original=original), size=BLOBS_SIZE)
            for version in versions(original, draws)
        ]
        for name, versions in (("generator", by_generator), ("stream", by_stream))
    }
    print(
        f"\ntransforms recovered from {len(found['generator'])} and {len(found['stream'])} images"
    )
    print(f"{'':10s}{'generator: mean, min, max':>30s}{'stream: mean, min, max':>30s}{'KS p':>8s}")
    table = {}
    for name in Transform.__dataclass_fields__:
        theirs, ours = (
            np.array([getattr(part, name) for part in parts], float) for parts in found.values()
        )
        p_value = float(stats.ks_2samp(theirs, ours).pvalue)
        sides = [[float(f(side)) for f in (np.mean, np.min, np.max)] for side in (theirs, ours)]
        texts = ["".join(f"{number:10.4f}" for number in side) for side in sides]
        print(f"{name:10s}{texts[0]}{texts[1]}{p_value:8.3f}")
        table[name] = {"generator": sides[0], "stream": sides[1], "p": p_value}
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path, help="a folder of splits of class folders")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5, help="0 leaves (a) out")
    parser.add_argument("--draws", type=int, default=3000, help="0 leaves (b) out")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    numbers: dict[str, object] = {}
    if arguments.rounds:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "photographs"
            paths = take(arguments.photographs, folder, arguments.images)
            numbers["rates"] = rates(paths, folder / "train", arguments)
    if arguments.draws:
        numbers["transforms"] = transforms(arguments.draws)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
