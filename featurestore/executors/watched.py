"""A network that says, batch by batch, how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from featurestore.executors.contract import EmbedsBatches


class WatchedNetwork:
    """Another network that tells of every batch that has gone through it: `EmbedsBatches`.

    Parameters
    ----------
    watch
        Given the rows of the batch, and those of the pass so far.
    """

    def __init__(self, network: EmbedsBatches, watch: Callable[[int, int], None]) -> None:
        self._network = network
        self._watch = watch

    @property
    def batch_size(self) -> int:
        """As the network has it."""
        return self._network.batch_size

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """As the network has it."""
        return self._network.feature_shape

    def embed_stream(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """See `EmbedsBatches.embed_stream`."""
        done = 0
        for features in self._network.embed_stream(batches):
            done += len(features)
            self._watch(len(features), done)
            yield features
