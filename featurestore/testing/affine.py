"""A picture whose affine warp can be read back from the warped pixels alone.

It has one soft blob in each channel. A warp takes a blob's centroid where it takes any other point,
and three points decide an affine map.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

# Shares of the shorter side, from the centre. Shifted by a fifth, sheared by 10 degrees and drawn
# in by a fifth, the blobs are still whole.
_CENTRES = np.array([[0.095, 0.02], [-0.06, 0.075], [-0.03, -0.09]])
_SPREAD = 0.014


@dataclasses.dataclass(frozen=True)
class Transform:
    """The parts of an affine map as `Augmentation` names them: degrees, shares and factors."""

    rotation: float
    shear: float
    zoom_x: float
    zoom_y: float
    shift_x: float
    shift_y: float
    flipped: bool


def blobs(size: tuple[int, int]) -> np.ndarray:
    """Return the picture: (height, width, 3) uint8, black but for a red, a green, a blue blob."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width] + 0.5
    short = min(size)
    channels = [
        np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * (_SPREAD * short) ** 2))
        for at_x, at_y in _CENTRES * short + (width / 2, height / 2)
    ]
    picture: np.ndarray = np.rint(255 * np.stack(channels, axis=2)).astype(np.uint8)
    return picture


def recover(version: np.ndarray, *, original: np.ndarray) -> np.ndarray:
    """Return the (3, 3) matrix that takes points of `version` to points of `original`.

    Both are (H, W, 3) of any number type, `original` from `blobs`. Points are (x, y, 1), pixel
    centres at halves, as `featurestore.augmentation.draw_matrix` has them.
    """
    matrix: np.ndarray = _centroids(original) @ np.linalg.inv(_centroids(version))
    return matrix


def decompose(matrix: np.ndarray, *, size: tuple[int, int]) -> Transform:
    """Return the parts of a matrix that was composed as `draw_matrix` says."""
    height, width = size
    linear, centre = matrix[:2, :2], np.array([width / 2, height / 2])
    flipped = bool(np.linalg.det(linear) < 0)
    x_axis = -linear[:, 0] if flipped else linear[:, 0]
    y_axis = linear[:, 1]
    x_angle = math.atan2(x_axis[1], x_axis[0])
    y_angle = math.atan2(-y_axis[0], y_axis[1])
    cosine, sine = math.cos(x_angle), math.sin(x_angle)
    moved = matrix[:2, 2] - centre + linear @ centre
    return Transform(
        rotation=math.degrees(x_angle),
        shear=math.degrees(math.remainder(y_angle - x_angle, math.tau)),
        zoom_x=float(np.hypot(*x_axis)),
        zoom_y=float(np.hypot(*y_axis)),
        shift_x=float(cosine * moved[0] + sine * moved[1]) / width,
        shift_y=float(cosine * moved[1] - sine * moved[0]) / height,
        flipped=flipped,
    )


def _centroids(picture: np.ndarray) -> np.ndarray:
    """Return (3, 3): a column (x, y, 1) for each channel."""
    down, across = picture.sum(1, dtype=np.float64), picture.sum(0, dtype=np.float64)
    total = down.sum(0)
    x = (np.arange(len(across)) + 0.5) @ across / total
    y = (np.arange(len(down)) + 0.5) @ down / total
    columns: np.ndarray = np.stack([x, y, np.ones(3)])
    return columns
