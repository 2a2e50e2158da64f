"""The state file: a memo of digests and notes that saves work and identifies nothing.

Losing it costs time only. A digest is found by (path, size, mtime_ns, inode); the digest itself
always comes from bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from featurestore import sqlite
from featurestore.errors import Conflict

SCHEMA_VERSION = 1
CACHE_MARKER = ".featurestore.json"  # the file by which a folder is known as a cache root
RACY_S = 2  # the coarsest time stamp in use: FAT's
_ATTEMPTS = 3
_TIMEOUT_S = sqlite.TIMEOUT_S
_PATHS_PER_QUERY = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS digests (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, inode INTEGER, sha256 BLOB, seal BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value BLOB, seal BLOB) WITHOUT ROWID;
"""
_COLUMNS = "path, size, mtime_ns, inode, sha256, seal"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class FileStat:
    """What tells one state of a file from another, cheaply."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str) -> FileStat:
        """Stat the file at `path`, following links.

        Raises
        ------
        OSError
            There is no such file, or it is a folder, pipe or device (`errno` EISDIR or EINVAL).
        """
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        # SQLite holds signed 64-bit integers; inodes on ReFS and some network drives are larger.
        return cls(found.st_size, found.st_mtime_ns, found.st_ino & 0x7FFF_FFFF_FFFF_FFFF)


@dataclasses.dataclass(frozen=True, slots=True)
class HashedFile:
    """A digest (32 bytes) with the state of the file that had it."""

    path: str
    stat: FileStat
    sha256: bytes


def hash_file(path: str) -> HashedFile:
    """Return the SHA-256 of a file that did not change while it was read.

    Raises
    ------
    OSError
        The file cannot be opened or read, or is not a regular file.
    Conflict
        It changed during each of three attempts.
    """
    before = FileStat.of(path)
    for _ in range(_ATTEMPTS):
        with open(path, "rb", buffering=0) as stream:
            sha256 = hashlib.file_digest(stream, "sha256").digest()
        after = FileStat.of(path)
        if after == before:
            return HashedFile(path, after, sha256)
        before = after
    raise Conflict(
        f"{path}: changed while it was read, {_ATTEMPTS} times in a row",
        next_step="wait until nothing writes to the dataset, then run the same command again",
    )


class StateFile:
    """The memo of one cache root, shared by every process that uses it.

    Usable from several threads (one at a time) and several processes (transactions are short and
    wait up to 30 s). Opened at first use. A corrupt file is renamed to ``<name>.corrupt-<n>`` and
    a new one begun; a file of another schema version likewise.

    Parameters
    ----------
    clock
        Seconds since 1970, as the file system's time stamps.

    Raises
    ------
    OSError
        From any method: the file cannot be opened, read or written.
    Conflict
        From any method: another process held the file for more than 30 s.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> StateFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def find(self, stats: Mapping[str, FileStat]) -> dict[str, bytes]:
        """Return the digests (32 bytes) of those paths whose remembered state equals `stats`."""
        by_key = {os.fsencode(path): path for path in stats}
        keys = list(by_key)

        def query(connection: sqlite3.Connection) -> dict[str, bytes]:
            found: dict[str, bytes] = {}
            for start in range(0, len(keys), _PATHS_PER_QUERY):
                part = keys[start : start + _PATHS_PER_QUERY]
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    f"SELECT {_COLUMNS} FROM digests WHERE path IN ({marks})",  # noqa: S608 -- constant but for the number of marks
                    part,
                )
                for *row, seal in rows:
                    key, size, mtime_ns, inode, sha256 = row
                    if seal == _seal(*row) and key in by_key:
                        path = by_key[key]
                        if stats[path] == FileStat(size, mtime_ns, inode):
                            found[path] = sha256
            return found

        return self._run(query)

    def remember(self, files: Iterable[HashedFile], *, hashed_since: float) -> None:
        """Store digests in one transaction, except of files that changed only just before.

        A file whose time stamp is not at least two seconds older than `hashed_since`, the time
        (by `clock`) before the first of `files` was read, could change again and keep its size
        and time stamp. It is left out, and so hashed again next time.
        """
        newest = (hashed_since - RACY_S) * 1e9
        rows = [
            (os.fsencode(file.path), *dataclasses.astuple(file.stat), file.sha256)
            for file in files
            if file.stat.mtime_ns <= newest
        ]
        if rows:
            self._write("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?)", rows)

    def note(self, key: str) -> object | None:
        """Return the JSON value noted under `key`, or None."""

        def query(connection: sqlite3.Connection) -> object | None:
            row = connection.execute(
                "SELECT key, value, seal FROM notes WHERE key = ?", (key,)
            ).fetchone()
            if row is None or row[2] != _seal(key, row[1]):
                return None
            value: object = json.loads(row[1])
            return value

        return self._run(query)

    def set_note(self, key: str, value: object) -> None:
        """Note a JSON value under `key`, replacing what was there."""
        self._write(
            "INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", [(key, json.dumps(value).encode())]
        )

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._disconnect()

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        sealed = [(*row, _seal(*row)) for row in rows]

        def transaction(connection: sqlite3.Connection) -> None:
            with sqlite.transaction(connection):
                connection.executemany(statement, sealed)

        self._run(transaction)

    def _run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock, sqlite.own_errors(self.path, timeout_s=_TIMEOUT_S):
            try:
                return action(self._open())
            except UnicodeDecodeError:
                self._set_aside()  # of SQLite's message about a damaged schema
            except sqlite3.DatabaseError as error:
                if not sqlite.is_corruption(error):
                    raise
                self._set_aside()
            return action(self._open())

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.open("ab").close()  # raises what SQLite would only call "unable to open"
        try:
            return self._with_schema(self._connect())
        except BaseException:
            self._disconnect()  # half opened: the next use begins again
            raise

    def _with_schema(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        # No waiting for the disk: what a power cut damages is noticed, and is only a memo.
        connection.execute("PRAGMA synchronous = OFF")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            self._set_aside()
            connection = self._connect()
            version = 0
        if version == 0:
            # Not WAL: it needs shared memory, which network drives lack.
            connection.executescript(
                f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
            )
        return connection

    def _connect(self) -> sqlite3.Connection:
        self._connection = sqlite.connect(self.path, timeout_s=_TIMEOUT_S)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _set_aside(self) -> None:
        self._disconnect()
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.corrupt-{number}")).exists():
            number += 1
        # Two processes may both come here; what the second renames is a memo just begun.
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.path, aside)
        for suffix in ("-wal", "-shm"):  # there, if the damage made the header say WAL
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def _seal(*row: object) -> bytes:
    """Return a short digest of a row: SQLite does not notice a flipped bit in what it stores."""
    return hashlib.blake2b(repr(row).encode(), digest_size=8).digest()
