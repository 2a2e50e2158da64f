"""The online cache: features of single images, kept from one call to the next.

A memo in one SQLite file below the cache root, keyed by recipe fingerprint and image digest. Losing
it costs time only, so it heals itself: a row whose seal does not fit is absent, and a file that
SQLite calls damaged is begun anew, with a message. It is bounded in bytes; what has not been used
for longest goes first.

It may be killed at any moment: a row is whole or absent. Any number of processes and threads may
use it at once; transactions are short, and readers do not wait for a writer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numcodecs.zstd import compress, decompress  # type: ignore[import-untyped] # it ships no types

from featurestore import sqlite
from featurestore.locks import hold

ONLINE = ".online.sqlite"
DEFAULT_ONLINE_BYTES = 2**30
SCHEMA_VERSION = 1
_TOUCH_S = 60  # a hit writes only if the row's last use is older than this
_TIMEOUT_S = sqlite.TIMEOUT_S
_DIGESTS_PER_QUERY = 500
_EVICTED_AT_ONCE = 16
# One transaction's values: as much may stand in the log beside the file.
_TRANSACTION_BYTES = 16 * 2**20
_PAGE_BYTES = 4096
# What changes at every use stands apart from the values: SQLite writes a row anew as a whole.
_SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, recipe BLOB, digest BLOB, used INTEGER, UNIQUE (recipe, digest)
);
CREATE INDEX entries_by_use ON entries (used);
CREATE TABLE contents (id INTEGER PRIMARY KEY, value BLOB, seal BLOB);
"""
_SELECT = """
SELECT id, digest, used, value, seal FROM entries LEFT JOIN contents USING (id)
WHERE recipe = ? AND digest IN
"""

T = TypeVar("T")


class Refusal(NamedTuple):
    """Bytes that are no readable image, and why."""

    reason: str


Found = np.ndarray | Refusal


class _OtherSchema(Exception):  # noqa: N818 -- never leaves this module
    pass


class OnlineCache:
    """Features, or the reason why there are none, by recipe and digest.

    Opened at first use; reading does not create the file.

    Parameters
    ----------
    max_bytes
        Most that the file may take. A log of up to a few transactions of 16 MiB lies beside it
        while it is written.
    clock
        Seconds since 1970.
    say
        Told when a damaged file is begun anew.

    Raises
    ------
    OSError
        From any method: the file cannot be opened, read or written.
    Conflict
        From any method: another process held the file for more than 30 s.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = DEFAULT_ONLINE_BYTES,
        clock: Callable[[], float] = time.time,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._clock = clock
        self._say = say
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def __enter__(self) -> OnlineCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, recipe: str, digests: Sequence[bytes]) -> dict[bytes, Found]:
        """Return what is known under a recipe fingerprint of these digests (32 bytes each)."""
        if not digests or not self.path.exists():
            return {}
        key = bytes.fromhex(recipe)

        def query(connection: sqlite3.Connection) -> dict[bytes, Found]:
            now = int(self._clock())
            found: dict[bytes, Found] = {}
            stale: list[int] = []
            damaged: list[int] = []
            for start in range(0, len(digests), _DIGESTS_PER_QUERY):
                part = digests[start : start + _DIGESTS_PER_QUERY]
                rows = connection.execute(
                    f"{_SELECT} ({_marks(part)})",  # constant but for the number of marks
                    (key, *part),
                )
                for row_id, digest, used, value, seal in rows:
                    # A flipped bit may make anything of a column's type.
                    if not (isinstance(digest, bytes) and isinstance(value, bytes)) or (
                        seal != _seal(key, digest, value)
                    ):
                        damaged.append(row_id)
                        continue
                    found[digest] = _decoded(value)
                    if not isinstance(used, int) or used < now - _TOUCH_S:
                        stale.append(row_id)
            if damaged or stale:
                with sqlite.transaction(connection):
                    _delete(connection, damaged)
                    for some in _parts(stale):
                        connection.execute(
                            f"UPDATE entries SET used = ? WHERE id IN ({_marks(some)})",  # noqa: S608 -- as above
                            (now, *some),
                        )
            return found

        return self._run(query)

    def put(self, recipe: str, found: Mapping[bytes, Found]) -> None:
        """Keep what was found of each digest; what is there already stays as it is."""
        key = bytes.fromhex(recipe)
        values = {digest: _encoded(each) for digest, each in found.items()}
        piece: dict[bytes, bytes] = {}
        size = 0
        limit = min(_TRANSACTION_BYTES, max(1, self.max_bytes // 4))
        for digest, value in values.items():
            takes = _footprint(value)
            if takes > self.max_bytes:
                continue
            if piece and size + takes > limit:
                self._insert(key, piece)
                piece, size = {}, 0
            piece[digest] = value
            size += takes
        if piece:
            self._insert(key, piece)

    def _insert(self, key: bytes, values: Mapping[bytes, bytes]) -> None:
        def insert(connection: sqlite3.Connection) -> None:
            now = int(self._clock())
            with sqlite.transaction(connection):
                self._make_room(connection, sum(map(_footprint, values.values())))
                for digest, value in values.items():
                    added = connection.execute(
                        "INSERT OR IGNORE INTO entries (recipe, digest, used) VALUES (?, ?, ?)",
                        (key, digest, now),
                    )
                    if added.rowcount:
                        connection.execute(
                            "INSERT OR REPLACE INTO contents VALUES (?, ?, ?)",
                            (added.lastrowid, value, _seal(key, digest, value)),
                        )
            if _pages(connection) * _PAGE_BYTES > self.max_bytes:
                # As a script: `execute` steps once, which gives one page back.
                connection.executescript("PRAGMA incremental_vacuum;")

        self._run(insert)

    def _make_room(self, connection: sqlite3.Connection, incoming: int) -> None:
        while _used_pages(connection) * _PAGE_BYTES + incoming > self.max_bytes:
            rows = connection.execute(
                "SELECT id FROM entries ORDER BY used, id LIMIT ?", (_EVICTED_AT_ONCE,)
            )
            oldest = [row_id for (row_id,) in rows]
            if not oldest:
                return
            _delete(connection, oldest)

    def count(self) -> int:
        """Return the number of rows."""
        if not self.path.exists():
            return 0
        return self._run(
            lambda connection: int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
        )

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._disconnect()

    def _run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock, sqlite.own_errors(self.path, timeout_s=_TIMEOUT_S):
            try:
                return action(self._open())
            except (_OtherSchema, UnicodeDecodeError) as error:
                # UnicodeDecodeError: of SQLite's message about a damaged schema.
                self._begin_anew(str(error))
            except sqlite3.DatabaseError as error:
                if not sqlite.is_corruption(error):
                    raise
                self._begin_anew(str(error))
            return action(self._open())

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Not while another process begins the file anew: its log and ours would be mixed.
        with self._replacing():
            self.path.open("ab").close()  # raises what SQLite would only call "unable to open"
            try:
                return self._connect()
            except BaseException:
                self._disconnect()  # half opened: the next use begins again
                raise

    def _connect(self) -> sqlite3.Connection:
        self._inode = os.stat(self.path).st_ino
        self._connection = connection = sqlite.connect(self.path, timeout_s=_TIMEOUT_S)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise _OtherSchema(f"its schema version is {version}, not {SCHEMA_VERSION}")
        if version == 0:
            # Both must come before the first table.
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.executescript(
                f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
            )
        # In a log, readers go on while one process writes. Where the file system cannot do it (some
        # network drives), SQLite stays with its rollback journal.
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA journal_size_limit = 0").fetchall()
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            # Closing moves the log into the file, which a damaged one refuses.
            with contextlib.suppress(sqlite3.DatabaseError):
                self._connection.close()
            self._connection = None

    def _begin_anew(self, why: str) -> None:
        """Remove the file, unless another process has already done so."""
        self._disconnect()
        with self._replacing():
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.path).st_ino != self._inode:
                    return
            for name in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + name).unlink(missing_ok=True)
        self._say(f"the online cache {self.path} cannot be used ({why}); it is begun anew")

    @contextlib.contextmanager
    def _replacing(self) -> Iterator[None]:
        lock = self.path.with_name(self.path.name + ".lock")
        with hold(lock, subject=f"online cache {self.path}", wait=True):
            yield


def _encoded(found: Found) -> bytes:
    """Return a length of two bytes, a header of JSON, and the features' bytes under zstd."""
    if isinstance(found, Refusal):
        header, body = json.dumps({"reason": found.reason[:1000]}), b""
    else:
        little = np.ascontiguousarray(found, found.dtype.newbyteorder("<"))
        header = json.dumps({"dtype": found.dtype.name, "shape": found.shape})
        body = compress(little.tobytes(), 1)  # features after a ReLU are mostly zeros
    return len(header).to_bytes(2, "little") + header.encode() + body


def _decoded(value: bytes) -> Found:
    end = 2 + int.from_bytes(value[:2], "little")
    header = json.loads(value[2:end])
    if "reason" in header:
        return Refusal(header["reason"])
    little = np.dtype(header["dtype"]).newbyteorder("<")
    features = np.frombuffer(decompress(value[end:]), little).reshape(header["shape"])
    return features.astype(header["dtype"], copy=False)


def _seal(key: bytes, digest: bytes, value: bytes) -> bytes:
    """Return a digest of a row: SQLite does not notice a flipped bit in what it stores."""
    return hashlib.blake2b(key + digest + value, digest_size=16).digest()


def _footprint(value: bytes) -> int:
    """Return what a row takes in the file, rounded up: whole pages, and its part of the index."""
    return (2 + len(value) // (_PAGE_BYTES - 64)) * _PAGE_BYTES


def _delete(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    for some in _parts(ids):
        for table in ("entries", "contents"):
            connection.execute(f"DELETE FROM {table} WHERE id IN ({_marks(some)})", some)  # noqa: S608 -- both are constants here


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), _DIGESTS_PER_QUERY):
        yield ids[start : start + _DIGESTS_PER_QUERY]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_count").fetchone()[0])


def _used_pages(connection: sqlite3.Connection) -> int:
    free = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
    return _pages(connection) - free
