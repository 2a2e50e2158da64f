"""What leaves a cache: superseded versions, the rest of killed commits, runs that are named."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from math import inf
from pathlib import Path

from featurestore.catalogue import (
    LOCKS,
    MAPS,
    PULL_STAGING,
    RUNS,
    STAGING,
    Catalogue,
    Record,
    lock_path,
    newest_versions,
    record_path,
    set_fingerprint,
)
from featurestore.embedding.commit import INCOMPLETE, remove_store, store_files
from featurestore.errors import Conflict, NotFound
from featurestore.locks import hold, is_held
from featurestore.stores import SUFFIXES, durable
from featurestore.training.checkpoints import UNFINISHED, Unfinished, find_unfinished
from featurestore.training.run_record import FINE_TUNE
from featurestore.training.runs import find_run_path, read_runs

# Writing a run takes less than a second and no lock: what has lain for an hour is nobody's.
_ABANDONED_S = 3600
_FORGOTTEN_S = 7 * 24 * 3600  # an embedding's staging is larger by far, and goes when asked for


@dataclasses.dataclass(frozen=True)
class Garbage:
    """One thing to remove, why, and its size; or, with `kept` set, why it stays.

    `lock` is that of the set it belonged to: whoever removes it holds that.
    """

    path: Path
    reason: str
    size_bytes: int
    kept: str | None = None
    lock: Path | None = None


@dataclasses.dataclass(frozen=True)
class _Used:
    """Which run was trained on which fingerprint; a run that cannot be read may need any.

    `streamed` names the fine-tuned runs on features that were never stored, by the fingerprint of
    the clean set that their images and weights are of.
    """

    by: dict[str, str]
    streamed: dict[str, str]
    unread: tuple[str, ...]

    def keeper(self, record: Record) -> str | None:
        if record.fingerprint in self.by:
            return f"run {self.by[record.fingerprint]} was trained on it"
        clean = set_fingerprint(record.manifest_fingerprint, record.recipe.clean)
        if clean in self.streamed:
            return f"run {self.streamed[clean]} was fine-tuned on its images"
        if self.unread:
            return f"a run that cannot be read may have been trained on it: {self.unread[0]}"
        return None


def find_garbage(
    cache: Path, *, staging: bool = False, clock: Callable[[], float] = time.time
) -> list[Garbage]:
    """List what `remove_garbage` would remove, and superseded versions that it keeps.

    A superseded version stays while a run was trained on it, or fine-tuned on images of it that
    were streamed, and every one while a run cannot be read. The staging of an unfinished embedding
    stays unless `staging` is set: it is what a resume goes on from. So do the checkpoints of a
    training, for a week. Nothing of a set that is being written is listed.
    """
    records = Catalogue(cache).records()
    current = {record.path for record in newest_versions(records)}
    used = _used_by_runs(cache, records)
    busy = {record.name for record in records if is_held(lock_path(cache, record.name))}
    found = [
        Garbage(
            record.store,
            f"superseded version of {record.name}",
            record.stored_bytes,
            kept=_keeper(record, used, busy),
            lock=lock_path(cache, record.name),
        )
        for record in records
        if record.path not in current
    ]
    found += _leftovers(cache)
    found += [
        Garbage(path, "run that was never finished, or half removed", _size(path))
        for path in sorted((cache / RUNS).glob(f"{durable.TEMPORARY_PREFIX}*"))
        if clock() - _modified(path) > _ABANDONED_S
    ]
    found += [
        _checkpoints(each)
        for each in find_unfinished(cache)
        if staging or clock() - each.modified > _FORGOTTEN_S
    ]
    gone = {record.path for record in records} & {
        record_path(item.path) for item in found if item.kept is None
    }
    named = {record.fingerprint for record in records if record.path not in gone}
    found += _maps(cache, of=named, clock=clock)
    if staging:
        found += _staging(cache)
    return found


def remove_garbage(cache: Path, garbage: list[Garbage]) -> int:
    """Remove what is not kept and return the bytes freed. A record goes before its store.

    Each thing is looked at again under its set's lock: what has become needed since it was listed
    stays, and so does what another process has begun to write.
    """
    freed = 0
    for item in garbage:
        if item.kept is not None:
            continue
        with ExitStack() as stack:
            if item.lock is not None:
                once = item.path.parent.name == UNFINISHED  # one for each training, not for a name
                try:
                    stack.enter_context(hold(item.lock, subject=str(item.path), once=once))
                except Conflict:
                    continue
            if item.path.name.endswith(tuple(SUFFIXES.values())):
                if not _still_garbage(cache, item.path):
                    continue
                remove_store(item.path)
            elif item.path.parent.name != STAGING or not _busy(cache):
                durable.remove(item.path)
            else:
                continue
            freed += item.size_bytes
    return freed


@dataclasses.dataclass(frozen=True)
class RemovedRun:
    """A run that was removed, or would be."""

    id: str
    path: Path
    size_bytes: int


def find_removals(wanted: Sequence[str], *, cache: Path) -> list[RemovedRun]:
    """Return the runs that ids or unique prefixes mean, each once; a damaged one is found too.

    Raises
    ------
    NotFound, InvalidInput
        One of them means no run, or several: then nothing is to be removed.
    """
    paths = dict.fromkeys(find_run_path(each, cache=cache) for each in wanted)
    return [RemovedRun(path.name, path, _size(path)) for path in paths]


def remove_runs(removals: Sequence[RemovedRun]) -> None:
    """Remove runs. Each vanishes in one step: a kill leaves it whole, or litter for `fs gc`."""
    for run in removals:
        hidden = durable.temporary_path(run.path)
        try:
            durable.replace(run.path, hidden)
        except FileNotFoundError as error:
            raise NotFound(f"run {run.id} is gone: another process has removed it") from error
        durable.remove(hidden)


def freed_versions(cache: Path, removals: Sequence[RemovedRun]) -> list[Record]:
    """Return the superseded versions that only these runs hold: `fs gc` may take them afterwards.

    Ask before the runs are removed.
    """
    records = Catalogue(cache).records()
    current = {record.path for record in newest_versions(records)}
    before = _used_by_runs(cache, records)
    after = _used_by_runs(cache, records, without=[run.id for run in removals])
    return [
        record
        for record in records
        if record.path not in current
        and before.keeper(record) is not None
        and after.keeper(record) is None
    ]


def _still_garbage(cache: Path, store: Path) -> bool:
    if not record_path(store).exists():
        return True
    records = Catalogue(cache).records()
    current = {record.store for record in newest_versions(records)}
    used = _used_by_runs(cache, records)
    return any(
        record.store == store and store not in current and used.keeper(record) is None
        for record in records
    )


def _keeper(record: Record, used: _Used, busy: set[str]) -> str | None:
    return "it is being written" if record.name in busy else used.keeper(record)


def _used_by_runs(
    cache: Path, records: Sequence[Record], *, without: Collection[str] = ()
) -> _Used:
    found = read_runs(cache, without=without)
    stored = {record.fingerprint for record in records}
    return _Used(
        {run.features.fingerprint: run.id for run in found.runs},
        {
            run.features.comparable: run.id
            for run in found.runs
            if run.path_taken == FINE_TUNE and run.features.fingerprint not in stored
        },
        tuple(problem.message for problem in found.problems),
    )


def _leftovers(cache: Path) -> list[Garbage]:
    """Find what killed commits left: stores without a record, and files without a store."""
    found = []
    for folder in sorted(cache.iterdir()) if cache.is_dir() else []:
        if folder.name.startswith(".") or folder.name == RUNS or not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if path.name.endswith(tuple(SUFFIXES.values())):
                store, torn = path, not record_path(path).exists()
            elif path.name.startswith(durable.TEMPORARY_PREFIX):
                store, torn = path, True
            else:
                store = path.with_suffix("")
                torn = path.suffix == ".sha256" and not store.exists()
            if not torn:
                continue
            name = re.sub(r"^\.tmp-\d+-[0-9a-f]+-", "", store.name).removeprefix(INCOMPLETE)
            lock = lock_path(cache, f"{folder.name}/{name.rpartition('-')[0]}")
            kept = "it is being written" if is_held(lock) else None
            found.append(
                Garbage(path, "store that was never committed", _size(path), kept=kept, lock=lock)
            )
    return found


def _staging(cache: Path) -> list[Garbage]:
    folders = sorted((cache / STAGING).glob("*"))
    busy = _busy(cache)
    return [
        Garbage(
            path,
            _of_staging(path),
            _size(path),
            kept="a set is being written" if busy else None,
        )
        for path in folders
    ]


def _of_staging(folder: Path) -> str:
    # A dataset may be called "pull": its staging ends in sixteen digits.
    pulled = folder.name.startswith(PULL_STAGING) and "--" in folder.name[len(PULL_STAGING) :]
    return "files of an unfinished pull" if pulled else "staging of an unfinished embedding"


def _maps(cache: Path, *, of: Collection[str], clock: Callable[[], float]) -> list[Garbage]:
    """Find the maps that a service made of feature sets which are gone, and unfinished files."""
    found = []
    for folder in sorted((cache / MAPS).glob("*")):
        if folder.name not in of:
            found.append(Garbage(folder, "map of a feature set that is gone", _size(folder)))
            continue
        found += [
            Garbage(path, "map that was never finished", _size(path))
            for path in sorted(folder.glob(f"{durable.TEMPORARY_PREFIX}*"))
            if clock() - _modified(path) > _ABANDONED_S
        ]
    return found


def _checkpoints(training: Unfinished) -> Garbage:
    return Garbage(
        training.path,
        f"checkpoint of a training that was stopped after epoch {training.epoch}",
        _size(training.path),
        kept="the training is under way" if training.under_way else None,
        lock=training.lock,
    )


def _busy(cache: Path) -> bool:
    return any(is_held(path) for path in (cache / LOCKS).glob("*.lock"))


def _modified(path: Path) -> float:
    """Return when a path was last changed; infinity where it is gone since it was listed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return inf


def _size(path: Path) -> int:
    """Return the bytes below a path; what is gone since it was listed takes none."""
    total = 0
    with suppress(FileNotFoundError):  # a folder, while it is gone through
        for file in store_files(path):
            with suppress(FileNotFoundError):
                total += file.stat().st_size
    return total
