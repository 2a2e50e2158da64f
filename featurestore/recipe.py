"""A recipe: everything that decides a feature's value, and nothing that does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featurestore.augmentation import Augmentation
from featurestore.digests import fingerprint, view_digests
from featurestore.errors import Conflict, InvalidInput

RECIPE_VERSION = 2
"""A recipe without views is written, and identified, as version 1 had it."""

Pooling = Literal["none", "avg", "max"]
Precision = Literal["float32", "bfloat16", "float16"]
StoredDtype = Literal["float16", "float32"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "pooling": ("none", "avg", "max"),
    "interpolation": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
    "preprocessing": ("caffe", "tf", "torch", "none"),
    "precision": ("float32", "bfloat16", "float16"),
    "dtype": ("float16", "float32"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """Versions of every training image, embedded beside the image itself.

    Parameters
    ----------
    seed
        View k of an image with given bytes is the same under the same ranges and seed, whatever
        `count` is: so it can be raised, and only new views are computed.
    count
        Views of each image, numbered from 0.
    """

    augmentation: Augmentation
    seed: int = 0
    count: int

    def __post_init__(self) -> None:
        for field, least in (("seed", 0), ("count", 1)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidInput(f"views, {field}: expected at least {least}, found {value!r}")

    def to_dict(self) -> dict[str, object]:
        """Return the views as canonical JSON has them."""
        return {**self.augmentation.to_dict(), "seed": self.seed, "views": self.count}

    @property
    def drawn(self) -> str:
        """Fingerprint of what a view of given bytes and number is drawn from: ranges and seed."""
        return fingerprint({**self.augmentation.to_dict(), "seed": self.seed})

    def digests(self, sha256: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
        """Return the keys of one view's rows, (n, 32) of the images' digests (n, 32)."""
        return view_digests(sha256, view, drawn=self.drawn)

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> Views:
        """Build them from what `to_dict` gave.

        Raises
        ------
        InvalidInput
            A field is missing, foreign or out of range.
        """
        ranges = {name: value for name, value in fields.items() if name not in ("seed", "views")}
        return cls(
            augmentation=Augmentation.from_dict(ranges),
            seed=fields.get("seed"),  # type: ignore[arg-type] # checked there
            count=fields.get("views"),  # type: ignore[arg-type] # checked there
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a feature's value.

    Batch size, worker count, executor, device and store format are not here: they are provenance.

    Parameters
    ----------
    backbone
        A name of the backbone table, such as ``vgg16``.
    weights_sha256
        SHA-256 of the values of the weights from the input to `layer`, whatever file held them.
    layer
        The cut layer: its output is the feature.
    pooling
        Global pooling over the two spatial axes after the cut.
    size
        (height, width) in pixels of the network's input.
    decoder
        The rule by which image bytes become upright RGB, with its version.
    interpolation
        The filter of the resize.
    preprocessing
        Colour order and normalisation: ``caffe`` (BGR, mean subtracted), ``tf`` ([-1, 1]),
        ``torch`` (scaled by mean and deviation) or ``none`` (the network does its own).
    augmentation
        Views of the training images that are embedded too; None is the images alone.
    precision
        The type the network computes in.
    dtype
        The type features are stored in.
    """

    backbone: str
    weights_sha256: str
    layer: str
    pooling: Pooling = "none"
    size: tuple[int, int]
    decoder: str
    interpolation: str = "bilinear"
    preprocessing: str
    augmentation: Views | None = None
    precision: Precision
    dtype: StoredDtype = "float16"

    def __post_init__(self) -> None:
        for field, choices in _CHOICES.items():
            value = getattr(self, field)
            if value not in choices:
                raise InvalidInput(
                    f"recipe field {field}: expected one of {', '.join(choices)}, found {value!r}"
                )
        if len(self.weights_sha256) != 64:
            raise InvalidInput(
                f"recipe field weights_sha256: expected 64 hexadecimal digits, "
                f"found {self.weights_sha256!r}"
            )

    def to_dict(self) -> dict[str, object]:
        """Return the recipe as JSON-ready values; `from_dict` turns it back."""
        fields: dict[str, object] = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        if self.augmentation is not None:
            fields["augmentation"] = self.augmentation.to_dict()
        version = 1 if self.augmentation is None else RECIPE_VERSION
        return {**fields, "size": list(self.size), "version": version}

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> Recipe:
        """Build a recipe from stored JSON.

        Raises
        ------
        Conflict
            The recipe was written by a newer version, or its fields or their values are not this
            version's.
        """
        version = fields.get("version")
        if not isinstance(version, int) or version > RECIPE_VERSION:
            raise Conflict(
                f"recipe version: expected at most {RECIPE_VERSION}, found {version!r}",
                next_step="upgrade featurestore: pip install -U featurestore",
            )
        known = {field.name for field in dataclasses.fields(cls)} | {"version"}
        if set(fields) != known:
            raise Conflict(
                f"recipe fields: expected {sorted(known)}, found {sorted(fields)}",
                next_step="upgrade featurestore: pip install -U featurestore",
            )
        size = fields["size"]
        if not isinstance(size, list | tuple) or len(size) != 2:
            raise Conflict(f"recipe size: expected [height, width], found {size!r}")
        values = {name: value for name, value in fields.items() if name != "version"}
        values["size"] = (int(size[0]), int(size[1]))
        augmentation = fields["augmentation"]
        if augmentation is not None and not isinstance(augmentation, Mapping):
            raise Conflict(f"recipe augmentation: expected an object, found {augmentation!r}")
        try:
            if isinstance(augmentation, Mapping):
                values["augmentation"] = Views.from_dict(augmentation)
            return cls(**values)  # type: ignore[arg-type]  # values are checked above
        except InvalidInput as error:
            # Nobody typed it: a later version may draw by another rule or know another choice.
            raise Conflict(
                f"stored recipe: {error.message}",
                next_step="upgrade featurestore: pip install -U featurestore",
            ) from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe's canonical JSON."""
        return fingerprint(self.to_dict())

    @property
    def clean(self) -> Recipe:
        """The same recipe without views: whose rows the unaugmented rows of this one are."""
        return dataclasses.replace(self, augmentation=None)

    def views_as(self, other: Recipe) -> int:
        """Return how many views of this recipe are rows of `other` too; 0 where none is.

        Views are the same where the clean recipe, ranges and seed are: the one with fewer has the
        first of the one with more.
        """
        mine, theirs = self.augmentation, other.augmentation
        if mine is None or theirs is None or mine.drawn != theirs.drawn:
            return 0
        return min(mine.count, theirs.count) if self.clean == other.clean else 0

    @property
    def name(self) -> str:
        """A readable name: equal recipes have equal names, whatever file their weights came from.

        Fields at their usual value are left out; the last part is the start of the weights' digest.
        How many views there are is not in it: more of them make a new version of the same name.
        """
        height, width = self.size
        parts = [self.backbone, str(height) if height == width else f"{height}x{width}", self.layer]
        if self.pooling != "none":
            parts.append(self.pooling)
        if self.interpolation != "bilinear":
            parts.append(self.interpolation)
        parts.append({"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[self.precision])
        if self.dtype != "float16":
            parts.append(f"stored-{self.dtype}")
        if self.augmentation is not None:
            parts.append(f"views-{self.augmentation.drawn[:6]}")
        parts.append(f"w{self.weights_sha256[:6]}")
        return "-".join(parts)

    def differences(self, other: Recipe) -> list[str]:
        """Return ``field: mine != theirs`` for each field that differs, in field order."""
        return [
            f"{field.name}: {getattr(self, field.name)} != {getattr(other, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]
