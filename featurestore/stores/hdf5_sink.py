"""The file that the HDF5 library writes to: ours, so that a failed write is one error, not many."""

from __future__ import annotations

import io

from featurestore.stores import durable


class Hdf5Sink(io.RawIOBase):
    """A new raw file as HDF5's driver for Python file objects takes it.

    HDF5 meets a full disk anywhere, also while it closes, and then leaks the file, raises what
    does not say why, or crashes at exit. So the first failure is kept in `failure`, HDF5 is told
    that all is well, and nothing more is written; whoever called HDF5 then raises `failure`.
    """

    def __init__(self, stream: io.FileIO) -> None:
        super().__init__()
        self._stream = stream
        self.failure: BaseException | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # as HDF5 calls it
        """Read back what was written."""
        return self._stream.readinto(buffer) or 0

    def write(self, data: memoryview, /) -> int:  # type: ignore[override]  # as HDF5 calls it
        """Write all of `data`, or note the failure."""
        if self.failure is None:
            try:
                durable.write(self._stream, data)
            # Also an interrupt: HDF5's C frames lie between here and whoever should see it.
            except BaseException as failure:
                self.failure = failure
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file."""
        if self.failure is None:
            try:
                return self._stream.truncate(size)
            except BaseException as failure:
                self.failure = failure
        return size or 0

    def flush(self) -> None:
        """Do nothing: the file is not buffered."""

    def sync(self) -> None:
        """Return when the file's bytes are on disk."""
        durable.sync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()
