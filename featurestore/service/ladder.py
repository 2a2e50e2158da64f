"""One network at several batch sizes: one image does not pay for thirty-two.

A compiled network computes whole batches; what is missing is padded. On two cores VGG16 takes 2.0 s
for its 32 images, and 0.08 s for one at batch size 1. The features must be those of `fs embed`, so
a smaller size is used only after it gave the bits that the full one gave, on this processor and for
images of this service. Until then everything goes through the full size.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from featurestore.executors.contract import EmbedsBatches

PASS_S = 0.5
"""A batch is not made larger where a pass takes longer than this: others wait for its end."""

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# Smaller batches cost throughput: 0.88 of the full size's at 4 and 0.97 at 8 (VGG16, two cores).
_LEAST_FULL = 8
# Padding up to a third costs less than a second pass for the rest.
_FILLED = 0.75
_PROBES = 4


@runtime_checkable
class Resizes(Protocol):
    """A network that shares its weights with one of another batch size."""

    def sized(self, batch_size: int) -> EmbedsBatches:
        """Return the same network for another batch size."""
        ...


@dataclasses.dataclass(frozen=True)
class _Probe:
    pixels: np.ndarray
    features: np.ndarray


class Ladder:
    """A network at its own batch size, and at smaller ones that give the same bits.

    `embed` and `check` are for one thread at a time; any thread may ask the rest meanwhile.

    Parameters
    ----------
    clock
        Seconds since any moment.
    """

    def __init__(
        self, network: EmbedsBatches, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._network = network
        self._full = network.batch_size
        self._clock = clock
        self._passes: dict[int, EmbedsBatches] = {self._full: network}
        self._seconds: dict[int, float] = {}
        self._warm: set[int] = set()
        self._probe: _Probe | None = None
        self._unchecked = (
            [size for size in _SIZES if size < self._full] if isinstance(network, Resizes) else []
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes in use, ascending."""
        return tuple(sorted(self._passes.copy()))

    @property
    def may_check(self) -> bool:
        """Whether `check` has something to do."""
        return bool(self._unchecked) and self._probe is not None

    @property
    def most(self) -> int:
        """How many images fill a batch: eight, or as many as a pass of `PASS_S` takes."""
        fitting = [size for size in self.sizes if size >= min(_LEAST_FULL, self._full)]
        quick = [size for size in fitting if self._seconds.get(size, np.inf) <= PASS_S]
        return max(fitting[0], *quick) if quick else fitting[0]

    def share(self, ready: int) -> int:
        """Return how many of `ready` images go into the next batch."""
        if ready >= self.most:
            return self.most
        above = min(size for size in self.sizes if size >= ready)
        below = max((size for size in self.sizes if size <= ready), default=0)
        return below if below and ready < _FILLED * above else ready

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features of up to a full batch: (n, *feature_shape); raises as the network."""
        size = min((size for size in self.sizes if size >= len(pixels)), default=self._full)
        begun = self._clock()
        features = _through(self._passes[size], pixels)
        self._note(size, self._clock() - begun)
        if self._probe is None:
            self._probe = _Probe(pixels[:_PROBES].copy(), features[:_PROBES].copy())
        return features

    def check(self) -> None:
        """Try the next smaller size, and use it if it gives the same bits."""
        if self._probe is None or not self._unchecked:
            return
        size = self._unchecked.pop(0)
        network = self._sized(size)
        at = np.arange(size) % len(self._probe.pixels)
        pixels = self._probe.pixels[at]
        equal = np.array_equal(_through(network, pixels), self._probe.features[at])
        begun = self._clock()
        again = np.array_equal(_through(network, pixels), self._probe.features[at])
        if equal and again:
            self._warm.add(size)
            self._seconds[size] = self._clock() - begun
            self._passes[size] = network
        if size >= _LEAST_FULL and 2 * (self._clock() - begun) > PASS_S:
            self._unchecked.clear()  # the next would take too long for a batch

    def _sized(self, size: int) -> EmbedsBatches:
        assert isinstance(self._network, Resizes)
        return self._network.sized(size)

    def _note(self, size: int, seconds: float) -> None:
        if size not in self._warm:  # the first pass compiles
            self._warm.add(size)
            return
        before = self._seconds.get(size, seconds)
        self._seconds[size] = 0.8 * before + 0.2 * seconds


def _through(network: EmbedsBatches, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate(list(network.embed_stream(iter((pixels,)))))
