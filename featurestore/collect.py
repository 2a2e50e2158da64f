"""Finding what a cache no longer needs: superseded versions and the rest of killed commits."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from featurestore.catalogue import RUNS, Catalogue, Record, lock_path
from featurestore.embedding.commit import INCOMPLETE, remove_store, store_files
from featurestore.locks import is_held
from featurestore.stores import SUFFIXES, durable
from featurestore.training.runs import list_runs

# Writing a run takes less than a second and no lock: what has lain for an hour is nobody's.
_ABANDONED_S = 3600


@dataclasses.dataclass(frozen=True)
class Garbage:
    """One thing to remove, why, and its size; or, with `kept` set, why it stays."""

    path: Path
    reason: str
    size_bytes: int
    kept: str | None = None


def find_garbage(
    cache: Path, *, staging: bool = False, clock: Callable[[], float] = time.time
) -> list[Garbage]:
    """List what `remove_garbage` would remove, and superseded versions that it keeps.

    A superseded version stays while a run was trained on it. The staging of an unfinished
    embedding stays unless `staging` is set: it is what a resume goes on from. Nothing of a set
    that is being written is listed.
    """
    catalogue = Catalogue(cache)
    records = catalogue.records()
    current = {record.path for record in catalogue.current()}
    used = _used_by_runs(cache)
    busy = {record.name for record in records if is_held(lock_path(cache, record.name))}
    found = [
        Garbage(
            record.store,
            f"superseded version of {record.name}",
            record.stored_bytes,
            kept=_keeper(record, used, busy),
        )
        for record in records
        if record.path not in current
    ]
    found += _stray_stores(cache, {record.store for record in records})
    found += [
        Garbage(path, "run that was never finished", _size(path))
        for path in sorted((cache / RUNS).glob(f"{durable.TEMPORARY_PREFIX}*"))
        if clock() - path.stat().st_mtime > _ABANDONED_S
    ]
    if staging:
        found += _staging(cache)
    return found


def remove_garbage(garbage: list[Garbage]) -> int:
    """Remove what is not kept and return the bytes freed. A record goes before its store."""
    freed = 0
    for item in garbage:
        if item.kept is not None:
            continue
        if item.path.name.endswith(tuple(SUFFIXES.values())):
            remove_store(item.path)
        else:
            durable.remove(item.path)
        freed += item.size_bytes
    return freed


def _keeper(record: Record, used: dict[str, str], busy: set[str]) -> str | None:
    if record.name in busy:
        return "it is being written"
    if record.fingerprint in used:
        return f"run {used[record.fingerprint]} was trained on it"
    return None


def _used_by_runs(cache: Path) -> dict[str, str]:
    return {run.features.fingerprint: run.id for run in list_runs(cache)}


def _stray_stores(cache: Path, stores: set[Path]) -> list[Garbage]:
    found = []
    for folder in sorted(cache.iterdir()) if cache.is_dir() else []:
        if folder.name.startswith(".") or folder.name == RUNS or not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if not path.name.endswith(tuple(SUFFIXES.values())) or path in stores:
                continue
            name = path.name.removeprefix(INCOMPLETE).rpartition("-")[0]
            held = is_held(lock_path(cache, f"{folder.name}/{name}"))
            found.append(
                Garbage(
                    path,
                    "store that was never committed",
                    _size(path),
                    kept="it is being written" if held else None,
                )
            )
    return found


def _staging(cache: Path) -> list[Garbage]:
    folders = sorted((cache / ".staging").glob("*"))
    busy = any(is_held(path) for path in (cache / ".locks").glob("*.lock"))
    return [
        Garbage(
            path,
            "staging of an unfinished embedding",
            _size(path),
            kept="an embedding is under way" if busy else None,
        )
        for path in folders
    ]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in store_files(path))
