"""Random versions of an image: one affine matrix drawn by hash, one warp.

A version is decided by four things: the ranges (`Augmentation`), a seed, the SHA-256 of the image's
bytes, and the number of the version (`view`). Not by the order in which images come, the number of
threads or a library's random generator: the numbers are taken from a SHA-256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from featurestore.errors import InvalidInput

RULE = "affine-bilinear-1"
"""Names the drawing and the warp in every recipe; a change of either changes it."""

_NUMBERS = ("rotation", "shift", "shear", "zoom")
_DIGITS = 6
_WORDS = 8  # a SHA-256 as 32-bit numbers
_GRID = 2**32


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
            object.__setattr__(self, name, float(value) + 0.0)  # -0.0 would be another text
        if not isinstance(self.flip, bool):
            raise InvalidInput(f"augmentation, flip: expected true or false, found {self.flip!r}")
        if (
            isinstance(self.fill, bool)
            or not isinstance(self.fill, int)
            or self.fill not in range(256)
        ):
            raise InvalidInput(f"augmentation, fill: expected 0 to 255, found {self.fill!r}")

    @property
    def changes_nothing(self) -> bool:
        """Whether every version is the image itself."""
        return not self.flip and all(getattr(self, name) == 0 for name in _NUMBERS)

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
        built = cls(**numbers, flip=fields["flip"], fill=fields["fill"])  # type: ignore[arg-type] # checked there
        if built.to_dict() != dict(fields):
            # Another spelling of the same numbers would have another fingerprint.
            raise InvalidInput(f"augmentation: expected {built.to_dict()}, found {fields}")
        return built


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
        if name in changed:
            raise InvalidInput(f"augmentation, {name}: expected one value, found two")
        changed[name] = _parsed(name, value)
    return dataclasses.replace(start, **changed)  # type: ignore[arg-type] # checked there


def draw_matrix(
    augmentation: Augmentation, *, seed: int, sha256: bytes, view: int, size: tuple[int, int]
) -> np.ndarray:
    """Return the (3, 3) float64 matrix that takes a point of the version to its point of the image.

    Points are (x, y, 1) in pixels from the left and the top, pixel centres at halves. The matrix
    is rotation, shift, shear, zoom and flip about the centre, as the reference's generator composes
    them: it moves the version's x axis to `rotation` and its y axis to `rotation + shear`.
    Source: Keras 3, `keras/src/legacy/preprocessing/image.py`, `apply_affine_transform`; of an
    image that is not square that code takes (height / 2, width / 2) for (x, y) of the centre, this
    one does not.

    Every number is a multiple of 2**-32, less than a millionth of a pixel off. So the last digit
    of a processor's sine moves no pixel, and the warp's coordinates are exact in double precision
    in whatever order a compiler multiplies and adds (up to 8,192 pixels a side).

    Parameters
    ----------
    sha256
        32 bytes: the digest of the image's bytes.
    view
        Number of the version, from 0.
    size
        (height, width) in pixels.
    """
    coefficients = _coefficients(augmentation, _uniforms(seed, sha256, view), size)
    return np.array([*coefficients, 0.0, 0.0, 1.0]).reshape(3, 3)


def augment(
    image: np.ndarray, augmentation: Augmentation, *, seed: int, sha256: bytes, view: int
) -> np.ndarray:
    """Return one version of an image: (H, W, 3) uint8 from (H, W, 3) uint8, by one bilinear warp.

    A point within the picture's outline has a colour; within half a pixel of it that of the
    outermost pixel. A point beyond has `fill`. Colours between whole numbers are rounded down, so
    a version is up to half a grey level darker on average.

    May be called from many threads at once: the warp lets go of the interpreter's lock.
    """
    height, width = image.shape[:2]
    warped = Image.fromarray(image).transform(
        (width, height),
        Image.Transform.AFFINE,
        _coefficients(augmentation, _uniforms(seed, sha256, view), (height, width)),
        resample=Image.Resampling.BILINEAR,
        fillcolor=(augmentation.fill,) * 3,
    )
    return np.asarray(warped)


def _coefficients(
    augmentation: Augmentation, uniforms: Sequence[float], size: tuple[int, int]
) -> tuple[float, ...]:
    """Return the first two rows of the matrix. Plain floats: six numbers need no BLAS."""
    turn, down, right, shear, tall, wide, mirror = uniforms
    height, width = size
    x_angle = math.radians(_spread(turn, augmentation.rotation))
    y_angle = x_angle + math.radians(_spread(shear, augmentation.shear))
    x_scale = 1 + _spread(wide, augmentation.zoom)
    y_scale = 1 + _spread(tall, augmentation.zoom)
    if augmentation.flip and mirror < 0.5:
        x_scale = -x_scale
    x_shift = _spread(right, augmentation.shift) * width
    y_shift = _spread(down, augmentation.shift) * height
    cosine, sine = math.cos(x_angle), math.sin(x_angle)
    # Its columns are the two axes.
    xx, xy = cosine * x_scale, -math.sin(y_angle) * y_scale
    yx, yy = sine * x_scale, math.cos(y_angle) * y_scale
    # Where the centre goes, less what the axes make of it.
    x = width / 2 * (1 - xx) - height / 2 * xy + cosine * x_shift - sine * y_shift
    y = height / 2 * (1 - yy) - width / 2 * yx + sine * x_shift + cosine * y_shift
    return tuple(round(value * _GRID) / _GRID for value in (xx, xy, x, yx, yy, y))


def _uniforms(seed: int, sha256: bytes, view: int) -> list[float]:
    """Return seven numbers in [0, 1). A library's generator may change with its version."""
    digest = hashlib.sha256(f"{RULE} {seed} {view} ".encode() + sha256).digest()
    words = np.frombuffer(digest, ">u4", _WORDS)[: _WORDS - 1]
    return [float(word) / 2.0**32 for word in words]


def _spread(uniform: float, most: float) -> float:
    return (2 * uniform - 1) * most


def _parsed(name: str, value: str) -> object:
    expected = {"flip": "true or false", "fill": "a whole number"}.get(name, "a number")
    try:
        if name == "flip":
            return {"true": True, "false": False}[value]
        return int(value) if name == "fill" else float(value)
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"augmentation, {name}: expected {expected}, found {value!r}") from error
