"""A stream of pixels: images decoded, warped and batched on threads ahead of whoever takes them.

What a batch holds depends on the rows asked for, the ranges, the seed and the view; not on the
number of threads, nor on what an earlier pass has left in memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from featurestore.augmentation import Augmentation, augment
from featurestore.errors import InvalidInput
from featurestore.images import UnreadableImage, decode_image

THREAD_PREFIX = "pixels"

# Images in one task: one future for each image costs more than it gives.
_TASK_IMAGES = 8
# Batches under way besides the one that the consumer holds; more where a batch is a task or two.
_BATCHES_AHEAD = 2

_Version = tuple[Augmentation, int, int]  # ranges, seed, view


class PixelStream:
    """Gives the pixels of chosen images, pass after pass.

    Decoded images, before any warp, are kept for later passes while they fit `memory_bytes`: the
    first to come are kept, none gives way to another. Beside them a pass holds the batches under
    way: 2, or as many as give each thread a task of 8 images and one to spare, and the one given
    out last; and what each thread is decoding.

    Several passes may run at once; they share what is kept.

    Parameters
    ----------
    read
        Gives the bytes of the image of a row, and names the image where it cannot; called from
        many threads at once.
    sha256
        (n, 32) uint8: the digest of each row's bytes. Rows with the same digest are the same image.
    size
        (height, width) in pixels.
    interpolation
        As `decode_image` takes it.
    workers
        Threads of one pass.
    memory_bytes
        Most bytes of pixels kept between passes; 0 keeps nothing.
    name
        Says in errors which image a row is; None is by the digest of its bytes.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        sha256: np.ndarray,
        *,
        size: tuple[int, int],
        interpolation: str,
        workers: int,
        memory_bytes: int,
        name: Callable[[int], str] | None = None,
    ) -> None:
        self.workers = max(1, workers)
        self.size = size
        self._read = read
        self._name = name or self._digest_name
        self._digests = [row.tobytes() for row in np.asarray(sha256, np.uint8)]
        self._interpolation = interpolation
        self._kept = _Kept(memory_bytes)

    @property
    def kept_bytes(self) -> int:
        """Bytes of decoded pixels that later passes need not decode."""
        return self._kept.size_bytes

    def batches(
        self,
        rows: np.ndarray,
        *,
        batch_size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        view: int = 0,
    ) -> Iterator[np.ndarray]:
        """Yield the images of `rows`, in their order: uint8 (n, H, W, 3), n at most `batch_size`.

        Every batch is an array of its own; the last may be smaller. Threads start with the first
        batch that is asked for and have ended when the iterator is exhausted or closed.

        Parameters
        ----------
        augmentation
            Ranges that a version of each image is drawn from, by `seed` and `view`; None gives the
            images as they are.

        Raises
        ------
        InvalidInput
            There is not enough memory to decode an image, or `batch_size` is less than 1.
        UnreadableImage
            An image cannot be decoded; `name` names it.
        FeatureStoreError
            What `read` raises. All of these come in the place of the batch that has the image.
        """
        if batch_size < 1:
            raise InvalidInput(f"batch size: expected at least 1, found {batch_size}")
        version = None if augmentation is None else (augmentation, seed, view)
        return self._stream(np.asarray(rows, np.intp), batch_size, version)

    def _stream(
        self, rows: np.ndarray, batch_size: int, version: _Version | None
    ) -> Iterator[np.ndarray]:
        tasks = -(-batch_size // _TASK_IMAGES)
        ahead = max(_BATCHES_AHEAD, -(-(self.workers + 1) // tasks))
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix=THREAD_PREFIX)
        waiting: deque[tuple[np.ndarray, list[Future[None]]]] = deque()

        def give_out(start: int) -> None:
            batch_rows = rows[start : start + batch_size]
            batch = np.empty((len(batch_rows), *self.size, 3), np.uint8)
            parts = [slice(at, at + _TASK_IMAGES) for at in range(0, len(batch), _TASK_IMAGES)]
            waiting.append(
                (
                    batch,
                    [
                        pool.submit(self._fill, batch[part], batch_rows[part], version)
                        for part in parts
                    ],
                )
            )

        try:
            starts = iter(range(0, len(rows), batch_size))
            for start in starts:
                give_out(start)
                if len(waiting) > ahead:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            # Waits for the tasks that have begun: whoever closes a pass may close its files next.
            pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, images: np.ndarray, rows: np.ndarray, version: _Version | None) -> None:
        for at, row in enumerate(rows.tolist()):
            try:
                image = self._decoded(row)
                if version is not None:
                    ranges, seed, view = version
                    image = augment(image, ranges, seed=seed, sha256=self._digests[row], view=view)
            except MemoryError as error:
                raise InvalidInput(
                    f"{self._name(row)}: not enough memory to decode it",
                    next_step="run the same command with --workers 1, or with less --memory",
                ) from error
            images[at] = image

    def _decoded(self, row: int) -> np.ndarray:
        digest = self._digests[row]
        image = self._kept.get(digest)
        if image is None:
            content = self._read(row)
            try:
                image = decode_image(content, size=self.size, interpolation=self._interpolation)
            except UnreadableImage as error:
                raise UnreadableImage(
                    f"{self._name(row)}: {error.reason}",
                    next_step="embed the dataset again: `fs embed` leaves out what it cannot read",
                ) from error
            self._kept.offer(digest, image)
        return image

    def _digest_name(self, row: int) -> str:
        return f"image with SHA-256 {self._digests[row].hex()[:12]}"


class _Kept:
    """Decoded images by digest, within a budget. May be used from many threads at once."""

    def __init__(self, memory_bytes: int) -> None:
        self.size_bytes = 0
        self._memory_bytes = memory_bytes
        self._images: dict[bytes, np.ndarray] = {}
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> np.ndarray | None:
        return self._images.get(digest)

    def offer(self, digest: bytes, image: np.ndarray) -> None:
        with self._lock:
            fits = self.size_bytes + image.nbytes <= self._memory_bytes
            if fits and digest not in self._images:
                self._images[digest] = image
                self.size_bytes += image.nbytes


def _finished(batch: np.ndarray, tasks: list[Future[None]]) -> np.ndarray:
    for task in tasks:
        task.result()
    return batch
