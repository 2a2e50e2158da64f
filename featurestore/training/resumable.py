"""Training that a killed process has begun goes on: checkpoints are kept below the cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from featurestore.catalogue import set_fingerprint
from featurestore.training.checkpoints import Resumption, checkpoints_of
from featurestore.training.contract import Features, HeadSettings
from featurestore.training.runs import Run
from featurestore.training.train import Passage, TrainOptions, train, views_seen


def train_resumably(
    features: Features,
    settings: HeadSettings,
    *,
    cache: Path,
    options: TrainOptions,
    passage: Passage,
    resumption: Resumption,
) -> Run:
    """Train as `featurestore.training.train.train`, from the latest checkpoint of the same fit.

    What decides a fit are its rows without views, its settings, its seed and what varies the
    training rows: not the name of the set that holds them, nor how many views it has beyond those
    that are used. `options.checkpoints` is not used.

    Raises
    ------
    InvalidInput
        As `train`.
    Conflict
        Another process is at the same training.
    """
    facts = {
        "path": passage.path,
        "features": set_fingerprint(features.manifest_fingerprint, features.recipe.clean),
        "feature_set": features.name,
        "head": settings.head,
        "settings": settings.to_dict(),
        "seed": options.seed,
        "shuffled_labels": options.shuffle_labels,
        "augmentation": passage.augmentation or views_seen(features, options),
        "started_from": passage.started_from,
    }
    with checkpoints_of(facts, cache=cache, resumption=resumption) as checkpoints:
        return train(
            features,
            settings,
            cache=cache,
            options=dataclasses.replace(options, checkpoints=checkpoints),
            passage=passage,
        )
