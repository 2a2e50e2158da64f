"""Disks that fail: make any one operation of the durable layer go wrong, or kill the process at it.

Every byte that featurestore stores passes `featurestore.stores.durable`, so failing its k-th
operation for every k visits each state that a full disk or a power cut can leave behind::

    for k in range(count_operations(embed)):
        with fail_operation(k, errno.ENOSPC), pytest.raises(OSError):
            embed()
        assert_old_feature_sets_are_readable()
    embed()
    assert_bytes_are_those_of_an_undisturbed_run()
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from featurestore.stores import durable

_OPERATIONS = ("write", "sync", "rename", "link", "make_directory")

Fault = Callable[[str, tuple[object, ...]], None]


@dataclass
class DiskLog:
    """What the durable layer was asked to do, in order: names of its operations."""

    operations: list[str] = field(default_factory=list)
    failed: bool = False


@contextmanager
def watch_disk() -> Iterator[DiskLog]:
    """Record operations and let them through."""
    with _intercept(lambda position: None) as log:
        yield log


def count_operations(action: Callable[[], object]) -> int:
    """Return how many operations `action` takes: the k for which `fail_operation` can fail it."""
    with watch_disk() as log:
        action()
    return len(log.operations)


@contextmanager
def fail_operation(
    k: int, error: int = errno.ENOSPC, *, torn: bool = True, lasting: bool = True
) -> Iterator[DiskLog]:
    """Make the k-th operation (from 0) raise OSError; `log.failed` says whether it came to that.

    Parameters
    ----------
    error
        One of `errno`'s numbers.
    torn
        A failing write first writes half of its bytes, as a disk does that fills up.
    lasting
        All later writes fail as well, until the context ends.
    """

    def fault(position: int) -> Fault | None:
        if position < k or (position > k and not lasting):
            return None
        return lambda name, arguments: _raise(name, arguments, error=error, torn=torn)

    with _intercept(fault) as log:
        yield log


@contextmanager
def die_at_operation(k: int) -> Iterator[DiskLog]:
    """Kill this process at the k-th operation, as SIGKILL or a power cut would: no clean-up runs.

    For a subprocess of the test. A write is half done; nothing else of the operation happens.
    """

    def fault(position: int) -> Fault | None:
        return _die if position == k else None

    with _intercept(fault) as log:
        yield log


@contextmanager
def _intercept(choose: Callable[[int], Fault | None]) -> Iterator[DiskLog]:
    log = DiskLog()
    counting = threading.Lock()

    def wrap(name: str) -> Callable[..., None]:
        original = getattr(durable, name)

        def operation(*arguments: object) -> None:
            with counting:
                fault = choose(len(log.operations))
                log.operations.append(name)
                strikes = fault is not None and (not log.failed or name == "write")
                log.failed |= strikes
            if fault is not None and strikes:
                fault(name, arguments)
            original(*arguments)

        return operation

    with ExitStack() as patches:
        for name in _OPERATIONS:
            patches.enter_context(mock.patch.object(durable, name, wrap(name)))
        yield log


def _raise(name: str, arguments: tuple[object, ...], *, error: int, torn: bool) -> None:
    if name == "write" and torn:
        _tear(arguments)
    path = next((str(each) for each in arguments if isinstance(each, Path)), None)
    raise OSError(error, f"{os.strerror(error)} (injected at {name})", path)


def _die(name: str, arguments: tuple[object, ...]) -> None:
    if name == "write":
        _tear(arguments)
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)


def _tear(arguments: tuple[object, ...]) -> None:
    sink, data = arguments
    half = memoryview(data).cast("B")  # type: ignore[arg-type]  # the bytes argument of durable.write
    sink.write(half[: len(half) // 2])  # type: ignore[attr-defined]  # its file argument
