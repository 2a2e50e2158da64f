"""Comparisons made by hand: what the report draws, without training or statistics."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np

from featurestore.compare.results import (
    Comparison,
    Contender,
    Estimate,
    Interval,
    Pair,
    PairedTest,
    SeedVerdicts,
)
from featurestore.testing.heads import RECIPE
from featurestore.training.evaluation import METRICS, Predictions, score
from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.runs import Run, TrainedOn
from featurestore.training.settings import DenseSettings, LogisticSettings

HEADS = ("dense", "logistic", "linear-svm", "knn", "random-forest", "gradient-boosting")
SKILLS = (3.0, 3.2, 3.1, 2.0, 2.5, 2.7)


def features(**changes):
    fields = {
        "name": "photos/vgg16-150-block5_pool-fp32-w000000",
        "fingerprint": "f" * 64,
        "manifest_fingerprint": "e" * 64,
        "recipe_fingerprint": RECIPE.fingerprint,
        "recipe": RECIPE.to_dict(),
        "class_names": ("cats", "dogs"),
        "feature_shape": (4, 4, 512),
        "rows": {"train": 2000, "validation": 1000, "test": 1000},
        "comparable": "f" * 64,
    }
    return TrainedOn(**fields | changes)


def run(run_id, *, settings=None, seed=0, epochs=0, class_names=("cats", "dogs"), **changes):
    """A run that lies nowhere; with epochs, its curves approach a plateau."""
    noise = np.random.default_rng(seed).normal(scale=0.01, size=(4, epochs))
    grown = 1 - np.exp(-np.arange(1, epochs + 1) / 6)
    history = {
        "train_accuracy": (0.55 + 0.43 * grown + noise[0]).tolist(),
        "train_loss": (0.7 - 0.62 * grown + noise[1]).tolist(),
        "validation_accuracy": (0.55 + 0.41 * grown + 2 * noise[2]).tolist(),
        "validation_loss": (0.7 - 0.58 * grown + 2 * noise[3]).tolist(),
    }
    settings = settings or (DenseSettings() if epochs else LogisticSettings())
    fields = {
        "id": run_id,
        "path": Path("runs") / run_id,
        "created": "2025-03-04T12:05:06+00:00",
        "head": settings.head,
        "settings": settings,
        "seed": seed,
        "shuffled_labels": False,
        "features": features(class_names=tuple(class_names)),
        "metrics": {},
        "history": history if epochs else {},
        "chosen": {},
        "notes": (),
        "versions": {"python": "3.11.7", "featurestore": "0.1.0", "numpy": "2.4.6"},
        "seconds": {"fit": 1.5, "total": 2.0, "predict_per_row": 2e-5},
        "files": {},
    }
    return Run(**fields | changes)


def comparison(
    contenders=3, *, rows=400, class_names=("cats", "dogs"), seeds=3, sample_ids=None, labels=HEADS
):
    """Heads that share what is hard about an image, and differ in skill.

    The intervals are normal approximations: what they are is not the report's business.
    """
    rng = np.random.default_rng(7)
    n_classes = len(class_names)
    truth = np.arange(rows) % n_classes
    hard = rng.normal(size=(rows, n_classes))
    probabilities, made = {}, []
    for number in range(contenders):
        runs = []
        for seed in range(seeds):
            logits = hard + 0.5 * rng.normal(size=(rows, n_classes))
            logits[np.arange(rows), truth] += SKILLS[number % len(SKILLS)]
            odds = np.exp(1.5 * logits)
            head_run = run(
                f"{labels[number]}-photos-20250304T120506-{number}{seed}",
                seed=seed,
                epochs=30 if labels[number] == "dense" else 0,
                class_names=class_names,
            )
            shares = odds / odds.sum(axis=1, keepdims=True)
            probabilities[head_run.id] = shares.astype(np.float32)
            runs.append(head_run)
        made.append(_contender(labels[number], runs, truth, probabilities))
    ids = [f"test/{class_names[k]}/{i:05}.jpg" for i, k in enumerate(truth)]
    return Comparison(
        features=features(class_names=tuple(class_names)),
        split="test",
        sample_ids=np.array(ids if sample_ids is None else sample_ids, dtype=object),
        labels=truth,
        contenders=tuple(made),
        pairs=tuple(
            _pair(one, other, truth, probabilities)
            for one, other in itertools.combinations(made, 2)
        ),
        probabilities=probabilities,
        resamples=2000,
        seed=0,
    )


def _contender(label, runs, truth, probabilities):
    ids = np.array([str(i) for i in range(len(truth))])
    scores = [score(Predictions(ids, truth, probabilities[r.id])) for r in runs]
    means = {name: float(np.mean([s[name] for s in scores])) for name in METRICS}
    majority = float(np.bincount(truth).max() / len(truth))
    return Contender(
        label=label,
        runs=tuple(runs),
        metrics={name: Estimate(value, _interval(value, 0.02)) for name, value in means.items()},
        seed_spread=(
            {name: float(np.std([s[name] for s in scores], ddof=1)) for name in METRICS}
            if len(runs) > 1
            else None
        ),
        fit_seconds=1.5,
        predict_us=20.0,
        model_bytes=2.5e6,
        majority_share=majority,
        chance_share=0.5,
        chance_p=1e-9,
        majority_p=1e-9,
        sentence=f"{label} is better than the most frequent class: {means['accuracy']:.3f}.",
    )


def _pair(one, other, truth, probabilities):
    right = [probabilities[c.runs[0].id].argmax(axis=1) == truth for c in (one, other)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    difference = one.metrics["accuracy"].value - other.metrics["accuracy"].value
    p = min(1.0, float(np.exp(-((only_first - only_second) ** 2) / (only_first + only_second + 1))))
    told = "is better than" if p < 0.05 else "is not distinguishable from"
    return Pair(
        first=one.label,
        second=other.label,
        difference=Estimate(difference, _interval(difference, 0.018)),
        test=PairedTest(len(truth), only_first, only_second, p),
        adjusted_p=p,
        by_seed=(
            SeedVerdicts(0, 0, 9, Interval(p / 2, min(1.0, 2 * p))) if len(one.runs) > 1 else None
        ),
        winner=one.label if p < 0.05 else None,
        apart=float(only_first + only_second),
        images_needed=9000 if p >= 0.05 else 300,
        sentence=f"{one.label} {told} {other.label} on {len(truth)} images.",
    )


def _interval(value, half):
    return Interval(value - half, value + half)


def judged_on(found, record):
    """The comparison as one on the rows of a committed feature set."""
    prints = {
        "fingerprint": record.fingerprint,
        "manifest_fingerprint": record.manifest_fingerprint,
    }
    return dataclasses.replace(found, features=dataclasses.replace(found.features, **prints))


def tuned_settings(**changes):
    fields = {
        "backbone": "vgg16",
        "size": (150, 150),
        "layer": "block5_pool",
        "pooling": "none",
        "precision": "float32",
        "cut": "block4_pool",
        "unfreeze": ("block5",),
        "statistics": False,
        "units": 256,
        "dropout": 0.0,
        "scaled": True,
        "epochs": 30,
        "batch_size": 20,
        "optimizer": "rmsprop",
        "learning_rate": 1e-5,
        "patience": None,
        "class_weight": "none",
    }
    return FineTuneSettings(**fields | changes)
