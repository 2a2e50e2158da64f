"""Images per second of three ways to the same features, in one run on the same photographs.

(a) the notebook's loop: Keras's legacy generator and `predict`, 20 images at a time, float32;
(b) `fs embed`, as a process of its own with an empty cache;
(c) the bare compiled network on arrays already in memory, at the precision of (b).

The three take turns, round by round, because machines drift; the ratios of their medians are
printed, and beside them the smallest and largest ratio of one round. Run from the project's root:

    python benchmarks/embed.py PHOTOGRAPHS WEIGHTS [--images 640] [--rounds 3]

PHOTOGRAPHS is a folder of splits of class folders, WEIGHTS a VGG16 weights file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from commands import embed_reference, run_json

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SIZE = 150


def take(source: Path, target: Path, images: int) -> list[Path]:
    """Copy the first images of each class of the training split into a folder of one split."""
    classes = sorted(path for path in (source / "train").iterdir() if path.is_dir())
    taken = []
    for folder in classes:
        (target / "train" / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[: images // len(classes)]:
            copy = target / "train" / folder.name / path.name
            shutil.copyfile(path, copy)
            taken.append(copy)
    return taken


class Notebook:
    """The loop of the reference notebook, with nothing changed but the paths."""

    def __init__(self, folder: Path, weights: Path, images: int) -> None:
        import keras
        from keras.applications import VGG16
        from keras.applications.vgg16 import preprocess_input
        from keras.src.legacy.preprocessing.image import ImageDataGenerator

        keras.config.set_dtype_policy("float32")
        self.base = VGG16(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
        self.base.load_weights(weights)
        self.generator = ImageDataGenerator(preprocessing_function=preprocess_input)
        self.folder, self.images = folder / "train", images

    def seconds(self) -> float:
        features = np.zeros((self.images, 4, 4, 512))
        labels = np.zeros(self.images)
        flow = self.generator.flow_from_directory(
            str(self.folder), target_size=(SIZE, SIZE), batch_size=20, class_mode="binary"
        )
        begun = time.perf_counter()
        at = 0
        while at < self.images:
            batch, batch_labels = next(flow)
            count = min(len(batch), self.images - at)
            features[at : at + count] = self.base.predict(batch, verbose=0)[:count]
            labels[at : at + count] = batch_labels[:count]
            at += count
        return time.perf_counter() - begun


class Bare:
    """The compiled network, and every image decoded beforehand."""

    def __init__(self, paths: list[Path], weights: Path, precision: str, batch: int) -> None:
        import keras
        import tensorflow as tf
        from PIL import Image

        policy = "float32" if precision == "float32" else f"mixed_{precision}"
        keras.config.set_dtype_policy(policy)
        base = keras.applications.VGG16(
            weights=None, include_top=False, input_shape=(SIZE, SIZE, 3)
        )
        base.load_weights(weights)
        keras.config.set_dtype_policy("float32")

        @tf.function(input_signature=[tf.TensorSpec((batch, SIZE, SIZE, 3), tf.uint8)])
        def embed(images):
            inputs = keras.applications.vgg16.preprocess_input(tf.cast(images, tf.float32))
            return tf.cast(base(inputs, training=False), tf.float16)

        self.embed, self.batch = embed, batch
        self.images = np.stack(
            [
                np.asarray(
                    Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                )
                for path in paths
            ]
        )
        embed(self.images[:batch])

    def seconds(self) -> float:
        begun = time.perf_counter()
        for start in range(0, len(self.images), self.batch):
            self.embed(self.images[start : start + self.batch]).numpy()
        return time.perf_counter() - begun


def fs_embed(folder: Path, weights: Path) -> dict:
    """Run `fs embed` with an empty cache and return what it prints."""
    with tempfile.TemporaryDirectory() as cache:
        result = run_json(embed_reference(folder, weights, cache))
        (record,) = Path(cache).glob("*/*.json")
        return result | {"precision": json.loads(record.read_text())["recipe"]["precision"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--images", type=int, default=640, help="a multiple of 64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32, help="of the bare network")
    parser.add_argument("--json", type=Path, help="write the medians here, for plot.py")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photographs"
        paths = take(arguments.photographs, folder, arguments.images)
        first = fs_embed(folder, arguments.weights)
        notebook = Notebook(folder, arguments.weights, len(paths))
        bare = Bare(paths, arguments.weights, first["precision"], arguments.batch)
        notebook.seconds()
        rates: dict[str, list[float]] = {"a": [], "b": [], "c": []}
        for round_ in range(arguments.rounds):
            rates["a"].append(len(paths) / notebook.seconds())
            rates["b"].append(fs_embed(folder, arguments.weights)["images_per_s"])
            rates["c"].append(len(paths) / bare.seconds())
            print(f"round {round_ + 1}:", {key: round(rate[-1], 1) for key, rate in rates.items()})
    print(f"{len(paths)} images, precision of (b) and (c): {first['precision']}")
    for key, text in (("a", "notebook"), ("b", "fs embed"), ("c", "bare network")):
        print(f"({key}) {text:13s} median {np.median(rates[key]):6.1f} images/s")
    for other in "ac":
        each = np.array(rates["b"]) / np.array(rates[other])
        ratio = np.median(rates["b"]) / np.median(rates[other])
        print(f"(b)/({other}) {ratio:.2f}, by round {each.min():.2f} to {each.max():.2f}")
    if arguments.json is not None:
        medians = {key: float(np.median(rate)) for key, rate in rates.items()}
        arguments.json.write_text(json.dumps({"median": medians, "images": len(paths)}))


if __name__ == "__main__":
    main()
