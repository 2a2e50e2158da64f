"""Checkpoints of trainings that take long enough to be killed.

    <cache>/runs/.unfinished/<key>/
        training.json               what is being trained, for people
        epoch-000007.checkpoint     SHA-256 in hexadecimal, a line break, an npz without pickle
    <cache>/runs/.unfinished/<key>.lock

The key is the fingerprint of everything that decides the fit, so the same command finds what an
earlier one has left, and another finds nothing. A file is written under a temporary name, synced
and renamed; the one before goes when it is there. When the run is written all of it goes.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.backbones.quiet import quiet_startup
from featurestore.catalogue import RUNS
from featurestore.digests import fingerprint, sha256_hex
from featurestore.errors import Conflict, InvalidInput
from featurestore.locks import hold, is_held
from featurestore.stores import durable
from featurestore.training.contract import UNREADABLE, Checkpoint

UNFINISHED = ".unfinished"
_VERSION = 1
_FACTS = "training.json"
_NAME = "feature_set"
_SUFFIX = ".checkpoint"
_DIGEST = 64
_STATE = "state"
_ARRAY = "array "  # before the name of an array, so that none is called as the state is
_LIBRARIES = ("tensorflow", "keras", "numpy", "pillow")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resumption:
    """What a training does with the checkpoints of an earlier one that was killed.

    Parameters
    ----------
    restart
        Remove them and begin anew.
    resumed
        Told after which epoch it goes on.
    damaged
        Told of each checkpoint that is passed over because its bytes are not those written.
    """

    restart: bool = False
    resumed: Callable[[int], None] | None = None
    damaged: Callable[[Path], None] | None = None


class CheckpointFolder:
    """The checkpoints of one fit: `Checkpoints`. One writer at a time."""

    def __init__(self, path: Path, *, resumption: Resumption = Resumption()) -> None:  # frozen
        self.path = path
        self._resumption = resumption

    def latest(self) -> Checkpoint | None:
        """Return the last one that is whole; a torn or damaged one is passed over.

        Raises
        ------
        OSError
            One cannot be read. It may be whole, and the next `save` would remove it.
        InvalidInput
            There is not enough memory to read one.
        """
        for path in sorted(self.path.glob(f"epoch-*{_SUFFIX}"), reverse=True):
            try:
                content = _checked(path.read_bytes())
                checkpoint = None if content is None else _parsed(content)
            except MemoryError as error:
                raise InvalidInput(
                    f"checkpoint {path}: not enough memory to read it",
                    next_step="run the same command with less --memory",
                ) from error
            if checkpoint is None:
                if self._resumption.damaged is not None:
                    self._resumption.damaged(path)
                continue
            if self._resumption.resumed is not None:
                self._resumption.resumed(checkpoint.epoch)
            return checkpoint
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one, durably, and then remove those before it.

        Raises
        ------
        OSError
            It cannot be written; the one before stays.
        """
        new = self.path / f"epoch-{checkpoint.epoch:06}{_SUFFIX}"
        content = _serialised(checkpoint)
        durable.replace_file(new, sha256_hex(content).encode() + b"\n", content)
        for path in self.path.iterdir():
            if path != new and (
                path.suffix == _SUFFIX or path.name.startswith(durable.TEMPORARY_PREFIX)
            ):
                path.unlink(missing_ok=True)


@contextmanager
def checkpoints_of(
    training: Mapping[str, object], *, cache: Path, resumption: Resumption
) -> Iterator[CheckpointFolder]:
    """Give the checkpoints of a training while it goes on; they go when the block ends well.

    Where the block raises before there is one, nothing stays of it either.

    Parameters
    ----------
    training
        JSON values: all that decides the fit, and nothing that does not (workers, memory, paths),
        but for ``feature_set``, a name for people. The versions of the libraries and the device
        are added.

    Raises
    ------
    Conflict
        Another process is at the same training.
    OSError
        The folder cannot be written.
    """
    with quiet_startup():
        from featurestore.backbones.network import device_name  # TensorFlow

    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    facts = {
        **training,
        "versions": versions,
        "device": device_name(),
        "checkpoint_version": _VERSION,
    }
    # Numbers as JSON writes them: a fingerprint takes no floats.
    deciding = {name: value for name, value in facts.items() if name != _NAME}
    key = fingerprint(json.dumps(deciding, sort_keys=True))[:32]
    folder = cache / RUNS / UNFINISHED / key
    lock = folder.with_suffix(".lock")
    with _held(lock):
        if resumption.restart:
            durable.remove(folder)
        if not folder.exists():
            folder.mkdir(parents=True)
            for parent in (folder.parent, folder.parent.parent, cache):
                durable.sync_directory(parent)
        durable.replace_file(folder / _FACTS, json.dumps(facts, indent=1, sort_keys=True).encode())
        try:
            yield CheckpointFolder(folder, resumption=resumption)
        except BaseException:
            if not any(folder.glob(f"*{_SUFFIX}")):
                durable.remove(folder)  # refused, or stopped in its first epoch: nothing to go on
            raise
        durable.remove(folder)


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A training that was killed, or is under way.

    Parameters
    ----------
    epoch
        The last one that there is a checkpoint of; 0 where there is none.
    modified
        When it was last written to, in seconds since 1970.
    lock
        Held by the process that is at it; whoever removes the folder holds it.
    path_taken, feature_set, started_from
        As of the run that it is to become; None where its description cannot be read.
    """

    path: Path
    epoch: int
    modified: float
    lock: Path
    path_taken: str | None = None
    feature_set: str | None = None
    started_from: str | None = None

    @property
    def under_way(self) -> bool:
        """Whether a living process is at it."""
        return is_held(self.lock)


def find_unfinished(cache: Path) -> list[Unfinished]:
    """Return the trainings of a cache that have not ended, by the time of the last checkpoint."""
    found = []
    for path in (cache / RUNS / UNFINISHED).glob("*"):
        if not path.is_dir():
            continue
        epochs, times = [0], [0.0]
        for file in path.glob("*"):
            try:
                times.append(file.stat().st_mtime)
            except FileNotFoundError:  # it has just been replaced
                continue
            if file.suffix == _SUFFIX and file.stem.removeprefix("epoch-").isdigit():
                epochs.append(int(file.stem.removeprefix("epoch-")))
        lock = path.with_suffix(".lock")
        found.append(Unfinished(path, max(epochs), max(times), lock, *_described(path / _FACTS)))
    return sorted(found, key=lambda each: (each.modified, each.path))


def _described(path: Path) -> tuple[str | None, ...]:
    """Return path, feature set and start of a training; it is for people, and may be damaged."""
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        facts = {}
    found = (facts.get(name) for name in ("path", "feature_set", "started_from"))
    return tuple(each if isinstance(each, str) else None for each in found)


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(lock, subject="the same training", since=now, once=True))
        except Conflict as error:
            raise Conflict(
                error.message,
                next_step="wait for that process to end, or train with another --seed",
            ) from error
        yield


def _serialised(checkpoint: Checkpoint) -> bytes:
    state = {"epoch": checkpoint.epoch, "state": checkpoint.state}
    arrays: dict[str, Any] = {f"{_ARRAY}{name}": array for name, array in checkpoint.arrays.items()}
    arrays[_STATE] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _checked(file: bytes) -> bytes | None:
    """Return what was written, or None where the bytes are not those of their digest."""
    digest, content = file[:_DIGEST], file[_DIGEST + 1 :]
    return content if sha256_hex(content).encode() == digest else None


def _parsed(content: bytes) -> Checkpoint | None:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as members:
            fields = json.loads(members[_STATE].tobytes())
            arrays = {
                name.removeprefix(_ARRAY): members[name] for name in members.files if name != _STATE
            }
        return Checkpoint(epoch=int(fields["epoch"]), arrays=arrays, state=fields["state"])
    except MemoryError:
        raise
    except UNREADABLE:
        return None
