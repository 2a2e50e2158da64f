"""The catalogue of a cache, read again only where something in its folders has changed."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from featurestore.catalogue import RUNS, Catalogue, Record, newest_versions
from featurestore.errors import (
    Conflict,
    FeatureStoreError,
    IntegrityError,
    InvalidInput,
    NotFound,
)
from featurestore.names import nfc
from featurestore.service.contract import Unavailable
from featurestore.service.summaries import require_showable, require_showable_run
from featurestore.stores import SUFFIXES
from featurestore.training.runs import RECORD_NAME, Run, choose_run, load_run

FRESH_S = 0.25
"""An answer may be this old. Names that are not found are looked for in the folders at once."""

_REMEMBERED = 1024  # names that were asked for, so that asking again costs a look-up
_PREFIX_LENGTH = 4
_RECORDS = tuple(f"{suffix}.json" for suffix in SUFFIXES.values())
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_log = logging.getLogger("featurestore.service")

T = TypeVar("T")
Signature = tuple[int, ...]


def read_record(path: Path) -> Record:
    """Read one record file, which may hold anything.

    Raises
    ------
    FileNotFoundError
        There is none.
    Conflict, IntegrityError
        It is a newer version's, or no record that can be used.
    """
    try:
        record = Record.read(path)
        require_showable(record)
    except (FileNotFoundError, Conflict, IntegrityError):
        raise
    except Exception as error:  # of one record: it must not hide the others
        raise IntegrityError(
            f"{path} is not a feature set record: {error!r}",
            next_step=f"remove {path} and embed the dataset again",
        ) from error
    return record


def file_signature(path: Path | str) -> Signature | None:
    """Return what tells one regular file at `path` from the next; None where there is none.

    Records are replaced, never written in place, so a new one is another file.
    """
    try:
        found = os.lstat(path)
    except ValueError:  # no name in a file system
        return None
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if not stat.S_ISREG(found.st_mode):
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


class LiveCatalogue:
    """See `FindsSets`."""

    def __init__(self, cache: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._sets = _Live(lambda old: _read_sets(cache, old), clock=clock)
        self._runs = _Live(lambda old: _read_runs(cache, old), clock=clock)

    def current(self) -> Sequence[Record]:
        """See `FindsSets.current`."""
        return self._sets.now().newest

    def records(self) -> Sequence[Record]:
        """See `FindsSets.records`."""
        return self._sets.now().all

    def problems(self) -> Sequence[FeatureStoreError]:
        """See `FindsSets.problems`."""
        return self._sets.now().read.problems

    def find(self, wanted: str) -> Record:
        """See `FindsSets.find`."""
        try:
            return self._sets.now().find(wanted)
        except (NotFound, Conflict, IntegrityError):
            return self._sets.now(at_once=True).find(wanted)

    def of_recipe(self, wanted: str) -> Record:
        """See `FindsSets.of_recipe`."""
        try:
            return self._sets.now().of_recipe(wanted)
        except NotFound:
            return self._sets.now(at_once=True).of_recipe(wanted)

    def runs(self) -> Sequence[Run]:
        """See `FindsSets.runs`."""
        return self._runs.now().newest_first

    def run_problems(self) -> Sequence[FeatureStoreError]:
        """See `FindsSets.run_problems`."""
        return self._runs.now().read.problems

    def run(self, wanted: str) -> Run:
        """See `FindsSets.run`."""
        try:
            return self._runs.now().find(wanted)
        except (NotFound, Conflict, IntegrityError):
            return self._runs.now(at_once=True).find(wanted)


class _Live(Generic[T]):
    """A value that is renewed when it is asked for and was last held to the disk too long ago.

    `renew` is given the last value and returns it, or a new one. One thread renews; the others are
    given the last value meanwhile.
    """

    def __init__(self, renew: Callable[[T | None], T], *, clock: Callable[[], float]) -> None:
        self._renew, self._clock = renew, clock
        self._lock = threading.Lock()
        self._value: T | None = None
        self._renewed = float("-inf")

    def now(self, *, at_once: bool = False) -> T:
        value = self._value
        if value is not None and not at_once and self._clock() - self._renewed < FRESH_S:
            return value
        if not self._lock.acquire(blocking=value is None or at_once):
            assert value is not None
            return value
        try:
            began = self._clock()
            self._value = renewed = self._renew(self._value)
            self._renewed = began
            return renewed
        finally:
            self._lock.release()


@dataclasses.dataclass(frozen=True)
class _Read(Generic[T]):
    """What the files of one kind held when each was last read, by path."""

    signatures: Mapping[Path, Signature | None]
    found: Mapping[Path, T | FeatureStoreError]

    def is_as(self, signatures: Mapping[Path, Signature | None]) -> bool:
        """Whether all that there is was read, and is as it was."""
        return self.signatures == signatures and not self.problems

    @property
    def problems(self) -> list[FeatureStoreError]:
        return [each for each in self.found.values() if isinstance(each, FeatureStoreError)]

    @property
    def good(self) -> list[T]:
        return [each for each in self.found.values() if not isinstance(each, FeatureStoreError)]


def _reread(
    signatures: Mapping[Path, Signature | None],
    old: _Read[T] | None,
    read: Callable[[Path], T],
) -> _Read[T]:
    """Read what has changed, and what could not be read: it may have been for want of memory."""
    found: dict[Path, T | FeatureStoreError] = {}
    for path, signature in signatures.items():
        known = None if old is None else old.found.get(path)
        unchanged = old is not None and old.signatures.get(path) == signature
        if known is not None and unchanged and not isinstance(known, FeatureStoreError):
            found[path] = known
            continue
        try:
            found[path] = read(path)
        except FileNotFoundError:
            continue  # removed since the folder was listed
        except FeatureStoreError as error:
            if str(error) != str(known):
                _log.warning("%s", error)
            found[path] = error
    return _Read({path: signatures[path] for path in found}, found)


class _Sets(Catalogue):
    """The feature sets as they were at one time."""

    def __init__(self, root: Path, read: _Read[Record]) -> None:
        super().__init__(root)
        self.read = read
        self.all: Sequence[Record] = sorted(
            read.good, key=lambda record: (record.name, -record.sequence)
        )
        self.newest: Sequence[Record] = newest_versions(list(self.all))
        self._named: dict[str, Record] = {}
        self._of_recipe: dict[str, Record] = {}

    def _read(self) -> tuple[list[Record], list[FeatureStoreError]]:
        return list(self.all), self.read.problems

    def find(self, wanted: str, *, with_views: bool = False) -> Record:
        if with_views:
            return super().find(wanted, with_views=True)
        found = self._named.get(wanted)
        if found is None:
            found = super().find(wanted)
            _remember(self._named, wanted, found)
        return found

    def of_recipe(self, wanted: str) -> Record:
        found = self._of_recipe.get(wanted)
        if found is None:
            found = _newest_of_recipe(wanted, self.all)
            _remember(self._of_recipe, wanted, found)
        return found


@dataclasses.dataclass(frozen=True)
class _Runs:
    """The runs as they were at one time."""

    cache: Path
    read: _Read[Run]
    newest_first: Sequence[Run]

    def find(self, wanted: str) -> Run:
        names = [path.name for path in self.read.found]
        found = self.read.found[self.cache / RUNS / choose_run(wanted, names, cache=self.cache)]
        if isinstance(found, FeatureStoreError):
            raise found
        return found


def _require_cache(cache: Path) -> None:
    """Raise Unavailable where no cache is: one whose disk went away holds not nothing."""
    if not cache.is_dir():
        raise Unavailable(f"cache {cache} is gone")


def _read_sets(cache: Path, old: _Sets | None) -> _Sets:
    _require_cache(cache)
    Catalogue(cache).check_version()
    signatures = dict(_set_signatures(cache))
    if old is not None and old.read.is_as(signatures):
        return old
    return _Sets(cache, _reread(signatures, old.read if old else None, read_record))


def _set_signatures(cache: Path) -> Iterator[tuple[Path, Signature | None]]:
    for folder in _subfolders(cache):
        if folder.name == RUNS:
            continue
        for entry in _entries(folder):
            if entry.name.endswith(_RECORDS) and not entry.name.startswith("."):
                path = Path(entry.path)
                signature = file_signature(path)
                if signature is not None:
                    yield path, signature


def _read_runs(cache: Path, old: _Runs | None) -> _Runs:
    _require_cache(cache)
    signatures = {
        folder: file_signature(folder / RECORD_NAME) for folder in _subfolders(cache / RUNS)
    }
    if old is not None and old.read.is_as(signatures):
        return old
    read = _reread(signatures, old.read if old else None, _read_run)
    runs = sorted(read.good, key=lambda run: (run.created, run.id), reverse=True)
    return _Runs(cache, read, runs)


def _read_run(path: Path) -> Run:
    try:
        run = load_run(path)
        require_showable_run(run)
    except NotFound as error:
        if not path.exists():
            raise FileNotFoundError(path) from error
        raise IntegrityError(error.message, next_step=f"fs rm {path.name}") from error
    except (Conflict, IntegrityError):
        raise
    except Exception as error:  # of one run: it must not hide the others
        raise IntegrityError(
            f"{path / RECORD_NAME} is not the record of a run: {error!r}",
            next_step=f"fs rm {path.name}",
        ) from error
    return run


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, by name."""
    return [
        Path(entry.path)
        for entry in _entries(folder)
        if not entry.name.startswith(".") and entry.is_dir()
    ]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, by name; nothing where there is none, or none any more."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _newest_of_recipe(wanted: str, records: Sequence[Record]) -> Record:
    """See `FindsSets.of_recipe`."""
    wanted = nfc(wanted)
    named = [(record, _names_of_recipe(record)) for record in records]
    matching = [record for record, names in named if wanted in names]
    if not matching and wanted:
        matching = [
            record for record, names in named if any(name.startswith(wanted) for name in names)
        ]
    if not matching and len(wanted) >= _PREFIX_LENGTH:
        start = wanted.lower()
        matching = [r for r in records if r.recipe.clean.fingerprint.startswith(start)]
    recipes = {record.recipe.clean.fingerprint: record.recipe.clean.name for record in matching}
    if len(recipes) > 1:
        listed = ", ".join(f"{recipes[each]} ({each[:8]})" for each in sorted(recipes)[:8])
        raise InvalidInput(
            f"{wanted!r} means {len(recipes)} recipes: {listed}",
            next_step="name one of them by the start of its fingerprint",
        )
    if not matching:
        held = ", ".join(sorted({record.recipe.clean.name for record in records})[:8])
        raise NotFound(
            f"no recipe {wanted!r}: committed are {held or 'none yet'}",
            next_step="fs ls" if records else "fs embed DATASET",
        )
    (fingerprint,) = recipes
    same = (record for record in records if record.recipe.clean.fingerprint == fingerprint)
    return max(same, key=lambda record: record.sequence)


def _names_of_recipe(record: Record) -> tuple[str, ...]:
    return (record.recipe.clean.name, record.recipe.name, record.name)


def _remember(names: dict[str, Record], wanted: str, record: Record) -> None:
    if len(names) < _REMEMBERED:
        names[wanted] = record
