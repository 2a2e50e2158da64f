"""What the package's SQLite files share: how one is opened, and what its errors mean.

Such a file holds nothing that cannot be made again, so damage is not for the user to mend.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from featurestore.errors import Conflict

TIMEOUT_S = 30.0
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_ERRNO = {
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
}


def connect(path: Path, *, timeout_s: float) -> sqlite3.Connection:
    """Open a file for use from any thread, one at a time; transactions are begun by hand."""
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = bytes  # a damaged type must not raise while it is decoded
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the file for writing; commit at the end, or roll back when something is raised."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        yield


@contextlib.contextmanager
def own_errors(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Raise what SQLite says of the world outside the file as an error of ours.

    Raises
    ------
    Conflict
        Another process has held the file for `timeout_s`.
    OSError
        The system refuses to read or write it.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = _primary_code(error)
        if code in _BUSY:
            raise Conflict(
                f"{path}: another process has held it for {timeout_s:.0f} s",
                next_step="end that process or wait for it, then run the same command again",
            ) from error
        if code in _ERRNO:
            raise OSError(_ERRNO[code], str(error), str(path)) from error
        raise


def is_corruption(error: sqlite3.Error) -> bool:
    """Whether the file's content is to blame: its statements being fixed, all else is outside."""
    code = _primary_code(error)
    if code == sqlite3.SQLITE_READONLY == getattr(error, "sqlite_errorcode", None):
        return True  # the file was just opened for writing, so its header says so
    return code is not None and code not in _BUSY and code not in _ERRNO


def _primary_code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code (the low byte of an extended one), if it is SQLite's."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
