"""Features on their way into a store: one file per unit of work, whole or not there.

A shard is one file, little-endian throughout::

    magic      8 bytes   b"fsshard1"
    length     8 bytes   of the header, unsigned
    header     JSON      {"dtype", "feature_shape", "quarantined", "rows"}
    digests    rows * 32 SHA-256 of each row's image bytes
    checksum  32 bytes   SHA-256 of all the above
    features   rows * row size, C order
    checksum  32 bytes   SHA-256 of the features

so that the digests of a thousand shards are known without reading their features. Staging is
private to a cache and short-lived; another version of this package throws foreign shards away.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import IntegrityError
from featurestore.stores import durable
from featurestore.stores.ledger import DIGEST_BYTES

_MAGIC = b"fsshard1"
_SHARD_NAME = re.compile(r"[0-9a-f]{32}\.shard")
_CHECKSUM_BYTES = 32
# A header lists at most one unit's quarantined images; anything longer is not a header.
_HEADER_LIMIT = 1 << 24


@dataclass(frozen=True)
class StagedShard:
    """One whole unit of work.

    Parameters
    ----------
    digests
        (rows, 32), SHA-256 of the image bytes of each row.
    quarantined
        Reason by SHA-256 (hexadecimal) of the images of the unit that have no row.
    """

    path: Path
    digests: NDArray[np.uint8]
    quarantined: Mapping[str, str]
    feature_shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    features_offset: int

    @property
    def rows(self) -> int:
        """Rows in the shard."""
        return len(self.digests)

    @property
    def features_bytes(self) -> int:
        """Size of the features."""
        return self.rows * prod(self.feature_shape) * self.dtype.itemsize

    def read(self) -> NDArray[np.generic]:
        """Return the features (rows, *feature_shape), every byte of them checked.

        Raises
        ------
        IntegrityError
            The file changed since it was listed, or a bit flipped.
        """
        features = np.empty((self.rows, *self.feature_shape), self.dtype)
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(self.features_offset)
            count = _read_into(stream, _as_bytes(features))
            checksum = stream.read(_CHECKSUM_BYTES)
        if count != self.features_bytes or _sha256(features) != checksum:
            raise IntegrityError(
                f"staged shard {self.path}: features do not match their SHA-256",
                next_step=f"delete {self.path} and embed again: {self.rows} rows are recomputed",
            )
        return features


class Staging:
    """The shards of one feature set under way, in a directory of their own.

    Any number of processes may `put` at once. `shards` with `remove_leftovers` and `clear` belong
    to the one that holds the feature set's lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(
        self,
        *,
        digests: NDArray[np.uint8],
        features: NDArray[np.generic],
        quarantined: Mapping[str, str],
    ) -> Path:
        """Stage one unit; it is whole and on disk when this returns its path.

        The name follows from the digests, so a unit that runs twice is one file.

        Parameters
        ----------
        digests
            (n, 32), in the order of `features`.
        features
            (n, *feature_shape).
        quarantined
            Reason by SHA-256 (hexadecimal) of the unit's images without features.
        """
        if digests.dtype != np.uint8 or digests.shape != (len(features), DIGEST_BYTES):
            raise ValueError(
                f"{len(features)} rows need as many uint8 digests of {DIGEST_BYTES} bytes, "
                f"not {digests.dtype} {digests.shape}"
            )
        little = np.ascontiguousarray(features, features.dtype.newbyteorder("<"))
        header = json.dumps(
            {
                "dtype": features.dtype.name,
                "feature_shape": features.shape[1:],
                "quarantined": dict(quarantined),
                "rows": len(features),
            },
            sort_keys=True,
        ).encode()
        listing = _MAGIC + len(header).to_bytes(8, "little") + header + digests.tobytes()
        name = hashlib.sha256(digests.tobytes() + "".join(sorted(quarantined)).encode())
        path = self.path / f"{name.hexdigest()[:32]}.shard"
        self._make_directory()
        durable.replace_file(
            path,
            listing,
            hashlib.sha256(listing).digest(),
            _as_bytes(little),
            _sha256(little),
        )
        return path

    def shards(self, *, remove_leftovers: bool = True) -> list[StagedShard]:
        """Return every whole shard, in the order of their names; features stay unread.

        What a killed writer left, or a disk spoilt, is no shard: its rows count as not computed.

        Parameters
        ----------
        remove_leftovers
            Delete unfinished and torn files; False without the lock, where another process may
            still be writing them.
        """
        found = []
        for path in sorted(self._own_files()):
            try:
                shard = _open_shard(path) if _SHARD_NAME.fullmatch(path.name) else None
            except FileNotFoundError:
                continue  # without the lock: cleared by its owner
            if shard is not None:
                found.append(shard)
            elif remove_leftovers:
                durable.remove(path)
        return found

    def adopt(self, other: Staging) -> None:
        """Take in another staging's shards too, which it keeps.

        No lock of `other` is needed. A shard that its owner clears meanwhile, or whose bytes are
        not those of its checksum, is left out.
        """
        for shard in other.shards(remove_leftovers=False):
            target = self.path / shard.path.name
            if target.exists():
                continue
            try:
                features = shard.read()
                self._make_directory()
                try:
                    os.link(shard.path, target)  # a shard is never changed, only removed
                except OSError:  # gone, or a file system without links
                    self.put(
                        digests=shard.digests, features=features, quarantined=shard.quarantined
                    )
            except (FileNotFoundError, IntegrityError):
                continue

    def clear(self) -> None:
        """Remove all shards, and the directory unless something else is in it."""
        for path in self._own_files():
            durable.remove(path)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    def _own_files(self) -> list[Path]:
        try:
            paths = list(self.path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [
            path
            for path in paths
            if _SHARD_NAME.fullmatch(path.name) or path.name.startswith(durable.TEMPORARY_PREFIX)
        ]

    def _make_directory(self) -> None:
        absent = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        for path in absent:
            durable.sync_directory(path.parent)


def _open_shard(path: Path) -> StagedShard | None:
    """Return a shard if its listing is intact and its size right, else None."""
    with path.open("rb") as stream:
        prefix = stream.read(len(_MAGIC) + 8)
        header_bytes = int.from_bytes(prefix[len(_MAGIC) :], "little")
        if not prefix.startswith(_MAGIC) or header_bytes > _HEADER_LIMIT:
            return None
        header_text = stream.read(header_bytes)
        try:
            header = json.loads(header_text)
            rows = int(header["rows"])
            digests_text = stream.read(rows * DIGEST_BYTES)
        except (ValueError, KeyError, TypeError):
            return None
        listing = prefix + header_text + digests_text
        if stream.read(_CHECKSUM_BYTES) != hashlib.sha256(listing).digest():
            return None
        shard = StagedShard(
            path=path,
            digests=np.frombuffer(digests_text, np.uint8).reshape(rows, DIGEST_BYTES),
            quarantined=header["quarantined"],
            feature_shape=tuple(header["feature_shape"]),
            dtype=np.dtype(header["dtype"]),
            features_offset=stream.tell(),
        )
        size = shard.features_offset + shard.features_bytes + _CHECKSUM_BYTES
        return shard if stream.seek(0, 2) == size else None


def _as_bytes(features: NDArray[np.generic]) -> memoryview:
    return features.reshape(-1).view(np.uint8).data


def _sha256(features: NDArray[np.generic]) -> bytes:
    return hashlib.sha256(_as_bytes(features)).digest()


def _read_into(stream: FileIO, target: memoryview) -> int:
    count = 0
    while read := stream.readinto(target[count:]):
        count += read
    return count
