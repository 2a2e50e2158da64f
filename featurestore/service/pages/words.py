"""Recipes and times as people read them."""

from __future__ import annotations

import dataclasses
from datetime import datetime

from featurestore.recipe import Recipe, Views
from featurestore.training.methods import ranges_text

_PREPROCESSING = {
    "caffe": "colours in the order blue, green, red; the mean colour of ImageNet subtracted",
    "tf": "values scaled to -1 … 1",
    "torch": "values scaled by the mean and deviation of ImageNet's colours",
    "none": "values 0 … 255 as they are: the network scales them itself",
}
_PRECISION = {
    "float32": "the network computes in 32 bits",
    "bfloat16": "the network computes in bfloat16: 8 bits of precision, the range of float32",
    "float16": "the network computes in 16 bits",
}
_DTYPE = {
    "float16": "each number of a feature takes 2 bytes",
    "float32": "each number of a feature takes 4 bytes",
}


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a recipe, its value, and what it means."""

    name: str
    value: str
    meaning: str


def time_text(moment: str) -> str:
    """Return an ISO 8601 time to the minute, in UTC as it is recorded."""
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return f"{found:%Y-%m-%d %H:%M}"


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe in a line: network, layer, size, precision, stored type, views."""
    height, width = recipe.size
    parts = [
        f"{recipe.backbone} to {recipe.layer}",
        *([f"{_pooling_word(recipe)} pooling"] if recipe.pooling != "none" else []),
        f"{height} × {width} pixels",
        f"{recipe.precision}, stored as {recipe.dtype}",
    ]
    if recipe.augmentation is not None:
        count = recipe.augmentation.count
        parts.append(f"{count} view{'' if count == 1 else 's'} of each training image")
    return ", ".join(parts)


def recipe_fields(recipe: Recipe, feature_shape: tuple[int, ...]) -> tuple[Field, ...]:
    """Return a recipe field by field, with what each does to a feature."""
    height, width = recipe.size
    shape = " × ".join(map(str, feature_shape))
    pooled = {
        "none": f"every position of the layer is kept, {shape} numbers an image",
        "avg": f"the mean over all positions, {shape} numbers an image",
        "max": f"the largest over all positions, {shape} numbers an image",
    }
    return (
        Field("backbone", recipe.backbone, "the pretrained network that images go through"),
        Field(
            "weights",
            recipe.weights_sha256[:16],
            "SHA-256 of the weights up to the cut layer, whatever file held them",
        ),
        Field("cut layer", recipe.layer, "the layer whose output is the feature"),
        Field("pooling", recipe.pooling, pooled[recipe.pooling]),
        Field(
            "size",
            f"{height} × {width} pixels",
            "the whole picture is squashed to it, without a crop",
        ),
        Field(
            "decoder",
            recipe.decoder,
            "how a file becomes pixels: turned upright, transparency over white",
        ),
        Field("interpolation", recipe.interpolation, "the filter of the resize"),
        Field("preprocessing", recipe.preprocessing, _PREPROCESSING[recipe.preprocessing]),
        Field("precision", recipe.precision, _PRECISION[recipe.precision]),
        Field("stored type", recipe.dtype, _DTYPE[recipe.dtype]),
        _views_field(recipe.augmentation),
    )


def _views_field(views: Views | None) -> Field:
    if views is None:
        return Field("views", "none", "the images alone, none of them varied")
    return Field(
        "views",
        f"{views.count}",
        f"random versions of each training image ({ranges_text(views.to_dict())}), drawn by seed "
        f"{views.seed}",
    )


def _pooling_word(recipe: Recipe) -> str:
    return {"avg": "average", "max": "maximum"}[recipe.pooling]
