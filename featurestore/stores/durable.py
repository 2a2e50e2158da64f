"""Every byte this package stores reaches the disk through here, and stays there.

`write`, `sync`, `rename`, `link` and `make_directory` are the only operations that change a disk;
everything else is made of them. Call them through the module (`durable.rename(...)`), so that
`featurestore.testing.faults` can make any one of them fail.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Protocol

Bytes = bytes | bytearray | memoryview

TEMPORARY_PREFIX = ".tmp-"
"""Names that begin so are unfinished: safe to remove when no writer is at work beside them."""


class ByteSink(Protocol):
    """A raw (unbuffered) file, which may take fewer bytes than it is given."""

    def write(self, data: memoryview, /) -> int | None:
        """Return how many bytes were taken."""
        ...


def write(sink: ByteSink, data: Bytes) -> None:
    """Write all of `data`."""
    rest = memoryview(data).cast("B")
    while rest:
        written = sink.write(rest)
        if not written:
            raise OSError(errno.EIO, "the file took no bytes")
        rest = rest[written:]


def sync(descriptor: int) -> None:
    """Return when the file or directory is on the device, not only in the page cache."""
    os.fsync(descriptor)


def rename(source: Path, target: Path) -> None:
    """Put `source` in the place of `target` in one step; not yet durable."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, which must be free; not yet durable."""
    os.link(source, target)


def make_directory(path: Path) -> None:
    """Create a directory that must not exist; its parent must."""
    path.mkdir()


def write_new_file(path: Path, data: Bytes) -> None:
    """Create a file that must not exist; not yet durable."""
    with path.open("xb", buffering=0) as stream:
        write(stream, data)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable; its name is its directory's."""
    # Windows syncs only what is open for writing.
    with path.open("r+b", buffering=0) as stream:
        sync(stream.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the system can (Windows cannot)."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
        if sys.platform == "darwin":
            # fsync leaves bytes in the drive's cache there; this empties the whole cache, so once
            # per directory is enough. Source: macOS fsync(2).
            import fcntl

            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make a directory and all below it durable, files before the directories that name them."""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            sync_file(Path(folder, name))
        sync_directory(Path(folder))


def replace(source: Path, target: Path) -> None:
    """Put a synced file or directory in the place of `target`, durably.

    A directory replaces only nothing: move an old one away first.
    """
    rename(source, target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def add(source: Path, target: Path) -> None:
    """Like `replace` for a file, but what stands under the name of `target` stays.

    Raises
    ------
    FileExistsError
        Something does.
    """
    try:
        link(source, target)
    except FileExistsError:
        raise
    except OSError:
        # FAT, exFAT and some network drives have no second names; there, a file that appears
        # between the two lines is replaced.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        replace(source, target)
        return
    source.unlink()
    sync_directory(target.parent)


def put_in_place(source: Path, target: Path) -> None:
    """Like `replace`, but a directory may take the place of what stands under its name.

    That is moved away first, and back if the rename fails.
    """
    if not (target.exists() and (target.is_dir() or source.is_dir())):
        replace(source, target)
        return
    aside = temporary_path(target)
    rename(target, aside)
    try:
        replace(source, target)
    except BaseException:
        remove(target)
        rename(aside, target)
        raise
    remove(aside)


def temporary_path(path: Path) -> Path:
    """Return a name beside `path` that no other writer uses and every sweep recognises."""
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def replace_file(path: Path, *pieces: Bytes) -> None:
    """Give `path` new contents: whole and durable when this returns, the old ones until then."""
    temporary = temporary_path(path)
    try:
        with temporary.open("xb", buffering=0) as stream:
            for piece in pieces:
                write(stream, piece)
            sync(stream.fileno())
        replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove(path: Path) -> None:
    """Remove a file or a directory with all below it; nothing if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
