"""What is known of an image: in memory, in committed sets, in the online cache."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from featurestore.catalogue import Record
from featurestore.embedding.known import KnownFeatures, Origin
from featurestore.errors import Conflict, IntegrityError, NotFound
from featurestore.online import Found, OnlineCache, Refusal
from featurestore.recipe import Recipe
from featurestore.service.contract import Answer

HOT_BYTES = 64 * 2**20
"""Bound of the answers that are kept in memory: 4,000 of VGG16's."""

_ANSWER_BYTES = 1024  # of an answer without its features: object, digest, key, reason
log = logging.getLogger("featurestore.service")


class HotAnswers:
    """The answers given last, by recipe fingerprint and digest, bounded in bytes.

    A feature depends on image and recipe alone, so an answer stays right whatever becomes of the
    set or the cache that it came from. One caller at a time.
    """

    def __init__(self, max_bytes: int = HOT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[tuple[str, bytes], Answer] = OrderedDict()

    def get(self, recipe: str, digest: bytes) -> Answer | None:
        """Return an answer that was kept."""
        answer = self._answers.get((recipe, digest))
        if answer is not None:
            self._answers.move_to_end((recipe, digest))
        return answer

    def put(self, recipe: str, digest: bytes, answer: Answer) -> None:
        """Keep an answer, and drop those used longest ago."""
        before = self._answers.pop((recipe, digest), None)
        if before is not None:
            self._bytes -= _size(before)
        self._answers[recipe, digest] = answer
        self._bytes += _size(answer)
        while self._bytes > self._max_bytes:
            _, dropped = self._answers.popitem(last=False)
            self._bytes -= _size(dropped)

    def __len__(self) -> int:
        return len(self._answers)


class ListsRecords(Protocol):
    """The part of `FindsSets` that is asked here."""

    def records(self) -> Sequence[Record]:
        """Return every committed version."""
        ...


class Lookup:
    """Committed sets of one recipe as they are now, and the online cache. Any thread may ask.

    Parameters
    ----------
    catalogue
        May answer with what was true a moment ago.
    records_now
        Reads the cache's records; asked where what `catalogue` says does not hold.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        catalogue: ListsRecords,
        records_now: Callable[[], Sequence[Record]],
        online: OnlineCache | None,
    ) -> None:
        self._recipe = recipe
        self._fingerprint = recipe.fingerprint
        self._catalogue = catalogue
        self._records_now = records_now
        self._online = online
        self._lock = threading.Lock()
        self._known: KnownFeatures | None = None
        self._seen: Sequence[Record] | None = None

    def find(self, digests: Sequence[bytes]) -> dict[bytes, tuple[Found, Origin]]:
        """Return what is known of digests (32 bytes each).

        The online cache is a memo: one that cannot be read is told in the log and knows nothing.

        Raises
        ------
        IntegrityError
            A committed set's bytes are damaged.
        """
        with self._lock:
            found = self._committed(digests)
        unknown = [digest for digest in digests if digest not in found]
        if self._online is not None and unknown:
            try:
                known = self._online.get(self._fingerprint, unknown)
            except (OSError, Conflict) as error:
                log.error("the online cache cannot be read: %s", error)
                known = {}
            found |= {digest: (each, "online cache") for digest, each in known.items()}
        return found

    def keep(self, found: dict[bytes, Found]) -> bool:
        """Put what was computed into the online cache; return whether it is there.

        An answer does not depend on it: a full disk is told in the log, and stops no client.
        """
        if self._online is None:
            return False
        try:
            self._online.put(self._fingerprint, found)
        except (OSError, Conflict) as error:
            log.error("the online cache cannot be written: %s", error)
            return False
        return True

    def records(self) -> list[Record]:
        """Return the committed sets of the recipe."""
        with self._lock:
            return self._open(self._catalogue.records()).records

    def close(self) -> None:
        """Let go of the stores; the next question opens them again."""
        with self._lock:
            self._close()

    def _committed(self, digests: Sequence[bytes]) -> dict[bytes, tuple[Found, Origin]]:
        known = self._open(self._catalogue.records())
        try:
            return known.committed(digests)
        except (IntegrityError, NotFound, OSError):
            # A set that was collected since looks like a damaged one.
            now = self._records_now()
            if _stores(now, self._recipe) == _stores(known.records, self._recipe):
                raise
            return self._open(now).committed(digests)

    def _open(self, records: Sequence[Record]) -> KnownFeatures:
        if self._known is not None and records is self._seen:
            return self._known
        if self._known is None or (
            _stores(records, self._recipe) != _stores(self._known.records, self._recipe)
        ):
            self._close()
            self._known = KnownFeatures(self._recipe, records=records, online=None)
        self._seen = records
        return self._known

    def _close(self) -> None:
        if self._known is not None:
            self._known.close()
        self._known = self._seen = None


def answer_of(digest: bytes, found: Found, origin: Origin) -> Answer:
    """Return an answer that may be kept and shared: its features are its own, and read-only."""
    if isinstance(found, Refusal):
        return Answer(digest.hex(), None, found.reason, origin)
    features = np.array(found)  # a row of a block would keep the whole block in memory
    features.setflags(write=False)
    return Answer(digest.hex(), features, None, origin)


def _stores(records: Sequence[Record], recipe: Recipe) -> set[tuple[object, ...]]:
    """Return what tells the committed sets of a recipe apart; quarantine may change in place."""
    return {
        (record.store, record.sequence, record.fingerprint, record.quarantine)
        for record in records
        if record.recipe.clean == recipe
    }


def _size(answer: Answer) -> int:
    features = answer.features
    return _ANSWER_BYTES + (0 if features is None else features.nbytes)
