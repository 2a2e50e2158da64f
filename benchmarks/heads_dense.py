"""Part (a) of `heads.py`: the dense head against Keras's own `fit`."""

from __future__ import annotations

import dataclasses
import statistics
import time

import numpy as np

from featurestore.features import FeatureSet
from featurestore.training.contract import FitOptions
from featurestore.training.settings import DenseSettings

SEEDS = (0, 1, 2)


def dense_against_keras(features: FeatureSet) -> dict[str, object]:
    """Time the dense head against Keras's own `fit` of the same network, seed by seed in turn.

    Both have the reference's settings: 30 epochs, batches of 20, RMSprop at 2e-5, features divided
    by their root mean square. Keras is given float32 features in memory; our time holds reading
    the features from disk. Both compile anew each time; TensorFlow is loaded before.
    """
    import keras

    from featurestore.training.dense import DenseHead
    from featurestore.training.dense_network import build_network, build_optimizer

    settings = DenseSettings()
    n_classes = len(features.class_names)
    test, test_labels = features["test"].load()
    loss = "binary_crossentropy" if n_classes == 2 else "sparse_categorical_crossentropy"

    def ours(settings: DenseSettings, seed: int) -> tuple[float, np.ndarray]:
        begun = time.perf_counter()
        head = DenseHead(settings).fit(
            features["train"], None, options=FitOptions(n_classes=n_classes, seed=seed)
        )
        return time.perf_counter() - begun, head.predict_proba(test)

    X, y = features["train"].load()
    X = X.astype(np.float32)
    scale = float(1 / np.sqrt(np.mean(np.square(X), dtype=np.float64)))

    def keras_fit(settings: DenseSettings, seed: int) -> tuple[float, np.ndarray]:
        keras.utils.set_random_seed(seed)
        begun = time.perf_counter()
        model = build_network(
            settings, X.shape[1:], n_classes, seeds=[seed, seed + 1, seed + 2], scale=scale
        )
        model.compile(build_optimizer(settings), loss, metrics=["accuracy"])
        model.fit(X, y, batch_size=settings.batch_size, epochs=settings.epochs, verbose=0)
        taken = time.perf_counter() - begun
        found = model.predict(test.astype(np.float32), verbose=0)
        return taken, np.hstack([1 - found, found]) if n_classes == 2 else found

    short = dataclasses.replace(settings, epochs=1)
    for fit in (ours, keras_fit):
        fit(short, 0)
    wall: dict[str, list[float]] = {"ours": [], "keras": []}
    processor: dict[str, list[float]] = {"ours": [], "keras": []}
    accuracy: dict[str, list[float]] = {"ours": [], "keras": []}
    for seed in SEEDS:
        for name, fit in (("ours", ours), ("keras", keras_fit)):
            busy = time.process_time()
            taken, probabilities = fit(settings, seed)
            processor[name].append(time.process_time() - busy)
            wall[name].append(taken)
            accuracy[name].append(float(np.mean(probabilities.argmax(axis=1) == test_labels)))
    for kind, seconds in (("seconds", wall), ("processor seconds", processor)):
        ratios = [a / b for a, b in zip(seconds["ours"], seconds["keras"], strict=True)]
        print(
            f"dense, {settings.epochs} epochs on {len(y)} rows, {kind}: "
            f"{statistics.median(seconds['ours']):.1f} against "
            f"{statistics.median(seconds['keras']):.1f} of model.fit; "
            f"ratios {_shown(ratios, 2)}",
            flush=True,
        )
    print(
        f"  test accuracy {_shown(accuracy['ours'], 3)} against {_shown(accuracy['keras'], 3)}",
        flush=True,
    )
    return {"seconds": wall, "processor_seconds": processor, "accuracy": accuracy}


def _shown(values: list[float], digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)
