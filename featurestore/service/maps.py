"""Maps of feature sets: made once, in the background, kept in the cache, held while they are used.

However many ask for a map, one process makes it, and one map is made at a time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import subprocess
import tempfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from featurestore.catalogue import Record
from featurestore.errors import IntegrityError, NotFound
from featurestore.service.map_files import DRAFT, POINTS, VECTORS, map_folder, read_array
from featurestore.service.map_rows import MapRows
from featurestore.service.map_worker import make_map_apart, read_said
from featurestore.service.projection import Layout

_log = logging.getLogger("featurestore.service")

_HELD = 4
_SEARCHES = 2
_TRY_AGAIN_S = 60.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far the making of a map is.

    Parameters
    ----------
    step
        ``waiting``, ``reading``, ``components``, ``layout``, ``placing``, ``ready`` or ``failed``.
    done
        Share of the step that is done, 0 to 1.
    reason
        Why it failed.
    """

    step: str
    done: float = 0.0
    reason: str | None = None


READY = Progress("ready", 1.0)


class MakesMaps(Protocol):
    """Starts the process that makes one map; `make_map_apart` is the one that is used."""

    def __call__(self, record: Record, folder: Path, layout: Layout) -> subprocess.Popen[str]:
        """Return the process, whose output `read_said` understands."""
        ...


@dataclasses.dataclass(eq=False)
class _Map:
    """What is held of one set."""

    record: Record
    folder: Path
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    progress: Progress = Progress("waiting")
    failed_at: float = 0.0
    queued: bool = False
    looked: bool = False
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rows: MapRows | None = None


class Maps:
    """The maps of one cache. Any thread may ask.

    Parameters
    ----------
    cache
        Where it cannot be written, maps are kept in a temporary folder and gone with the service.

    Attributes
    ----------
    searches
        Held by whoever looks through the vectors of a set: two at once.
    """

    def __init__(
        self,
        cache: Path,
        *,
        layout: Layout = Layout(),  # noqa: B008 -- frozen
        make: MakesMaps = make_map_apart,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.layout = layout
        self.searches = asyncio.Semaphore(_SEARCHES)
        self._cache = cache
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._held: OrderedDict[str, _Map] = OrderedDict()
        self._queue: deque[_Map] = deque()
        self._maker: threading.Thread | None = None
        self._child: subprocess.Popen[str] | None = None
        self._closed = False
        self._aside: tempfile.TemporaryDirectory[str] | None = None

    def look(self, record: Record) -> Progress:
        """Return how far a set's map is; it is begun where nobody has begun it."""
        held = self._hold(record)
        with held.lock:
            self._read(held)
            self._begin(held)
            return held.progress

    def points(self, record: Record) -> tuple[np.ndarray, bool] | None:
        """Return the points (N, 2), within -1 and 1, and whether they are the layout or a draft.

        None where there are none yet; `look` begins them.
        """
        arrays = self._hold(record).arrays
        for name in (POINTS, DRAFT):
            if (found := arrays.get(name)) is not None:
                return found, name == POINTS
        return None

    def vectors(self, record: Record) -> np.ndarray | None:
        """Return the vectors (N, channels), see `projection`; None where they are not made yet."""
        self.look(record)
        return self._hold(record).arrays.get(VECTORS)

    def rows(self, record: Record) -> MapRows:
        """Return what is known of a set's rows beside their features.

        Raises
        ------
        NotFound
            The set was removed since it was found.
        IntegrityError
            Its store is missing or damaged.
        """
        held = self._hold(record)
        with held.lock:
            if held.rows is None:
                try:
                    held.rows = MapRows.read(record)
                except IntegrityError as error:
                    if not record.path.exists():
                        raise NotFound(f"feature set {record.name} was removed") from error
                    raise
            return held.rows

    def close(self) -> None:
        """Stop making maps: what is written stays, the rest is made when it is next asked for."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            child, maker = self._child, self._maker
        if child is not None:
            child.kill()
        if maker is not None:
            maker.join()
        if self._aside is not None:
            self._held.clear()
            self._aside.cleanup()

    def _hold(self, record: Record) -> _Map:
        with self._lock:
            held = self._held.get(record.fingerprint)
            if held is None:
                held = _Map(record, self._folder(record))
                self._held[record.fingerprint] = held
                for key in [key for key, each in self._held.items() if not each.queued][:-_HELD]:
                    if key != record.fingerprint:
                        del self._held[key]
            self._held.move_to_end(record.fingerprint)
            return held

    def _folder(self, record: Record) -> Path:
        folder = map_folder(self._cache, record.fingerprint)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            if self._aside is None:
                self._aside = tempfile.TemporaryDirectory(prefix="featurestore-maps-")
            folder = map_folder(Path(self._aside.name), record.fingerprint)
        return folder

    def _read(self, held: _Map) -> None:
        """Take over what lies in the cache already, once."""
        if held.looked:
            return
        held.looked = True
        for name in (VECTORS, POINTS, DRAFT):
            if name == DRAFT and POINTS in held.arrays:
                break
            if (found := read_array(held.folder, name)) is not None:
                held.arrays[name] = found
        if {VECTORS, POINTS} <= held.arrays.keys():
            held.progress = READY

    def _begin(self, held: _Map) -> None:
        if held.queued or held.progress == READY:
            return
        if held.progress.step == "failed" and self._clock() - held.failed_at < _TRY_AGAIN_S:
            return
        with self._lock:
            if self._closed:
                return
            held.queued, held.progress = True, Progress("waiting")
            self._queue.append(held)
            if self._maker is None:
                maker = threading.Thread(target=self._make_all, name="maps", daemon=True)
                try:
                    maker.start()
                except RuntimeError as error:  # no thread is to be had
                    self._queue.remove(held)
                    self._fail(held, f"no thread can be started for it: {error}")
                else:
                    self._maker = maker

    def _make_all(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._maker = None
                    return
                held = self._queue.popleft()
            try:
                self._make_one(held)
            # The thread serves every map: none may end it.
            except Exception as error:
                _log.exception("the map of %s was not made", held.record.name)
                self._fail(held, f"{type(error).__name__}, of which the log has more")
            finally:
                with self._lock:
                    self._child = None

    def _make_one(self, held: _Map) -> None:
        try:
            with self._lock:
                if self._closed:
                    held.queued = False
                    return
                self._child = child = self._make(held.record, held.folder, self.layout)
        except OSError as error:
            self._fail(held, f"no process can be started for it: {error.strerror}")
            return
        try:
            with child:
                for said in read_said(child):
                    if "written" in said:
                        self._take(held, said["written"])
                    elif "failed" in said:
                        self._fail(held, said["failed"])
                    else:
                        held.progress = Progress(said["step"], said["done"])
        except (OSError, ValueError) as error:  # a killed child's last line may be torn
            self._fail(held, f"the process that makes the map was stopped: {error}")
        if {VECTORS, POINTS} <= held.arrays.keys():
            held.progress, held.queued = READY, False
        elif held.progress.step != "failed":
            self._fail(held, "the process that makes the map ended before it was whole")

    def _take(self, held: _Map, name: str) -> None:
        found = read_array(held.folder, name)
        if found is not None:
            held.arrays[name] = found

    def _fail(self, held: _Map, reason: str) -> None:
        held.failed_at = self._clock()
        held.progress, held.queued = Progress("failed", reason=reason), False
