"""What an exported model is, what it is held to, and what may be asked of an export."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from featurestore.errors import InvalidInput
from featurestore.recipe import Precision, Recipe

ModelFormat = Literal["keras", "savedmodel", "onnx"]

INPUT_NAME = "images"
OUTPUT_NAME = "probabilities"

# Largest difference of a probability from the one that the run recorded, by the precision that its
# features were computed in; the exported network computes in float32 whatever that was. Measured
# on 1,000 photographs, VGG16, features of bfloat16 against float32: 0.02 for logistic, linear-svm
# and sgd, 0.03 for dense (0.10 with --raw --epochs 1), 0.15 for nearest-centroid, whose curve is
# steep; at most one predicted class in 1,000 differs. float16: 0.003 on 100 of them.
TOLERANCE: Mapping[Precision, float] = MappingProxyType(
    {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}
)
# Largest share of images with another predicted class; one image is always allowed. A tolerance of
# 0.2 alone would pass a model that answers otherwise wherever classes are close. Measured as above
# with bfloat16: none of 300 for dense (--raw --epochs 1), nearest-centroid, and logistic on
# shuffled labels, which gives 8 % of the test images less than 0.55.
CLASSES_DIFFER = 0.02
# Largest difference from the same head on features computed in float32 on the spot: what writing
# and reading alone may change. A wrong colour order or mean moves some image by far more.
CONVERSION_TOLERANCE = 0.01

_ENDINGS: dict[str, ModelFormat] = {
    ".keras": "keras",
    ".onnx": "onnx",
    ".savedmodel": "savedmodel",
    "": "savedmodel",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShipOptions:
    """How a model is exported.

    Parameters
    ----------
    weights
        The backbone's weights as `fs embed --weights` takes them; None is what the feature set
        was embedded with.
    check
        Images that the written file is run on; 0 leaves it unchecked.
    tolerance
        Largest difference of a probability from the run's; None is `TOLERANCE` of the recipe, and
        `CLASSES_DIFFER` beside it. A tolerance that is named counts alone.
    photographs
        Where the dataset lies now, a folder or manifest file; None is where it was embedded from.
    overwrite
        Replace a model of that name.
    """

    weights: str | None = None
    check: int = 100
    tolerance: float | None = None
    photographs: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.check < 0:
            raise InvalidInput(f"images to check: expected at least 0, found {self.check}")
        if self.tolerance is not None and not 0 <= self.tolerance <= 1:
            raise InvalidInput(f"tolerance: expected 0 to 1, found {self.tolerance}")

    def tolerance_for(self, recipe: Recipe) -> float:
        """Return the largest difference of a probability that is allowed."""
        return TOLERANCE[recipe.precision] if self.tolerance is None else self.tolerance

    @property
    def classes_differ(self) -> float:
        """The largest share of images with another predicted class that is allowed."""
        return CLASSES_DIFFER if self.tolerance is None else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """What the written file gave on real images, read back from disk.

    Parameters
    ----------
    images
        Drawn over every split of the run; labels are not looked at.
    largest_difference, mean_difference
        Of a probability from the one that the run recorded.
    classes_differ
        Images whose most probable class is another.
    classes_allowed
        How many of them were allowed.
    conversion_difference
        Largest difference from the same head on features computed in float32 on the spot. What
        `largest_difference` has beyond it is the price of the recipe's own precision.
    """

    images: int
    largest_difference: float
    mean_difference: float
    classes_differ: int
    classes_allowed: int
    tolerance: float
    conversion_difference: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShippedModel:
    """An exported model, durable under its name.

    Parameters
    ----------
    description, card
        The files beside it: for programs (JSON) and for people (Markdown).
    size_bytes
        Of the file, or of all files of the folder.
    check
        None where it was left out.
    """

    path: Path
    format: ModelFormat
    description: Path
    card: Path
    size_bytes: int
    check: Check | None


def model_format(path: Path) -> ModelFormat:
    """Return the format that a name asks for.

    ``.keras`` and ``.onnx`` are files; ``.savedmodel`` or no ending is a SavedModel folder.

    Raises
    ------
    InvalidInput
        The name has another ending.
    """
    try:
        return _ENDINGS[path.suffix.lower()]
    except KeyError:
        raise InvalidInput(
            f"model file {path}: expected an ending of .keras, .onnx, or .savedmodel (or none) for "
            f"a SavedModel folder, found {path.suffix}"
        ) from None
