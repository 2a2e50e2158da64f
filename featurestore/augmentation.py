"""Random versions of an image: one affine matrix drawn by hash, one warp.

A version is decided by four things: the ranges (`Augmentation`), a seed, the SHA-256 of the image's
bytes, and the number of the version (`view`). Not by the order in which images come, the number of
threads or a library's random generator: the numbers are taken from a SHA-256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping

import numpy as np
from PIL import Image

from featurestore.errors import InvalidInput

RULE = "affine-bilinear-1"
"""Names the drawing and the warp in every recipe; a change of either changes it."""

_NUMBERS = ("rotation", "shift", "shear", "zoom")
_DIGITS = 6
_WORDS = 8  # a SHA-256 as 32-bit numbers


def _text(value: float) -> str:
    return f"{value:.{_DIGITS}g}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges that a version of an image is drawn from, each uniformly and on its own.

    Parameters
    ----------
    rotation
        Largest angle in degrees, in either direction; up to 180.
    shift
        Largest move as a share of the height and of the width, in either direction; up to 1.
    shear
        Largest shear angle in degrees, in either direction; less than 90. The reference experiment
        asks its library for 0.2, which that library takes as degrees too: next to nothing.
    zoom
        Height and width are scaled each by its own factor in [1 - zoom, 1 + zoom]; less than 1.
    flip
        Mirror left and right in half of the versions.
    fill
        What lies beyond the picture's edge, in every channel, 0 to 255.
    """

    rotation: float = 40.0
    shift: float = 0.2
    shear: float = 10.0
    zoom: float = 0.2
    flip: bool = True
    fill: int = 0

    def __post_init__(self) -> None:
        limits = {"rotation": 180.0, "shift": 1.0, "shear": 89.0, "zoom": 0.99}
        for name, most in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidInput(f"augmentation, {name}: expected a number, found {value!r}")
            if not 0 <= value <= most:
                raise InvalidInput(f"augmentation, {name}: expected 0 to {most:g}, found {value}")
            if float(_text(value)) != value:
                raise InvalidInput(
                    f"augmentation, {name}: expected at most {_DIGITS} digits, found {value!r}"
                )
            object.__setattr__(self, name, float(value))
        if not isinstance(self.flip, bool):
            raise InvalidInput(f"augmentation, flip: expected true or false, found {self.flip!r}")
        if (
            isinstance(self.fill, bool)
            or not isinstance(self.fill, int)
            or self.fill not in range(256)
        ):
            raise InvalidInput(f"augmentation, fill: expected 0 to 255, found {self.fill!r}")

    def to_dict(self) -> dict[str, object]:
        """Return the fields as canonical JSON has them: numbers as text, with the rule's name."""
        texts = {name: _text(getattr(self, name)) for name in _NUMBERS}
        return {"rule": RULE, **texts, "flip": self.flip, "fill": self.fill}

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> Augmentation:
        """Build it from what `to_dict` gave.

        Raises
        ------
        InvalidInput
            The fields or the rule are not those of this version, or a value is out of range.
        """
        known = {"rule", *_NUMBERS, "flip", "fill"}
        if set(fields) != known or fields["rule"] != RULE:
            raise InvalidInput(
                f"augmentation: expected {RULE} with {sorted(known)}, found {fields}"
            )
        try:
            numbers = {name: float(str(fields[name])) for name in _NUMBERS}
        except ValueError as error:
            raise InvalidInput(f"augmentation: {error}") from error
        return cls(**numbers, flip=fields["flip"], fill=fields["fill"])  # type: ignore[arg-type] # checked there


REFERENCE = Augmentation(shear=0.2)
"""The reference experiment's ranges, to the letter."""


def parse_augmentation(text: str) -> Augmentation | None:
    """Return what the command line asks for; None for ``none``.

    ``default`` and ``reference`` have names; ``rotation=20,zoom=0.1,flip=false`` changes some
    fields of the default; ``only:flip=true`` leaves everything else out.

    Raises
    ------
    InvalidInput
        The text is none of these, or a value is out of range.
    """
    named = {"none": None, "default": Augmentation(), "reference": REFERENCE}
    if text in named:
        return named[text]
    start = Augmentation()
    if text.startswith("only:"):
        text = text.removeprefix("only:")
        start = Augmentation(rotation=0, shift=0, shear=0, zoom=0, flip=False)
    changed: dict[str, object] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in {*_NUMBERS, "flip", "fill"}:
            raise InvalidInput(
                f"augmentation {part!r}: expected none, default, reference, or "
                f"{', '.join((*_NUMBERS, 'flip', 'fill'))} with a value, such as rotation=20"
            )
        changed[name] = _parsed(name, value)
    return dataclasses.replace(start, **changed)  # type: ignore[arg-type] # checked there


def draw_matrix(
    augmentation: Augmentation, *, seed: int, sha256: bytes, view: int, size: tuple[int, int]
) -> np.ndarray:
    """Return the (3, 3) matrix that takes a point of the version to its point of the image.

    Points are (x, y, 1) in pixels from the left and the top, pixel centres at halves. The matrix
    is rotation, shift, shear, zoom and flip about the centre, as the reference's generator composes
    them. Source: Keras 3, `keras/src/legacy/preprocessing/image.py`, `apply_affine_transform`.

    Parameters
    ----------
    sha256
        32 bytes: the digest of the image's bytes.
    view
        Number of the version, from 0.
    size
        (height, width) in pixels.
    """
    turn, down, right, shear, tall, wide, mirror = _uniforms(seed, sha256, view)
    height, width = size
    angle = math.radians(_spread(turn, augmentation.rotation))
    slant = math.radians(_spread(shear, augmentation.shear))
    across, along = math.sin(angle), math.cos(angle)
    # In (row, column), as the source has it.
    rotation = np.array([[along, -across, 0], [across, along, 0], [0, 0, 1]])
    shift = np.eye(3)
    shift[0, 2] = _spread(down, augmentation.shift) * height
    shift[1, 2] = _spread(right, augmentation.shift) * width
    shearing = np.array([[1, -math.sin(slant), 0], [0, math.cos(slant), 0], [0, 0, 1]])
    zoom = np.diag([1 + _spread(tall, augmentation.zoom), 1 + _spread(wide, augmentation.zoom), 1])
    flip = np.diag([1, -1 if augmentation.flip and mirror < 0.5 else 1, 1])
    centre, back = np.eye(3), np.eye(3)
    centre[:2, 2] = height / 2, width / 2
    back[:2, 2] = -height / 2, -width / 2
    matrix = centre @ rotation @ shift @ shearing @ zoom @ flip @ back
    swapped: np.ndarray = matrix[[1, 0, 2]][:, [1, 0, 2]]
    return swapped


def augment(
    image: np.ndarray, augmentation: Augmentation, *, seed: int, sha256: bytes, view: int
) -> np.ndarray:
    """Return one version of an image: (H, W, 3) uint8 from (H, W, 3) uint8, by one bilinear warp.

    May be called from many threads at once: the warp lets go of the interpreter's lock.
    """
    height, width = image.shape[:2]
    matrix = draw_matrix(augmentation, seed=seed, sha256=sha256, view=view, size=(height, width))
    warped = Image.fromarray(image).transform(
        (width, height),
        Image.Transform.AFFINE,
        tuple(matrix[:2].ravel()),
        resample=Image.Resampling.BILINEAR,
        fillcolor=(augmentation.fill,) * 3,
    )
    return np.asarray(warped)


def _uniforms(seed: int, sha256: bytes, view: int) -> list[float]:
    """Return seven numbers in [0, 1). A library's generator may change with its version."""
    digest = hashlib.sha256(f"{RULE} {seed} {view} ".encode() + sha256).digest()
    words = np.frombuffer(digest, ">u4", _WORDS)[: _WORDS - 1]
    return [float(word) / 2.0**32 for word in words]


def _spread(uniform: float, most: float) -> float:
    return (2 * uniform - 1) * most


def _parsed(name: str, value: str) -> object:
    try:
        if name == "flip":
            return {"true": True, "false": False}[value]
        return int(value) if name == "fill" else float(value)
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"augmentation, {name}: {value!r} is no value for it") from error
