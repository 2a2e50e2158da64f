"""Executing a plan: units through the network into staging, told to whoever waits."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

import numpy as np

from featurestore.catalogue import Quarantined
from featurestore.embedding.plan import Plan, cut_to_fit
from featurestore.embedding.quarantine import refuse_unreadable
from featurestore.embedding.settings import Progress
from featurestore.errors import Conflict
from featurestore.executors.contract import DecodeSettings, EmbedsBatches
from featurestore.executors.local import LocalExecutor
from featurestore.executors.watched import WatchedNetwork
from featurestore.recipe import Recipe
from featurestore.stores.staging import Staging


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computed:
    """What went through the network, and the seconds from the first decode to the last shard."""

    images: int = 0
    views: int = 0
    seconds: float = 0.0

    @property
    def images_per_s(self) -> float:
        """Images and views over the seconds; 0 where nothing was computed."""
        return round((self.images + self.views) / self.seconds, 2) if self.seconds else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a plan is executed.

    Parameters
    ----------
    dataset
        What an error calls the images' folder.
    strict
        Stop at the first unreadable image.
    """

    dataset: Path
    recipe: Recipe
    staging: Staging
    workers: int
    strict: bool
    progress: Progress

    def run(self, plan: Plan, network: EmbedsBatches) -> Computed:
        """Stage every unit of the plan; when this returns, all of them are durable.

        Raises
        ------
        Conflict
            An image changed while it was read; the others are staged.
        InvalidInput
            With `strict`, an image is unreadable.
        """
        recipe, begun = self.recipe, time.monotonic()
        images = views = 0
        changed: dict[str, str] = {}
        row_bytes = math.prod(network.feature_shape) * np.dtype(recipe.dtype).itemsize
        outcomes = LocalExecutor(workers=self.workers).run(
            cut_to_fit(plan.units, row_bytes=row_bytes),
            network=WatchedNetwork(network, lambda rows, _: self.progress.advanced(rows, 0)),
            decode=DecodeSettings(
                size=recipe.size, interpolation=recipe.interpolation, views=recipe.augmentation
            ),
            staging=self.staging,
        )
        names = {
            digest.tobytes().hex(): sample_id
            for unit in plan.units
            for digest, sample_id in zip(unit.digests, unit.sample_ids, strict=True)
        }
        for outcome in outcomes:
            images += outcome.computed
            views += outcome.views
            changed.update(outcome.changed)
            self.progress.advanced(0, len(outcome.quarantined))
            if self.strict:
                refuse_unreadable(
                    tuple(
                        Quarantined(names[digest], digest, reason)
                        for digest, reason in outcome.quarantined.items()
                    )
                )
        if changed:
            listed = "; ".join(f"{sample}: {what}" for sample, what in list(changed.items())[:5])
            raise Conflict(
                f"{len(changed)} image(s) of {self.dataset} changed while they were read: {listed}",
                next_step="run the same command again; what was computed is kept",
            )
        return Computed(images=images, views=views, seconds=time.monotonic() - begun)
