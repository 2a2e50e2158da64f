"""The images behind the rows of a feature set, for people to look at.

An image is shown only where its bytes are those that were embedded. One that is gone, changed or
unreadable is said to be so; no other stands in for it.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurestore.catalogue import Record
from featurestore.errors import NotFound
from featurestore.features import open_record
from featurestore.images import UnreadableImage, decode_thumbnail
from featurestore.source_images import SourceImageMissing, SourceImages

_LONGEST_SIDE = 160
_QUALITY = 78
FRAME = (_LONGEST_SIDE + 1, _LONGEST_SIDE)


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A thumbnail, or why there is none.

    Parameters
    ----------
    jpeg
        Upright, 160 pixels at the longer side; None where `missing` says why.
    """

    jpeg: bytes | None
    width: int = 0
    height: int = 0
    missing: str | None = None


class Photographs:
    """Finds the images of a feature set by split and sample id.

    Parameters
    ----------
    record
        Its provenance says where the dataset lay, its store which bytes each sample has.
    folder
        Where the dataset lies now, a folder or manifest file; None for where it lay.
    """

    def __init__(self, record: Record, folder: Path | None = None) -> None:
        self.record = record
        self._images = SourceImages(record, folder)
        self._digests: dict[str, dict[str, str]] = {}

    def find(self, split: str, sample_id: str) -> Photograph:
        """Return the thumbnail of one sample.

        Raises
        ------
        NotFound
            The feature set has no such split or sample.
        IntegrityError
            Its store is missing or damaged.
        """
        digest = self._digest(split, sample_id)
        try:
            return _thumbnail(self._images.read(sample_id, sha256=digest))
        except SourceImageMissing as error:
            return Photograph(None, missing=error.reason)

    def _digest(self, split: str, sample_id: str) -> str:
        if split not in self._digests:
            with open_record(self.record) as features:
                rows = features[split]
                text = rows.sha256.tobytes().hex()
                self._digests[split] = {
                    str(name): text[64 * row : 64 * row + 64]
                    for row, name in enumerate(rows.sample_ids)
                }
        if sample_id not in self._digests[split]:
            raise NotFound(
                f"feature set {self.record.name} has no sample {sample_id!r} in split {split!r}"
            )
        return self._digests[split][sample_id]


def decode_framed(
    content: bytes, *, size: tuple[int, int], interpolation: str, max_pixels: int
) -> NDArray[np.uint8]:
    """Return a thumbnail in a frame of `size`, as a process apart sends it: see `unframed`.

    `size` is `FRAME`, and `interpolation` is not used: a thumbnail has its own filter.
    """
    del interpolation
    rows, longest = size
    pixels = decode_thumbnail(content, longest=longest, max_pixels=max_pixels)
    height, width = pixels.shape[:2]
    framed = np.zeros((rows, longest, 3), np.uint8)
    framed[:height, :width] = pixels
    framed[-1, 0, :2] = height, width  # a row below the picture, which one byte each suffices for
    return framed


def unframed(framed: NDArray[np.uint8]) -> Photograph:
    """Return the thumbnail that `decode_framed` has put into a frame."""
    height, width = framed[-1, 0, :2].tolist()
    return _encoded(framed[:height, :width])


def _thumbnail(content: bytes) -> Photograph:
    try:
        pixels = decode_thumbnail(content, longest=_LONGEST_SIDE)
    except UnreadableImage as error:
        return Photograph(None, missing=f"the image cannot be decoded: {error.reason}")
    return _encoded(pixels)


def _encoded(pixels: NDArray[np.uint8]) -> Photograph:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    height, width = pixels.shape[:2]
    return Photograph(buffer.getvalue(), width, height)
