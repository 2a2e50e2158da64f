"""The whole way on a bundled data set: write images, embed them, train two heads, compare."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from featurestore.compare.comparison import compare
from featurestore.compare.results import Comparison
from featurestore.embedding.embed import embed
from featurestore.embedding.settings import EmbedResult, EmbedSettings, Progress
from featurestore.errors import NotFound
from featurestore.features import open_features
from featurestore.stores import durable
from featurestore.training.runs import Run
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.train import train

_SIDE = 32
# The reference's 2e-5 suits its 8,192 columns; with 512 it has not moved far after 30 epochs.
_LEARNING_RATE = 1e-3
_SETTINGS = EmbedSettings(backbone="vgg16", size=(48, 48), name="digits")


@dataclasses.dataclass(frozen=True)
class Demo:
    """What the demo made, and what came out."""

    folder: Path
    weights: str
    embedded: EmbedResult
    runs: tuple[Run, ...]
    comparison: Comparison


def write_digits(folder: Path) -> int:
    """Write scikit-learn's 1,797 digits as PNG files in train, validation and test; return them.

    8 x 8 pixels of 0 to 16 are scaled to 32 x 32 of 0 to 255. Each class is cut 70/15/15 in the
    order of the data set. Files that exist are left alone, so that a second demo recomputes none.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        rows = np.flatnonzero(digits.target == label)
        bounds = {"train": 0.7, "validation": 0.85, "test": 1.0}
        for position, row in enumerate(rows):
            split = next(name for name, end in bounds.items() if position < end * len(rows))
            path = folder / split / str(label) / f"{row:04d}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(digits.images[row] * 16, 0, 255).astype(np.uint8)
                image = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
                # Whole or absent: a torn file would be taken for a finished one next time.
                temporary = durable.temporary_path(path)
                image.save(temporary)
                os.replace(temporary, path)
    return len(digits.target)


def run_demo(folder: Path, *, cache: Path, progress: Progress, say: Callable[[str], None]) -> Demo:
    """Write the digits under `folder`, embed them into `cache`, train both heads, compare them.

    Weights are ImageNet's where they are cached or can be downloaded, and random ones elsewhere:
    `say` is told which.
    """
    digits = folder / "digits"
    count = write_digits(digits)
    say(f"wrote {count} images to {digits}")
    weights = "imagenet"
    try:
        embedded = embed(digits, _SETTINGS, cache=cache, progress=progress)
    except NotFound as error:
        say(f"no ImageNet weights here: {error.message}")
        say("going on with random weights (random:0): a stand-in, not a pretrained network")
        weights = "random:0"
        embedded = embed(
            digits, dataclasses.replace(_SETTINGS, weights=weights), cache=cache, progress=progress
        )
    say(f"features: {embedded.computed} computed, {embedded.reused} reused")
    runs = []
    with open_features(embedded.fingerprint, cache=cache) as features:
        for settings in (LogisticSettings(), DenseSettings(learning_rate=_LEARNING_RATE)):
            say(f"training {settings.head}")
            runs.append(train(features, settings, cache=cache))
    return Demo(digits, weights, embedded, tuple(runs), compare(runs))
