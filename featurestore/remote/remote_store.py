"""The files of one version of a store that a service has, behind the verbs of local ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

from featurestore.errors import Conflict, NotFound
from featurestore.remote.connection import Ask, Connection, Reply, quoted

KEPT_BYTES = 256 * 2**20
# Enough to keep a service with two cores busy, and a line with a long way.
_READS_AT_ONCE = 8
_SIZES_AT_ONCE = 16


class RemoteFiles:
    """A store's files at a service; see `featurestore.stores.files.StoreFiles`.

    What is read first stays in memory, up to a bound, and is not asked for again: an epoch over a
    split that is larger then asks for the rest only. Nothing is dropped for something newer, as the
    next epoch would have to ask for it all the same.

    Every answer is held to the digest in the store's checksum list, which the service sends as the
    file's ETag. So no bytes of another version are taken for this one's.

    Parameters
    ----------
    path
        Of the store at the service, quoted.
    digests
        SHA-256 of every file, by its path in the store.
    kept_bytes
        Of files and pieces of them that stay in memory; 0 keeps none.
    """

    def __init__(
        self,
        connection: Connection,
        path: str,
        *,
        digests: Mapping[str, str],
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._connection = connection
        self._path = path
        self._digests = MappingProxyType(dict(digests))
        self._kept: dict[tuple[str, range | None], bytes] = {}
        # Threads may keep a piece each too many: the bound is not exact, and needs no lock.
        self._left_bytes = kept_bytes

    @property
    def place(self) -> str:
        """The store's URL."""
        return f"{self._connection.url}{self._path}"

    @property
    def remedy(self) -> str:
        """To check the store where it lies."""
        return "open it again; if that does not help: fs verify, on the machine that serves it"

    @property
    def reads_at_once(self) -> int:
        """More than decode at once, as each waits for its answer."""
        return _READS_AT_ONCE

    def read(self, name: str) -> bytes:
        """Return a whole file."""
        return self._read(name, None)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return a piece of a file."""
        return self._read(name, range(start, start + length))

    def read_tail(self, name: str, length: int) -> bytes:
        """Return the last bytes of a file; asks for its size first."""
        size = self._size(name)
        return self._read(name, range(max(0, size - length), size))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file; asks for each."""
        with ThreadPoolExecutor(_SIZES_AT_ONCE) as pool:
            return dict(zip(self._digests, pool.map(self._size, self._digests), strict=True))

    def _read(self, name: str, at: range | None) -> bytes:
        kept = self._kept.get((name, at))
        if kept is not None:
            return kept
        path, etag = self._path_of(name), self._etag(name)
        try:
            if at is None:
                reply = self._connection.ask(Ask(path=path))
                self._hold_to(etag, reply)
                found = reply.body
            else:
                found = self._connection.get_range(path, at, etag=etag)
        except NotFound as error:
            raise self._replaced() from error
        except Conflict as error:
            # The service may as well have too much to do.
            self._size(name)
            raise error
        if len(found) <= self._left_bytes:
            self._left_bytes -= len(found)
            self._kept[name, at] = found
        return found

    def _size(self, name: str) -> int:
        try:
            reply = self._connection.ask(Ask(path=self._path_of(name), method="HEAD"))
        except NotFound as error:
            raise self._replaced() from error
        self._hold_to(self._etag(name), reply)
        text = reply.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,18}", text):
            raise self._connection.no_service(f"it does not tell the size of {self._path_of(name)}")
        return int(text)

    def _etag(self, name: str) -> str:
        if name not in self._digests:
            raise FileNotFoundError(f"the checksum list of {self.place} does not name {name}")
        return f'"{self._digests[name]}"'

    def _path_of(self, name: str) -> str:
        return self._path + quoted(*name.split("/")) if name else self._path

    def _hold_to(self, etag: str, reply: Reply) -> None:
        # A proxy may leave it out; what the bytes are is then known from the checksums in them.
        if reply.headers.get("ETag", etag) != etag:
            raise self._replaced()

    def _replaced(self) -> NotFound:
        return NotFound(
            f"{self.place} is not the store any more that was opened: it was replaced or collected",
            next_step="open the feature set again",
        )
