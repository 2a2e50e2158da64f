"""Opening a file below a folder, by a way that no link and no odd name can bend."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

_WALKS = os.open in os.supports_dir_fd  # not on Windows
_ROOT = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_FOLDER = _ROOT | getattr(os, "O_NOFOLLOW", 0)
_NO_FILE = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK, errno.ENXIO)
_PLAIN = re.compile(r"[^./\\:\0][^/\\:\0]*")
# Opening a pipe would wait for its writer.
_FILE = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def is_plain(name: str) -> bool:
    """Whether `name` is one visible step down from a folder, on any system."""
    return _PLAIN.fullmatch(name) is not None


def open_beneath(root: Path | str, parts: Sequence[str]) -> FileIO:
    """Open the regular file at `root`/`parts` for reading, unbuffered; links are not followed.

    `root` itself may be reached through links: it is the reader's own choice. Whoever may write
    below it could otherwise have the reader open any file that the reader may.

    Raises
    ------
    FileNotFoundError
        There is no such file, a part is not a plain name, or a link stands on the way.
    OSError
        It cannot be opened.
    """
    if not parts or not all(map(is_plain, parts)):
        raise FileNotFoundError(errno.ENOENT, "not a plain path", os.path.join(root, *parts))
    try:
        return _opened(_walk(root, parts) if _WALKS else _open_resolved(root, parts))
    except OSError as error:
        if error.errno in _NO_FILE:
            path = os.path.join(root, *parts)
            raise FileNotFoundError(errno.ENOENT, "no file without links", path) from error
        raise
    except ValueError as error:  # a lone surrogate, which no name in a file system can hold
        path = os.path.join(root, *parts)
        raise FileNotFoundError(errno.ENOENT, "no such name", path) from error


def _walk(root: Path | str, parts: Sequence[str]) -> int:
    folder = os.open(root, _ROOT)
    try:
        for part in parts[:-1]:
            below = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(parts[-1], _FILE, dir_fd=folder)
    finally:
        os.close(folder)


def _open_resolved(root: Path | str, parts: Sequence[str]) -> int:
    path = os.path.join(root, *parts)
    expected = os.path.join(os.path.realpath(root), *parts)
    if os.path.normcase(os.path.realpath(path)) != os.path.normcase(expected):
        raise FileNotFoundError(errno.ENOENT, "a link stands on the way", path)
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def _opened(descriptor: int) -> FileIO:
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        return FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
