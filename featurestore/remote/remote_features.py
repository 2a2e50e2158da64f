"""Feature sets that a service has, read over the network as if they lay here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from featurestore.catalogue import Record
from featurestore.errors import IntegrityError, InvalidInput, NotFound
from featurestore.features import FeatureSet
from featurestore.remote.catalogue import (
    RemoteStore,
    fetch_checksums,
    fetch_record,
    find_set,
)
from featurestore.remote.connection import Connection
from featurestore.remote.remote_store import RemoteFiles
from featurestore.stores.contract import StoreReader

# A set may be replaced between the requests that tell of it.
_ATTEMPTS = 3


class RemoteFeatureSet(FeatureSet):
    """One version of a feature set at a service: the same rows, labels, ids and fingerprint.

    Rows are downloaded as they are read, several chunks at a time, and each is held to its
    checksum. `load` of a split that fits the memory allowed to a training downloads it once; what
    does not fit is read again in every epoch, but for the pieces that `kept_bytes` of
    `RemoteCache` keeps in memory. For more than that: `RemoteCache.pull`.

    A set that is replaced at the service while it is open goes on where its version is still
    served, and raises `NotFound` where it is not.
    """

    def __init__(self, record: Record, store: StoreReader, *, url: str) -> None:
        super().__init__(record, store)
        self._url = url

    @property
    def url(self) -> str:
        """Where the store is served."""
        return self._url

    @property
    def path(self) -> Path:
        """There is none.

        Raises
        ------
        InvalidInput
            Always.
        """
        raise InvalidInput(
            f"feature set {self.name} lies at {self.url}, and in no folder of this machine",
            next_step=f"fs pull {self.url.partition('/v1/')[0]} {self.name}",
        )

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]} at {self.url}>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How stores of one service are read.

    Parameters
    ----------
    within
        Another connection to the same service, for HDF5's callbacks alone: see
        `featurestore.stores.hdf5_ranges`.
    kept_bytes
        Of what was read from each open set, as downloaded, that stays in memory.
    """

    connection: Connection
    within: Connection
    kept_bytes: int


def open_remote(wanted: str, reading: Reading) -> RemoteFeatureSet:
    """Open what `wanted` means at a service: a name, or the start of one or of a fingerprint.

    Raises
    ------
    NotFound
        The service has no such set.
    InvalidInput
        Several sets are meant; or what `Connection.ask` raises it for.
    IntegrityError
        Record, checksum list or store are damaged.
    """
    for left in reversed(range(_ATTEMPTS)):
        store = find_set(reading.connection, wanted)
        try:
            record = fetch_record(reading.connection, store)
            _, listed = fetch_checksums(reading.connection, record)
            reader = open_reader(store, {file.path: file.sha256 for file in listed}, reading)
        except (NotFound, IntegrityError):
            if not left:
                raise
            continue
        url = f"{reading.connection.url}{store.url_path()}"
        found = reader.attributes.get("fingerprint")
        if found != record.fingerprint:
            reader.close()
            raise IntegrityError(
                f"{url}: expected fingerprint {record.fingerprint}, found {found}",
                next_step="on the machine that serves it: fs verify",
            )
        return RemoteFeatureSet(record, reader, url=url)
    raise AssertionError("the last attempt returns or raises")


def open_reader(store: RemoteStore, digests: Mapping[str, str], reading: Reading) -> StoreReader:
    """Open a store of which the files and their SHA-256 are known, by their paths in it.

    Raises
    ------
    NotFound
        The service has it no more.
    IntegrityError, Conflict
        As `featurestore.stores.open_store`.
    """
    path = store.url_path()
    if store.store_format == "zarr":
        from featurestore.stores.zarr_store import ZarrReader

        files = RemoteFiles(
            reading.connection, path, digests=digests, kept_bytes=reading.kept_bytes
        )
        return ZarrReader(files)
    from featurestore.stores.hdf5_ranges import Hdf5Ranges
    from featurestore.stores.hdf5_reader import Hdf5Reader

    # Pieces of HDF5 are kept as blocks instead, of which those used longest ago make room.
    ahead, within = (
        RemoteFiles(connection, path, digests=digests, kept_bytes=0)
        for connection in (reading.connection, reading.within)
    )
    return Hdf5Reader(Hdf5Ranges(ahead, within=within, kept_bytes=reading.kept_bytes))
