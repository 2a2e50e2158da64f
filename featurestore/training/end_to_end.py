"""End to end: a dense head trained on images that are augmented anew in every epoch.

The backbone is frozen, so only the head learns, and its model reads features as any dense head's
does. Validation and test images are never augmented: their features are those of the feature set,
which saves a pass over them in every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from featurestore.errors import InvalidInput
from featurestore.features import FeatureSet
from featurestore.training.heads import build_settings
from featurestore.training.resumable import train_resumably
from featurestore.training.run_record import END_TO_END
from featurestore.training.runs import Run
from featurestore.training.settings import DenseSettings
from featurestore.training.streamed import (
    AugmentedRows,
    StreamOptions,
    bytes_for_images,
    open_pixels,
    stream_network,
)
from featurestore.training.train import Passage, TrainOptions, check_trainable

DEFAULTS: Mapping[str, object] = {"optimizer": "nadam"}
"""Where this path's defaults differ from `DenseSettings`: the reference's optimizer."""


def end_to_end_settings(fields: Mapping[str, object]) -> DenseSettings:
    """Return the settings of this path's head, those not in `fields` at the path's defaults.

    Raises
    ------
    InvalidInput
        A field is not one of the dense head's, or a value is out of range.
    """
    return cast(DenseSettings, build_settings(DenseSettings.head, {**DEFAULTS, **fields}))


def train_end_to_end(
    features: FeatureSet,
    settings: DenseSettings,
    *,
    cache: Path,
    options: TrainOptions,
    streaming: StreamOptions,
) -> Run:
    """Train a dense head on augmented images of the training split, and write the run.

    Epoch e shows version e - 1 of every training image, drawn by the ranges, the run's seed and the
    image's bytes. Scale, validation and test rows are the feature set's. A checkpoint is kept after
    every epoch; the same call after a kill goes on from there, and ends as an undisturbed one.

    Parameters
    ----------
    features
        The images under the recipe whose network they are run through.
    options
        `views` is None. Of `memory_bytes` decoded images may take what the validation rows leave.
        `checkpoints` is not used: they are kept below the cache.

    Returns
    -------
    The run, durable below ``cache/runs``.

    Raises
    ------
    InvalidInput
        As `train`; the head is not dense; views are asked for; an image is gone or has changed.
    Conflict
        The weights are not those of the feature set, or another process is at the same training.
    NotFound
        The weights are gone.
    """
    if settings.head != DenseSettings.head:
        raise InvalidInput(
            f"path {END_TO_END}: expected head {DenseSettings.head}, found {settings.head}, which "
            "does not learn in steps that could each see another version of an image",
            next_step=f"--head {DenseSettings.head}, or embed with --views for other heads",
        )
    if options.views is not None:
        raise InvalidInput(
            f"path {END_TO_END}: expected images that are augmented in every epoch, "
            f"found {options.views} stored views",
            next_step="leave views out and give an augmentation, or train on the views as they "
            "are stored: fs train --path cached --views K",
        )
    present = {split: features[split] for split in features.splits if len(features[split])}
    check_trainable(features, present)
    recipe = features.recipe.clean
    pixels = open_pixels(
        features,
        "train",
        recipe,
        options=streaming,
        memory_bytes=bytes_for_images(features, options.memory_bytes),
    )
    augmentation = streaming.augmentation
    rows = AugmentedRows(
        present["train"],
        pixels,
        stream_network(features, recipe, streaming),
        augmentation=augmentation,
        seed=options.seed,
    )
    passage = Passage(
        path=END_TO_END,
        train=rows,
        augmentation=(
            None if augmentation is None else {**augmentation.to_dict(), "seed": options.seed}
        ),
    )
    return train_resumably(
        features,
        settings,
        cache=cache,
        options=options,
        passage=passage,
        resumption=streaming.resumption,
    )
