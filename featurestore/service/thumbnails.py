"""Small photographs of the rows of feature sets, kept in memory up to a bound."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from featurestore.catalogue import Record
from featurestore.errors import NotFound
from featurestore.report.photographs import FRAME, unframed
from featurestore.service.contract import Busy, ServiceSettings
from featurestore.service.decode_apart import DecodeLimits, DecodePool, DecodeTask
from featurestore.service.samples import SampleIndex
from featurestore.source_images import SourceImageMissing, SourceImages

_DECODER = "featurestore.report.photographs:decode_framed"
_KEPT_BYTES = 64 * 2**20  # about 10,000 thumbnails
_KEPT_SOURCES = 12
_MOST_WAITING = 512  # a gallery asks for up to 120

Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class RowImage:
    """Which image a row is of: where it may be found, and the digest of its bytes."""

    record: Record
    sample_id: str
    sha256: str


class Thumbnails:
    """Makes thumbnails of images whose bytes have the digest that was embedded, and of no others.

    They are decoded in a process apart, held to the limits of uploads: a set may have been copied
    from elsewhere, and its images embedded by another version of the codecs.
    """

    def __init__(self, settings: ServiceSettings, samples: SampleIndex) -> None:
        self._folder: Path | None = settings.images
        self._samples = samples
        self._decoders = DecodePool(
            1, limits=DecodeLimits(pixels=settings.limits.pixels), decoder=_DECODER
        )
        # One reads a file while the other waits for pixels.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="thumbnails")
        self._waiting = 0
        self._lock = threading.Lock()
        self._sources: OrderedDict[str, SourceImages] = OrderedDict()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0

    async def image_of(self, record: Record, split: str, row: int) -> RowImage:
        """Return which image a row is of.

        Raises
        ------
        NotFound
            There is no such split or row.
        Busy
            Too many wait already.
        IntegrityError
            The store is missing or damaged.
        """
        samples = self._samples.kept(record, split)
        if samples is None:
            samples = await self._apart(self._samples.read, record, split)
        rows = len(samples.ids)
        if not 0 <= row < rows:
            raise NotFound(
                f"feature set {record.name} has no row {row} in split {split}: it has rows 0 to "
                f"{rows - 1}"
            )
        return RowImage(record, str(samples.ids[row]), samples.sha256(row))

    async def jpeg(self, image: RowImage) -> bytes:
        """Return an image as an upright JPEG of 160 pixels at the longer side.

        Raises
        ------
        NotFound
            The bytes that were embedded are not to be had, or are no image to this version.
        Busy
            Too many wait already.
        """
        found = self._kept.get(image.sha256)
        if found is not None:
            self._kept.move_to_end(image.sha256)
            return found
        found = await self._apart(self._make, image)
        if image.sha256 not in self._kept:  # two may have made it
            self._kept[image.sha256] = found
            self._kept_bytes += len(found)
            while self._kept_bytes > _KEPT_BYTES:
                _, oldest = self._kept.popitem(last=False)
                self._kept_bytes -= len(oldest)
        return found

    def close(self) -> None:
        """Let what is being decoded end; wait for it."""
        self._threads.shutdown(cancel_futures=True)
        self._decoders.close()

    async def _apart(self, make: Callable[..., Made], *given: object) -> Made:
        if self._waiting >= _MOST_WAITING:
            raise Busy("too many photographs are asked for at once", next_step="ask again")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, make, *given)
        finally:
            self._waiting -= 1

    def _source(self, record: Record) -> SourceImages:
        with self._lock:
            found = self._sources.get(record.fingerprint)
            if found is None:
                found = self._sources[record.fingerprint] = SourceImages(record, self._folder)
                if len(self._sources) > _KEPT_SOURCES:
                    self._sources.popitem(last=False)
            return found

    def _make(self, image: RowImage) -> bytes:
        try:
            content = self._source(image.record).read(image.sample_id, sha256=image.sha256)
        except SourceImageMissing as error:
            raise NotFound(
                error.message, next_step="fs serve --images FOLDER says where they lie now"
            ) from error
        task = DecodeTask(content, FRAME, interpolation="lanczos")
        decoded = self._decoders.decode(task).result()
        if not isinstance(decoded, np.ndarray):
            raise NotFound(f"image {image.sample_id} cannot be shown: {decoded.reason}")
        jpeg = unframed(decoded).jpeg
        assert jpeg is not None
        return jpeg
