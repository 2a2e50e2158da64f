"""Stores served from a real cache, for suites that read them over HTTP."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import shutil
from pathlib import Path

from featurestore.catalogue import Catalogue, Record, checksums_path, set_fingerprint
from featurestore.digests import sha256_hex
from featurestore.images import DECODER
from featurestore.recipe import Recipe
from featurestore.remote.catalogue import RemoteStore
from featurestore.remote.connection import Connection
from featurestore.remote.pacing import Pacing
from featurestore.remote.remote_features import Reading, open_reader
from featurestore.stores import SUFFIXES
from featurestore.stores.contract import StoreReader
from featurestore.testing.store_rows import file_bytes

_RECIPE = Recipe(
    backbone="tiny",
    weights_sha256="0" * 64,
    layer="pool",
    size=(16, 16),
    decoder=DECODER,
    preprocessing="none",
    precision="float32",
)
_MANIFEST = "1" * 64
_FINGERPRINT = set_fingerprint(_MANIFEST, _RECIPE)


class ServedStores:
    """Puts stores, however damaged, into a served cache as if they were committed there.

    Attributes
    ----------
    url
        Of the store that was opened last.
    """

    def __init__(self, cache: Path, url: str, *, pacing: Pacing | None = None) -> None:
        Catalogue(cache).create()
        self._cache = cache
        self._reading = Reading(
            connection=Connection(url, pacing=pacing),
            within=Connection(url, pacing=pacing),
            kept_bytes=2**20,
        )
        self._numbers = itertools.count()
        self.url = url

    def open(self, path: Path, *, store_format: str) -> StoreReader:
        """Copy a store to a name of its own, commit it as it is, and open it over HTTP."""
        found = RemoteStore(f"set{next(self._numbers)}/{_RECIPE.name}", _FINGERPRINT, store_format)
        store = self._cache / found.place
        store.parent.mkdir()
        if path.is_dir():
            shutil.copytree(path, store)
        else:
            shutil.copy(path, store)
        digests = {
            name: hashlib.sha256(content).hexdigest() for name, content in file_bytes(store).items()
        }
        self._commit(store, digests, found)
        self.url = f"{self._reading.connection.url}{found.url_path()}"
        return open_reader(found, digests, self._reading)

    def close(self) -> None:
        """Let go of connections."""
        self._reading.connection.close()
        self._reading.within.close()

    def _commit(self, store: Path, digests: dict[str, str], found: RemoteStore) -> None:
        lines = (
            f"{digest}  {store.name}{f'/{name}' if name else ''}\n"
            for name, digest in digests.items()
        )
        checksums = "".join(lines).encode()
        checksums_path(store).write_bytes(checksums)
        record = _record(store, found)
        record.path.write_bytes(
            dataclasses.replace(record, checksums_sha256=sha256_hex(checksums)).to_json()
        )


def _record(store: Path, found: RemoteStore) -> Record:
    assert store.suffix == SUFFIXES[found.store_format]
    return Record(
        name=found.name,
        store_format=found.store_format,
        store=store,
        sequence=1,
        fingerprint=found.fingerprint,
        recipe=_RECIPE,
        manifest_fingerprint=_MANIFEST,
        source_fingerprint=_MANIFEST,
        class_names=("cat", "dog"),
        rows={"train": 1},
        feature_shape=(1,),
        quarantine=(),
        provenance={"source": "nowhere", "weights": "none"},
        committed_at="2026-01-01T00:00:00+00:00",
        content_sha256={"train": "0" * 64},
        checksums_sha256="",
        stored_bytes=1,
    )
