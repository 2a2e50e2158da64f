"""One writer per feature set name, on Linux, macOS and Windows.

The lock is the operating system's (`filelock`), held on a sidecar file for the whole run: it ends
with its holder, however that ends. A second file says who holds it, for the message only.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from featurestore.errors import Conflict

_PATIENCE_S = 0.5


@contextmanager
def hold(
    path: Path, *, subject: str, wait: bool = False, since: str = "", once: bool = False
) -> Iterator[None]:
    """Hold the lock at `path` while the block runs.

    Parameters
    ----------
    once
        Leave no lock file: for locks of which each has a name of its own.

    Raises
    ------
    Conflict
        Another living process holds it and `wait` is false; the message says who.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(path))
    holder = path.with_suffix(".holder")
    try:
        # Not zero: `is_held` takes a lock for an instant to ask about it.
        lock.acquire(timeout=-1 if wait else _PATIENCE_S)
    except Timeout as error:
        raise Conflict(
            f"{subject} is being written by {_holder(holder)}",
            next_step="wait for it to end (--wait does), or stop that process",
        ) from error
    try:
        holder.write_text(
            json.dumps(
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": since,
                    "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
                }
            ),
            encoding="utf-8",
        )
        yield
    finally:
        holder.unlink(missing_ok=True)
        # Before it is let go of: whoever waits for it then finds that the file it has opened bears
        # no name any more, and begins with a new one. Removed afterwards, it could already be held
        # by one process while another makes and holds a new file of that name.
        removed = once and _removed(path)
        lock.release()
        if once and not removed:
            _removed(path)  # Windows removes no open file: that of another holder stays, too


def _removed(lock: Path) -> bool:
    try:
        lock.unlink(missing_ok=True)
    except PermissionError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Tell whether a living process holds the lock at `path`.

    In a cache that cannot be written to, none does.
    """
    if not path.exists():
        return False
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def _holder(path: Path) -> str:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return (
            f"process {fields['pid']} on {fields['host']} "
            f"since {fields['since']} ({fields['command']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process (it has not said which)"
