"""Files fetched by digest, several at once, into a folder where a file's name is its SHA-256.

What is under a digest's name came whole, but whoever finds it hashes it again: a disk that lost
power may hold other bytes. What is under that name with ``.part`` is the beginning of such a file,
and is gone on with.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Protocol

from featurestore.digests import sha256_file
from featurestore.errors import IntegrityError
from featurestore.remote.connection import Changed
from featurestore.stores import durable

PARTIAL = ".part"
_PIECE_BYTES = 1 << 20
_PATIENCE_S = 5.0
_POLL_S = 0.2


class Streams(Protocol):
    """The part of `Connection` that files come through."""

    def stream(self, path: str, *, start: int = 0, etag: str | None = None) -> Iterable[bytes]:
        """Yield a file's bytes from `start` on."""
        ...


class Allowance:
    """How many bytes may come in all: a service that sends without end must not fill the disk."""

    def __init__(self, size_bytes: int, *, subject: str) -> None:
        self._left = size_bytes
        self._subject = subject
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Count bytes, or with a negative number give them back.

        Raises
        ------
        IntegrityError
            There are more than the record says.
        """
        with self._lock:
            if count <= self._left:
                self._left -= count
            else:
                raise IntegrityError(
                    f"{self._subject}: its files have more bytes than its record says",
                    next_step="on the machine that serves it: fs verify",
                )


class Transfer:
    """Fetches files into one folder, which no other process uses meanwhile.

    Parameters
    ----------
    moved
        Told, from any thread, how many bytes have come.
    """

    def __init__(
        self,
        source: Streams,
        folder: Path,
        *,
        allowance: Allowance,
        moved: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._source = source
        self._folder = folder
        self._allowance = allowance
        self._moved = moved
        self._stop = threading.Event()
        self.moved_bytes = 0
        self._lock = threading.Lock()

    def fetch(self, files: Mapping[str, str], *, jobs: int) -> None:
        """Fetch files, `jobs` at once; when this returns each lies under its digest, synced.

        Of an error, the first is raised, and what came before it stays for the next time.

        Parameters
        ----------
        files
            Path on the service by SHA-256.

        Raises
        ------
        IntegrityError
            The service sends other bytes, twice, or more than its record says.
        NotFound, Conflict, InvalidInput, Unreachable
            As `Connection.stream`.
        OSError
            The disk is full or cannot be written.
        """
        waiting: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        for each in files.items():
            waiting.put(each)
        ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        # Not an executor: its threads are waited for when the process ends, and Ctrl-C should not
        # have to wait for a service that does not answer.
        threads = [
            threading.Thread(
                target=self._work, args=(waiting, ended), name=f"pull-{number}", daemon=True
            )
            for number in range(min(jobs, len(files)))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in threads:
                error = _next(ended)
                if error is not None:
                    raise error
        except BaseException:
            self._stop.set()
            deadline = time.monotonic() + _PATIENCE_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            raise

    def _work(
        self,
        waiting: queue.SimpleQueue[tuple[str, str]],
        ended: queue.SimpleQueue[BaseException | None],
    ) -> None:
        try:
            while not self._stop.is_set():
                try:
                    sha256, path = waiting.get_nowait()
                except queue.Empty:
                    break
                self._fetch(sha256, path)
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    def _fetch(self, sha256: str, path: str) -> None:
        for last in (False, True):
            found = self._download(sha256, path)
            if found is None or found == sha256:
                return
            if last:
                raise IntegrityError(
                    f"{path}: expected digest {sha256}, found {found}, twice",
                    next_step="on the machine that serves it: fs verify",
                )

    def _download(self, sha256: str, path: str) -> str | None:
        """Fetch a file, or what is left of it, and return its digest; None if told to stop.

        A file of another digest is removed.
        """
        part, whole = self._folder / (sha256 + PARTIAL), self._folder / sha256
        with part.open("a+b", buffering=0) as sink:
            digest, start = _hashed(sink)
            try:
                self._allowance.take(start)
            except IntegrityError:  # a beginning that cannot be one of ours
                sink.truncate(0)
                digest, start = hashlib.sha256(), 0
            size = start
            try:
                for piece in self._source.stream(path, start=start, etag=f'"{sha256}"'):
                    if self._stop.is_set():
                        return None
                    self._allowance.take(len(piece))
                    durable.write(sink, piece)
                    digest.update(piece)
                    size += len(piece)
                    self._count(len(piece))
                found = digest.hexdigest()
            except Changed:
                if not start:
                    raise
                found = "a beginning that is not the file's"
            if found == sha256:
                durable.sync(sink.fileno())
        if found == sha256:
            durable.rename(part, whole)
        else:
            part.unlink()
            self._allowance.take(-size)
        return found

    def _count(self, count: int) -> None:
        with self._lock:
            self.moved_bytes += count
        self._moved(count)


def whole_files(folder: Path, *, jobs: int, keep: Collection[str] = ()) -> dict[str, int]:
    """Return the sizes of the files in a transfer's folder that are what their names say.

    The others, but for beginnings of files and those named by `keep`, are removed.
    """
    names = [path for path in folder.iterdir() if path.suffix != PARTIAL and path.name not in keep]
    sizes = {}
    for path, found in zip(names, digests(names, jobs=jobs), strict=True):
        if found == path.name:
            sizes[found] = path.stat().st_size
        else:
            durable.remove(path)
    return sizes


def digests(paths: Sequence[Path], *, jobs: int) -> list[str | None]:
    """Return the SHA-256 of files, several hashed at once; None for one that cannot be read."""
    from concurrent.futures import ThreadPoolExecutor

    def digest(path: Path) -> str | None:
        try:
            return sha256_file(path)
        except OSError:
            return None

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(digest, paths))


def add_copy(source: Path, target: Path) -> None:
    """Give a synced file a second name, or where there are none copy and sync its bytes.

    The name itself is not yet durable.

    Raises
    ------
    FileExistsError
        Something bears the name.
    """
    try:
        durable.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # FAT, exFAT and some network drives have no second names
        with source.open("rb") as stream, target.open("xb", buffering=0) as sink:
            while piece := stream.read(_PIECE_BYTES):
                durable.write(sink, piece)
            durable.sync(sink.fileno())


def _next(ended: queue.SimpleQueue[BaseException | None]) -> BaseException | None:
    while True:
        try:
            # In pieces: on Windows an endless wait cannot be interrupted.
            return ended.get(timeout=_POLL_S)
        except queue.Empty:
            continue


def _hashed(stream: FileIO) -> tuple[hashlib._Hash, int]:
    """Return the digest so far and the size of an open file; what is written goes behind it."""
    stream.seek(0)
    digest, size = hashlib.sha256(), 0
    while piece := stream.read(_PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
    return digest, size
