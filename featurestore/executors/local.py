"""Runs units on this machine: threads decode ahead of the network, one thread stages behind it.

Pillow lets go of the interpreter lock while it decodes and resizes, so threads are enough; the
window of decoded images is bounded, so memory does not grow with the number of images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from featurestore.digests import sha256_hex
from featurestore.errors import InvalidInput, UnstorableFeatures
from featurestore.executors.contract import (
    DecodeSettings,
    EmbedsBatches,
    StagesShards,
    Unit,
    UnitOutcome,
)
from featurestore.images import HEAD_BYTES, UnreadableImage, check_readable, decode_image

# Images in one decoding task: one future for each image costs 3 % of the decode itself.
_TASK_IMAGES = 8


class _Changed(Exception):  # noqa: N818 -- a value carried past a thread, not an error to raise
    pass


@dataclasses.dataclass
class _UnitWork:
    """A unit under way: what was read of it, and the features that have come."""

    unit: Unit
    kept: list[int] = dataclasses.field(default_factory=list)
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
                    staged.append(stager.submit(_stage, staging, works.popleft()))
                # At most one shard is being written while the next is computed.
                while len(staged) > 1:
                    yield staged.popleft().result()
            staged.extend(stager.submit(_stage, staging, work) for work in works)
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
        tasks = (
            (unit, slice(start, start + _TASK_IMAGES))
            for unit in units
            for start in range(0, len(unit), _TASK_IMAGES)
        )
        ahead = max(self.workers + 1, window // _TASK_IMAGES)
        waiting: deque[Future[list[_Decoded]]] = deque(
            readers.submit(_decode_task, unit, rows, settings)
            for unit, rows in itertools.islice(tasks, ahead)
        )
        while waiting:
            images = waiting.popleft().result()
            for unit, rows in itertools.islice(tasks, 1):
                waiting.append(readers.submit(_decode_task, unit, rows, settings))
            yield from images


def _decode_task(unit: Unit, rows: slice, settings: DecodeSettings) -> list[_Decoded]:
    images = zip(unit.paths[rows], unit.digests[rows], unit.sample_ids[rows], strict=True)
    decoded = []
    for path, digest, sample_id in images:
        try:
            decoded.append(_decode_one(path, digest.tobytes().hex(), settings))
        except MemoryError as error:
            raise InvalidInput(
                f"image {sample_id}: not enough memory to decode it",
                next_step="run the same command with --workers 1: what was staged is kept",
            ) from error
    return decoded


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
        at = sum(len(piece) for piece in work.pieces) + error.rows[0]
        raise InvalidInput(
            f"image {work.unit.sample_ids[work.kept[at]]}: {error.message}",
            next_step=error.next_step,
        ) from error


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
        for row, image in enumerate(itertools.islice(decoded, len(unit))):
            if isinstance(image, UnreadableImage):
                work.quarantined[unit.digests[row].tobytes().hex()] = image.reason
            elif isinstance(image, _Changed):
                work.changed[unit.sample_ids[row]] = str(image)
            else:
                batch[filled] = image
                filled += 1
                work.kept.append(row)
            work.read_to_end = row + 1 == len(unit)
            if filled == len(batch) or (filled and work.read_to_end):
                work.batches += 1
                yield batch[:filled]
                batch, filled = np.empty((network.batch_size, *size, 3), np.uint8), 0


def _stage(staging: StagesShards, work: _UnitWork) -> UnitOutcome:
    if work.kept or work.quarantined:
        features = np.concatenate(work.pieces) if work.pieces else np.empty((0, 1), np.float16)
        staging.put(
            digests=work.unit.digests[work.kept], features=features, quarantined=work.quarantined
        )
    return UnitOutcome(len(work.kept), work.quarantined, work.changed)
