"""Runs units on this machine: threads decode ahead of the network, one thread stages behind it.

Pillow lets go of the interpreter lock while it decodes and resizes, so threads are enough; the
window of decoded images is bounded, so memory does not grow with the number of images.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from featurestore.digests import sha256_hex
from featurestore.executors.contract import (
    DecodeSettings,
    EmbedsBatches,
    StagesShards,
    Unit,
    UnitOutcome,
)
from featurestore.images import UnreadableImage, decode_image

# Images in one decoding task: one future for each image costs 3 % of the decode itself.
_TASK_IMAGES = 8


class _Changed(Exception):  # noqa: N818 -- a value carried past a thread, not an error to raise
    pass


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
        try:
            decoded = self._decode_ahead(units, readers, decode, window=2 * network.batch_size)
            for unit in units:
                images = itertools.islice(decoded, len(unit))
                digests, features, outcome = _embed_unit(unit, images, network, decode.size)
                staged.append(stager.submit(_stage, staging, digests, features, outcome))
                # At most one shard is being written while the next is computed.
                while len(staged) > 1:
                    yield staged.popleft().result()
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
            (unit.paths[start : start + _TASK_IMAGES], unit.digests[start : start + _TASK_IMAGES])
            for unit in units
            for start in range(0, len(unit), _TASK_IMAGES)
        )
        ahead = max(self.workers + 1, window // _TASK_IMAGES)
        waiting: deque[Future[list[_Decoded]]] = deque(
            readers.submit(_decode_task, paths, digests, settings)
            for paths, digests in itertools.islice(tasks, ahead)
        )
        while waiting:
            images = waiting.popleft().result()
            for paths, digests in itertools.islice(tasks, 1):
                waiting.append(readers.submit(_decode_task, paths, digests, settings))
            yield from images


def _decode_task(
    paths: Sequence[Path], digests: np.ndarray, settings: DecodeSettings
) -> list[_Decoded]:
    return [
        _decode_one(path, digest.tobytes().hex(), settings)
        for path, digest in zip(paths, digests, strict=True)
    ]


def _decode_one(path: Path, expected: str, settings: DecodeSettings) -> _Decoded:
    try:
        content = path.read_bytes()
    except OSError as error:
        return _Changed(f"it can no longer be read: {error}")
    found = sha256_hex(content)
    if found != expected:
        return _Changed(f"expected digest {expected[:12]}…, found {found[:12]}…")
    try:
        return decode_image(content, size=settings.size, interpolation=settings.interpolation)
    except UnreadableImage as error:
        return error


def _embed_unit(
    unit: Unit, images: Iterator[_Decoded], network: EmbedsBatches, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, UnitOutcome]:
    batch = np.empty((network.batch_size, *size, 3), np.uint8)
    filled = 0
    kept: list[int] = []
    pieces: list[np.ndarray] = []
    quarantined: dict[str, str] = {}
    changed: dict[str, str] = {}
    for row, image in enumerate(images):
        if isinstance(image, UnreadableImage):
            quarantined[unit.digests[row].tobytes().hex()] = image.reason
        elif isinstance(image, _Changed):
            changed[unit.sample_ids[row]] = str(image)
        else:
            batch[filled] = image
            filled += 1
            kept.append(row)
        if filled == len(batch):
            pieces.append(network.embed(batch))
            filled = 0
    if filled:
        pieces.append(network.embed(batch[:filled]))
    features = np.concatenate(pieces) if pieces else np.empty((0,), np.float16)
    return unit.digests[kept], features, UnitOutcome(len(kept), quarantined, changed)


def _stage(
    staging: StagesShards, digests: np.ndarray, features: np.ndarray, outcome: UnitOutcome
) -> UnitOutcome:
    if len(digests) or outcome.quarantined:
        staging.put(digests=digests, features=features, quarantined=outcome.quarantined)
    return outcome
