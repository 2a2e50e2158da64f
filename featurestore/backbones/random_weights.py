"""Random weights that depend on the seed and on the layer alone: not on Keras, NumPy or machine."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from featurestore.backbones.weights import (
    RANDOM_FILL_VERSION,
    ExpectedLayer,
    ExpectedWeight,
    LayerValues,
)

# Each residual sum would add the variance of its branch: after ResNet152's 50 blocks values of 1e11
# that no float16 holds. With this the largest value of any backbone of the table is about 1e4.
_BRANCH_SCALE = 0.3

_ONES = frozenset({"gamma", "moving_variance", "variance"})


def random_values(layer: ExpectedLayer, *, seed: int) -> LayerValues:
    """Return the arrays of a layer: kernels uniform, scales and variances 1, the rest 0.

    Kernels are uniform in ±sqrt(6 / fan-in), the bound that keeps the variance of ReLU networks
    (He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2); those at the
    end of a residual branch are smaller, so that sums do not grow with depth. A layer's values do
    not depend on the values of others, so every cut of a network has the same ones. They are made
    from PCG64's raw 64-bit stream, which NumPy holds stable, unlike its distributions.
    """
    return [_fill(layer, weight, seed) for weight in layer.weights]


def _fill(layer: ExpectedLayer, weight: ExpectedWeight, seed: int) -> np.ndarray:
    if weight.role in _ONES:
        return np.ones(weight.shape, np.float32)
    if not weight.role.endswith("kernel"):
        return np.zeros(weight.shape, np.float32)
    bound = math.sqrt(6.0 / _fan_in(layer, weight)) * (_BRANCH_SCALE if layer.ends_branch else 1)
    return _uniform(f"{seed}/{layer.name}/{weight.role}", weight.shape) * np.float32(bound)


def _fan_in(layer: ExpectedLayer, weight: ExpectedWeight) -> int:
    """Return how many inputs one output sums over."""
    depthwise = layer.kind == "DepthwiseConv2D" or weight.role == "depthwise_kernel"
    # A depthwise kernel is (height, width, channels, multiplier): each output sees one channel.
    return max(1, math.prod(weight.shape[:2] if depthwise else weight.shape[:-1]))


def _uniform(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 values in [-1, 1), 24 bits each, that depend on `key` and the count alone."""
    text = f"featurestore random fill {RANDOM_FILL_VERSION}/{key}"
    entropy = int.from_bytes(hashlib.sha256(text.encode()).digest(), "little")
    count = math.prod(shape)
    raw = np.random.PCG64(entropy).random_raw(-(-count // 2))
    bits = np.asarray(raw, "<u8").view("<u4")[:count] >> np.uint32(8)
    return (bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)).reshape(shape)
