"""One open file of a store, read in pieces: from memory without waiting, else from the disk."""

from __future__ import annotations

import dataclasses
import os
import sys
from io import FileIO

from featurestore.errors import IntegrityError


@dataclasses.dataclass(frozen=True, eq=False)
class StoredFile:
    """A file that was opened, or bytes that stand for one.

    Reading at one place does not move another reader. `lasting`: under this name and digest the
    bytes will never be others.
    """

    source: FileIO | bytes
    size_bytes: int
    sha256: str
    media_type: str
    lasting: bool

    def read(self, start: int, size_bytes: int) -> bytes | memoryview:
        """Return bytes from `start` on, at least one and at most `size_bytes`; may wait for a disk.

        Raises
        ------
        IntegrityError
            The file has become shorter. A body that just ended would look like a whole one.
        """
        if isinstance(self.source, bytes):
            return self.source[start : start + size_bytes]
        if hasattr(os, "pread"):
            piece = os.pread(self.source.fileno(), size_bytes, start)
        else:  # on Windows; an answer has one reader
            self.source.seek(start)
            piece = self.source.read(size_bytes) or b""
        if not piece and size_bytes:
            raise IntegrityError("a file of a committed store became shorter while it was sent")
        return piece

    def read_at_once(self, start: int, size_bytes: int) -> bytes | memoryview | None:
        """Return what `read` would, as far as it is in memory; None where that must be asked.

        Fit for an event loop: it never waits for a disk.
        """
        if isinstance(self.source, bytes) or not size_bytes:
            return self.read(start, size_bytes)
        if sys.platform != "linux":
            return None
        piece = bytearray(size_bytes)
        try:
            read = os.preadv(self.source.fileno(), [piece], start, os.RWF_NOWAIT)
        except OSError:  # not in memory, or the file system cannot tell
            return None
        return memoryview(piece)[:read] if read else None

    def close(self) -> None:
        """Let go of the file; more than once is no error."""
        if not isinstance(self.source, bytes):
            self.source.close()
