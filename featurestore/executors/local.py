"""Runs units on this machine: threads decode ahead of the network, one thread stages behind it.

Pillow lets go of the interpreter lock while it decodes, resizes and warps, so threads are enough;
the window of decoded images is bounded, so memory does not grow with the number of images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from featurestore.augmentation import augment
from featurestore.digests import sha256_hex
from featurestore.errors import InvalidInput, UnstorableFeatures
from featurestore.executors.contract import (
    DecodeSettings,
    EmbedsBatches,
    StagesShards,
    Unit,
    UnitOutcome,
    Version,
)
from featurestore.images import HEAD_BYTES, UnreadableImage, check_readable, decode_image
from featurestore.recipe import Views

# Rows in one decoding task: one future for each image costs 3 % of the decode itself.
_TASK_ROWS = 8
# An image with more versions is decoded again for the next so many: memory holds a task's rows.
_TOGETHER = 32


class _Changed(Exception):  # noqa: N818 -- a value carried past a thread, not an error to raise
    pass


@dataclasses.dataclass
class _UnitWork:
    """A unit under way: the rows that were read of it, and the features that have come."""

    unit: Unit
    kept: list[tuple[int, Version]] = dataclasses.field(default_factory=list)
    pieces: list[np.ndarray] = dataclasses.field(default_factory=list)
    quarantined: dict[str, str] = dataclasses.field(default_factory=dict)
    changed: dict[str, str] = dataclasses.field(default_factory=dict)
    batches: int = 0
    read_to_end: bool = False

    @property
    def waits(self) -> bool:
        return len(self.pieces) < self.batches

    @property
    def done(self) -> bool:
        return self.read_to_end and not self.waits


_Decoded = np.ndarray | UnreadableImage | _Changed
_Task = list[tuple[int, tuple[Version, ...]]]


class LocalExecutor:
    """Decodes on `workers` threads while the calling thread runs the network."""

    def __init__(self, *, workers: int) -> None:
        self.workers = max(1, workers)

    def run(
        self,
        units: Sequence[Unit],
        *,
        network: EmbedsBatches,
        decode: DecodeSettings,
        staging: StagesShards,
    ) -> Iterator[UnitOutcome]:
        """See `Executor.run`. Units end in the order given."""
        readers = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        stager = ThreadPoolExecutor(1, thread_name_prefix="stage")
        staged: deque[Future[UnitOutcome]] = deque()
        works: deque[_UnitWork] = deque()
        try:
            decoded = self._decode_ahead(units, readers, decode, window=2 * network.batch_size)
            batches = _batches(units, decoded, works, network, decode.size)
            for features in _naming_images(network.embed_stream(batches), works):
                next(work for work in works if work.waits).pieces.append(features)
                while works and works[0].done:
                    staged.append(stager.submit(_stage, staging, works.popleft(), decode.views))
                # At most one shard is being written while the next is computed.
                while len(staged) > 1:
                    yield staged.popleft().result()
            staged.extend(stager.submit(_stage, staging, work, decode.views) for work in works)
            while staged:
                yield staged.popleft().result()
        finally:
            readers.shutdown(wait=False, cancel_futures=True)
            stager.shutdown(wait=True)

    def _decode_ahead(
        self,
        units: Sequence[Unit],
        readers: ThreadPoolExecutor,
        settings: DecodeSettings,
        *,
        window: int,
    ) -> Iterator[_Decoded]:
        tasks = ((unit, task) for unit in units for task in _tasks(unit))
        waiting: deque[tuple[Future[list[_Decoded]], int]] = deque()

        def fill() -> None:
            while len(waiting) <= self.workers or sum(rows for _, rows in waiting) < window:
                following = next(tasks, None)
                if following is None:
                    return
                unit, task = following
                rows = sum(len(versions) for _, versions in task)
                waiting.append((readers.submit(_decode_task, unit, task, settings), rows))

        fill()
        while waiting:
            decoded = waiting.popleft()[0].result()
            fill()
            yield from decoded


def _tasks(unit: Unit) -> Iterator[_Task]:
    """Cut a unit into what one thread decodes at a time, in the order of its rows."""
    task: _Task = []
    rows = 0
    for image in range(len(unit)):
        versions = unit.versions_of(image)
        for start in range(0, len(versions), _TOGETHER):
            part = versions[start : start + _TOGETHER]
            task.append((image, part))
            rows += len(part)
            if rows >= _TASK_ROWS:
                yield task
                task, rows = [], 0
    if task:
        yield task


def _decode_task(unit: Unit, task: _Task, settings: DecodeSettings) -> list[_Decoded]:
    decoded: list[_Decoded] = []
    for image, versions in task:
        digest = unit.digests[image].tobytes()
        try:
            found = _decode_one(unit.paths[image], digest.hex(), settings)
            decoded.extend(_version(found, digest, version, settings) for version in versions)
        except MemoryError as error:
            raise InvalidInput(
                f"image {unit.sample_ids[image]}: not enough memory to decode it",
                next_step="run the same command with --workers 1: what was staged is kept",
            ) from error
    return decoded


def _version(
    decoded: _Decoded, digest: bytes, version: Version, settings: DecodeSettings
) -> _Decoded:
    views = settings.views
    if version is None or views is None or not isinstance(decoded, np.ndarray):
        return decoded
    return augment(decoded, views.augmentation, seed=views.seed, sha256=digest, view=version)


def _decode_one(path: Path, expected: str, settings: DecodeSettings) -> _Decoded:
    content, refusal = b"", None
    try:
        with path.open("rb", buffering=0) as stream:
            head = stream.read(HEAD_BYTES)
            stream.seek(0)
            try:
                check_readable(head, size_bytes=os.fstat(stream.fileno()).st_size)
            except UnreadableImage as error:
                # Quarantine is by digest: it may not hit the bytes that stood here before.
                refusal, found = error, hashlib.file_digest(stream, "sha256").hexdigest()
            else:
                content = stream.read()
                found = sha256_hex(content)
    except OSError as error:
        return _Changed(f"it can no longer be read: {error}")
    if found != expected:
        return _Changed(f"expected digest {expected[:12]}…, found {found[:12]}…")
    if refusal is not None:
        return refusal
    try:
        return decode_image(content, size=settings.size, interpolation=settings.interpolation)
    except UnreadableImage as error:
        return error


def _naming_images(stream: Iterator[np.ndarray], works: deque[_UnitWork]) -> Iterator[np.ndarray]:
    """Pass features on; say which image it was where the network only knows a row of a batch."""
    try:
        yield from stream
    except UnstorableFeatures as error:
        work = next(work for work in works if work.waits)
        image, version = work.kept[sum(len(piece) for piece in work.pieces) + error.rows[0]]
        what = "image" if version is None else f"view {version} of image"
        raise error.of(f"{what} {work.unit.sample_ids[image]}") from error


def _batches(
    units: Sequence[Unit],
    decoded: Iterator[_Decoded],
    works: deque[_UnitWork],
    network: EmbedsBatches,
    size: tuple[int, int],
) -> Iterator[np.ndarray]:
    """Yield the images of each unit in batches, and note in `works` whose features to expect."""
    for unit in units:
        work = _UnitWork(unit)
        works.append(work)
        # A batch that was given away may still be on its way to the device: each has its own array.
        batch = np.empty((network.batch_size, *size, 3), np.uint8)
        filled = 0
        rows = unit.rows()
        for at, (image, version) in enumerate(rows):
            pixels = next(decoded)
            if isinstance(pixels, UnreadableImage):
                work.quarantined[unit.digests[image].tobytes().hex()] = pixels.reason
            elif isinstance(pixels, _Changed):
                work.changed[unit.sample_ids[image]] = str(pixels)
            else:
                batch[filled] = pixels
                filled += 1
                work.kept.append((image, version))
            work.read_to_end = at + 1 == len(rows)
            if filled == len(batch) or (filled and work.read_to_end):
                work.batches += 1
                yield batch[:filled]
                batch, filled = np.empty((network.batch_size, *size, 3), np.uint8), 0


def _stage(staging: StagesShards, work: _UnitWork, views: Views | None) -> UnitOutcome:
    if work.kept or work.quarantined:
        features = np.concatenate(work.pieces) if work.pieces else np.empty((0, 1), np.float16)
        staging.put(
            digests=work.unit.keys(work.kept, views),
            features=features,
            quarantined=work.quarantined,
        )
    images = sum(version is None for _, version in work.kept)
    return UnitOutcome(images, work.quarantined, work.changed, views=len(work.kept) - images)
