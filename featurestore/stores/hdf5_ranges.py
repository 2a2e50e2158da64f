"""The file that the HDF5 library reads from where the store lies elsewhere: pieces, kept a while.

HDF5 calls back into Python with h5py's global lock held, and whoever drops the last reference to an
object of h5py needs that lock: also a thread in which the garbage collector happens to run. A
callback that waited for another thread, or for a lock that another thread may hold, could therefore
wait for ever (h5py issue 2019). So:

- what is worth reading by several threads is read before HDF5 is called (`prefetch`);
- what a callback still misses it reads itself, through files of its own that only callbacks use;
- blocks are touched under h5py's lock, which a callback holds already, and under no other.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from h5py._objects import phil

from featurestore.stores.files import StoreFiles

KEPT_BYTES = 64 * 2**20
_BLOCK_BYTES = 64 * 1024
# What one request of `prefetch` asks for at most: several keep a connection each busy.
_REQUEST_BLOCKS = 16
# What HDF5 looks up while it opens a file lies close together.
_LEAST_BLOCKS = 4


class Hdf5Ranges(io.RawIOBase):
    """A store of one file behind `StoreFiles`, as HDF5's driver for Python file objects takes it.

    What kept bytes from being read is noted for the thread that HDF5 called, as HDF5 itself only
    tells that reading failed: see `take_failure`.

    Parameters
    ----------
    files
        Where the file, named "", is read from ahead, by several threads.
    within
        The same, for callbacks alone; shares no lock with `files`.
    kept_bytes
        Of blocks read before that stay in memory; those used longest ago go first.
    """

    def __init__(
        self, files: StoreFiles, *, within: StoreFiles, kept_bytes: int = KEPT_BYTES
    ) -> None:
        super().__init__()
        self.files = files
        self.kept_bytes = kept_bytes
        self._within = within
        self._size = files.sizes()[""]
        self._most_blocks = max(_REQUEST_BLOCKS, kept_bytes // _BLOCK_BYTES)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._position = 0
        self._failed = threading.local()

    def prefetch(self, pieces: Iterable[range]) -> None:
        """Read pieces of the file, several at a time, so that HDF5 finds them in memory.

        Call it without h5py's lock; together they should take less than half of `kept_bytes`.

        Raises
        ------
        FileNotFoundError, FeatureStoreError
            As `StoreFiles.read_range`.
        """
        wanted = {
            block
            for piece in pieces
            if piece
            for block in range(piece.start // _BLOCK_BYTES, -(-piece.stop // _BLOCK_BYTES))
        }
        runs = _runs(sorted(block for block in wanted if block not in self._blocks))
        if not runs:
            return

        def read(run: range) -> bytes:
            return self.files.read_range("", *_extent(run))

        if len(runs) == 1:
            found = [read(runs[0])]
        else:
            with ThreadPoolExecutor(min(self.files.reads_at_once, len(runs))) as pool:
                found = list(pool.map(read, runs))
        with phil:
            for run, content in zip(runs, found, strict=True):
                self._keep(_cut(run, content))

    def take_failure(self) -> BaseException | None:
        """Return, once, what kept this thread's last call of HDF5 from reading."""
        failure: BaseException | None = getattr(self._failed, "failure", None)
        self._failed.failure = None
        return failure

    # As HDF5 calls it

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readable(self) -> bool:
        """Say that it is."""
        return True

    def seekable(self) -> bool:
        """Say that it is."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # as HDF5 calls it
        """Fill the buffer from the position on; fewer bytes only where the file ends."""
        view = memoryview(buffer).cast("B")
        try:
            content = self._read(self._position, min(len(view), self._size - self._position))
        except BaseException as failure:
            # HDF5 makes its own error of any; an interrupt must not get lost in it.
            self._failed.failure = failure
            raise OSError(f"{self.files.place} cannot be read") from failure
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _read(self, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        wanted = range(start // _BLOCK_BYTES, -(-(start + length) // _BLOCK_BYTES))
        held = {block: self._blocks[block] for block in wanted if block in self._blocks}
        for block in held:
            self._blocks.move_to_end(block)
        missing = [block for block in wanted if block not in held]
        if missing:
            count = max(missing[-1] + 1 - missing[0], _LEAST_BLOCKS)
            run = range(missing[0], missing[0] + count)
            content = self._within.read_range("", *_extent(run))
            held |= _cut(run, content)
            self._keep(_cut(run, content))
        skipped = start - wanted.start * _BLOCK_BYTES
        return b"".join(held[block] for block in wanted)[skipped : skipped + length]

    def _keep(self, blocks: Mapping[int, bytes]) -> None:
        for block, content in blocks.items():
            self._blocks[block] = content
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._most_blocks:
            self._blocks.popitem(last=False)


def _runs(blocks: Sequence[int]) -> list[range]:
    """Cut ascending block numbers into runs without gaps, none longer than one request."""
    runs: list[range] = []
    for block in blocks:
        if runs and runs[-1].stop == block and len(runs[-1]) < _REQUEST_BLOCKS:
            runs[-1] = range(runs[-1].start, block + 1)
        else:
            runs.append(range(block, block + 1))
    return runs


def _extent(run: range) -> tuple[int, int]:
    """Return where a run of blocks starts in the file, and its length."""
    return run.start * _BLOCK_BYTES, len(run) * _BLOCK_BYTES


def _cut(run: range, content: bytes) -> dict[int, bytes]:
    """Return the blocks of a run; those beyond the end of the file are short or empty."""
    return {
        block: content[place * _BLOCK_BYTES : (place + 1) * _BLOCK_BYTES]
        for place, block in enumerate(run)
    }
