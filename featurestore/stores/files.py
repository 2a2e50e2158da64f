"""Where the files of a store are read from: a folder here, or, behind the same verbs, elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

_LOCAL_READS = min(4, os.cpu_count() or 1)


class StoreFiles(Protocol):
    """The files of one finished store, by their path in it. Any thread may read.

    A store that is one file has it under the name "".
    """

    @property
    def place(self) -> str:
        """Path or address of the store, for messages."""
        ...

    @property
    def remedy(self) -> str:
        """What to do about damage, for messages."""
        ...

    @property
    def reads_at_once(self) -> int:
        """How many threads are worth reading, and decoding, at the same time."""
        ...

    def read(self, name: str) -> bytes:
        """Return a whole file.

        Raises
        ------
        FileNotFoundError
            The store has no such file.
        FeatureStoreError
            It lies elsewhere, and cannot be reached or has been replaced.
        """
        ...

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return a piece of a file, shorter where the file ends; raises as `read`."""
        ...

    def read_tail(self, name: str, length: int) -> bytes:
        """Return the last bytes of a file, all of it if it is shorter; raises as `read`."""
        ...

    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of every file; may have to ask for each."""
        ...


class LocalFiles:
    """A store's files on a disk of this machine; see `StoreFiles`. Keeps none open."""

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)

    @property
    def place(self) -> str:
        """The store's path."""
        return self._path

    @property
    def remedy(self) -> str:
        """Restore or embed again."""
        return f"restore {self._path} from a copy, or delete it and embed again"

    @property
    def reads_at_once(self) -> int:
        """As many as decode at once: the disk is seldom what is waited for."""
        return _LOCAL_READS

    def read(self, name: str) -> bytes:
        """Return a whole file."""
        with open(self._file(name), "rb", buffering=0) as stream:
            return stream.read()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return a piece of a file."""
        with open(self._file(name), "rb", buffering=0) as stream:
            stream.seek(start)
            return stream.read(length)

    def read_tail(self, name: str, length: int) -> bytes:
        """Return the last bytes of a file."""
        with open(self._file(name), "rb", buffering=0) as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - length))
            return stream.read(length)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file; looks at each."""
        if os.path.isfile(self._path):
            return {"": os.path.getsize(self._path)}
        found: dict[str, int] = {}
        for folder, _, names in os.walk(self._path):
            for name in names:
                file = os.path.join(folder, name)
                inside = os.path.relpath(file, self._path).replace(os.sep, "/")
                found[inside] = os.path.getsize(file)
        return found

    def _file(self, name: str) -> str:
        return os.path.join(self._path, name) if name else self._path
