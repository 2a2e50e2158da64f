"""What every network promises, as a suite to inherit, and a network that needs no TensorFlow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from featurestore.digests import sha256_hex
from featurestore.errors import InvalidInput

TINY_SIZE = (16, 16)
TINY_GRID = 4


class NetworkContract(Protocol):
    """The part of `featurestore.backbones.network.Network` that others rely on."""

    layer: str
    pooling: str
    size: tuple[int, int]
    precision: str
    dtype: str
    weights_sha256: str
    weights_path: Path | None
    feature_shape: tuple[int, ...]
    batch_size: int
    device: str

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Turn (n, H, W, 3) uint8 RGB into (n, *feature_shape) of `dtype`."""


class BackboneConformance:
    """Inherit, and return a network for up to `batch_size` images a pass from `make_network`."""

    def make_network(self, batch_size: int) -> NetworkContract:
        """Return a new network; equal weights at every call."""
        raise NotImplementedError

    @pytest.fixture
    def network(self, request: pytest.FixtureRequest) -> NetworkContract:
        """Return a network of batch size 8, built once for the tests of a class."""
        if "shared" not in vars(request.cls):
            request.cls.shared = self.make_network(8)
        network: NetworkContract = request.cls.shared
        return network

    @pytest.fixture
    def images(self, network: NetworkContract) -> np.ndarray:
        """Return 19 different images, uint8 (19, H, W, 3)."""
        random = np.random.default_rng(7)
        return random.integers(0, 256, (19, *network.size, 3), dtype=np.uint8)

    def test_features_have_the_stated_shape_and_type(
        self, network: NetworkContract, images: np.ndarray
    ) -> None:
        """(n, *feature_shape) of `dtype`, finite, and not all the same."""
        features = network.embed(images)
        assert features.shape == (19, *network.feature_shape)
        assert features.dtype == np.dtype(network.dtype)
        assert np.isfinite(features).all()
        assert len(np.unique(features.reshape(19, -1), axis=0)) == 19

    @pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 19])
    def test_any_number_of_images_gives_the_same_rows(
        self, network: NetworkContract, images: np.ndarray, count: int
    ) -> None:
        """Short, full and several passes give equal rows, bit for bit."""
        assert np.array_equal(network.embed(images[:count]), network.embed(images)[:count])

    def test_a_row_does_not_depend_on_its_place_or_neighbours(
        self, network: NetworkContract, images: np.ndarray
    ) -> None:
        """Shuffled images give shuffled rows, bit for bit."""
        order = np.random.default_rng(1).permutation(19)
        assert np.array_equal(network.embed(images[order]), network.embed(images)[order])

    def test_batch_size_is_not_identity(self, network: NetworkContract, images: np.ndarray) -> None:
        """Another batch size gives equal rows, bit for bit."""
        other = self.make_network(16)
        assert np.array_equal(other.embed(images), network.embed(images))
        assert other.weights_sha256 == network.weights_sha256

    def test_images_are_left_as_they_were(
        self, network: NetworkContract, images: np.ndarray
    ) -> None:
        """A read-only batch serves, so nothing writes to it."""
        images.setflags(write=False)
        network.embed(images)

    def test_the_weights_digest_is_a_sha256(self, network: NetworkContract) -> None:
        """Sixty-four lower-case hexadecimal digits."""
        assert re.fullmatch(r"[0-9a-f]{64}", network.weights_sha256)

    @pytest.mark.parametrize("wrong", ["type", "height", "channels", "axes"])
    def test_other_arrays_are_refused(
        self, network: NetworkContract, images: np.ndarray, wrong: str
    ) -> None:
        """An array that is not uint8 (n, H, W, 3) of this size is an error that says so."""
        batch = {
            "type": images.astype(np.float32),
            "height": images[:, 1:],
            "channels": images[..., :1],
            "axes": images[0],
        }[wrong]
        with pytest.raises(InvalidInput, match="expected uint8"):
            network.embed(batch)


class TinyNetwork:
    """Means of 4 x 4 blocks of a 16 x 16 image: (n, 4, 4, 3), exact, deterministic, NumPy only.

    Parameters
    ----------
    weights
        Stands for the weights' values: another text, another digest.
    pause_s
        Seconds each pass takes, so that a test can kill it midway.
    before
        Told before each pass how many images came earlier; may raise, or end the process.

    Attributes
    ----------
    calls, images
        Passes begun and images computed.
    """

    layer = "blocks"
    pooling = "none"
    precision = "float32"
    size = TINY_SIZE
    feature_shape: tuple[int, ...] = (TINY_GRID, TINY_GRID, 3)
    weights_path: Path | None = None
    device = "numpy"

    def __init__(
        self,
        *,
        weights: str = "one",
        dtype: str = "float16",
        batch_size: int = 8,
        pause_s: float = 0.0,
        before: Callable[[int], None] | None = None,
    ) -> None:
        self.weights_sha256 = sha256_hex(weights.encode())
        self.dtype = dtype
        self.batch_size = batch_size
        self.calls = 0
        self.images = 0
        self._pause_s = pause_s
        self._before = before

    def embed_stream(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the features of each batch; like a GPU's, one batch behind what was drawn."""
        waiting: np.ndarray | None = None
        for batch in batches:
            if waiting is not None:
                yield self.embed(waiting)
            waiting = batch
        if waiting is not None:
            yield self.embed(waiting)

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Return block means (n, 4, 4, 3) in [0, 255] of (n, 16, 16, 3) uint8 images."""
        if batch.dtype != np.uint8 or batch.shape[1:] != (*self.size, 3):
            raise InvalidInput(
                f"batch: expected uint8 (n, {self.size[0]}, {self.size[1]}, 3), "
                f"found {batch.dtype} {batch.shape}"
            )
        for _ in range(0, len(batch), self.batch_size):
            self.calls += 1
            if self._before is not None:
                self._before(self.images)
            if self._pause_s:
                time.sleep(self._pause_s)
        self.images += len(batch)
        side = self.size[0] // TINY_GRID
        blocks = batch.reshape(len(batch), TINY_GRID, side, TINY_GRID, side, 3)
        return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float32), self.dtype)
