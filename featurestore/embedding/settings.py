"""What a caller asks of an embedding, and what comes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from featurestore.augmentation import Augmentation
from featurestore.catalogue import Quarantined
from featurestore.errors import InvalidInput
from featurestore.recipe import Pooling, StoredDtype, Views
from featurestore.stores import COMPRESSIONS, STORE_FORMATS


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """How a dataset is embedded. The first block is identity, the rest is not.

    Parameters
    ----------
    backbone
        Name of the backbone table.
    weights
        ``imagenet``, ``random:SEED``, or a ``.weights.h5``, ``.h5``, ``.keras`` or ``.onnx`` file.
    layer
        The cut layer; None is the last feature map.
    size
        (height, width) in pixels; None is the backbone's default.
    precision
        ``auto``, ``float32``, ``bfloat16`` or ``float16``.
    split
        Fractions such as ``0.7,0.15,0.15``, for a folder of class folders; `seed` goes with it.
    views
        Number of augmented versions of each training image to embed too; None is none. A set of
        the same images that has more is kept as it is.
    augmentation
        What they are drawn from; None is the default ranges. `view_seed` goes with it.
    name
        Dataset name; None is the folder's or file's name.
    store
        ``zarr`` or ``hdf5``.
    compression
        ``zstd``, or for HDF5 ``gzip``; None is the store's default.
    batch_size
        None is what suits the device.
    workers
        Decoding threads; None is one for each processor.
    strict
        Stop at the first unreadable image instead of listing it.
    wait
        Wait for another writer of the same set instead of failing.
    """

    backbone: str = "vgg16"
    weights: str = "imagenet"
    layer: str | None = None
    pooling: Pooling = "none"
    size: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    precision: str = "auto"
    dtype: StoredDtype = "float16"
    split: str | None = None
    seed: int = 0
    views: int | None = None
    augmentation: Augmentation | None = None
    view_seed: int = 0

    name: str | None = None
    store: str = "zarr"
    compression: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    strict: bool = False
    wait: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.store not in STORE_FORMATS:
            raise InvalidInput(
                f"store: expected one of {', '.join(STORE_FORMATS)}, found {self.store!r}"
            )
        if self.compression not in (None, *COMPRESSIONS[self.store]):
            raise InvalidInput(
                f"compression of a {self.store} store: expected "
                f"{' or '.join(COMPRESSIONS[self.store])}, found {self.compression!r}"
            )
        for field in ("batch_size", "workers"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InvalidInput(f"{field}: expected at least 1, found {value}")
        if self.size is not None and min(self.size) < 1:
            raise InvalidInput(f"size: expected at least 1 pixel, found {self.size}")
        for field, given in (
            ("augmentation", self.augmentation is not None),
            ("view_seed", self.view_seed != 0),
        ):
            if self.views is None and given:
                raise InvalidInput(
                    f"{field} is given and views are not",
                    next_step="say how many views of each training image: --views K",
                )
        if self.augmentation is not None and self.augmentation.changes_nothing:
            raise InvalidInput(
                "augmentation: views without rotation, shift, shear, zoom and flip would be the "
                "images themselves",
                next_step="give one of them a range, such as rotation=20",
            )
        self.drawn_views()

    def drawn_views(self) -> Views | None:
        """Return the views as a recipe has them.

        Raises
        ------
        InvalidInput
            There are fewer than one, or the seed is negative.
        """
        if self.views is None:
            return None
        return Views(
            augmentation=self.augmentation or Augmentation(),
            seed=self.view_seed,
            count=self.views,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """What an embedding did.

    Parameters
    ----------
    feature_set
        ``dataset/recipe-name``.
    path
        The store; None after a dry run.
    computed
        Images that went through the network as they are (would go, after a dry run).
    reused
        Rows that took features computed earlier or for another row with the same bytes.
    views
        Views of each training image that the set has: as many as asked for, or more that it had.
    views_computed, views_reused
        The same of views, summed over the training images.
    images_per_s
        Computed images and views over the seconds from the first decode to the last staged shard.
    """

    feature_set: str
    fingerprint: str
    path: Path | None
    rows: Mapping[str, int]
    computed: int
    reused: int
    quarantined: tuple[Quarantined, ...]
    seconds: float
    images_per_s: float
    dry_run: bool = False
    views: int = 0
    views_computed: int = 0
    views_reused: int = 0


class Progress(Protocol):
    """Told how an embedding goes; called from the thread that called `embed`."""

    def phase(self, text: str) -> None:
        """Another phase has begun."""

    def planned(self, *, name: str, to_compute: int, reused: int) -> None:
        """The plan stands; computing begins. Both numbers count images and views alike."""

    def advanced(self, images: int, quarantined: int) -> None:
        """So many more images and views went through the network, or images into quarantine."""


class Silent:
    """A `Progress` that tells nobody."""

    def phase(self, text: str) -> None:
        """See `Progress`."""

    def planned(self, *, name: str, to_compute: int, reused: int) -> None:
        """See `Progress`."""

    def advanced(self, images: int, quarantined: int) -> None:
        """See `Progress`."""
