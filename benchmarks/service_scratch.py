"""The cache that benchmarks/service.py serves, and the images that it is asked about.

A few hundred photographs are embedded by `fs embed`. The set that is served has more images than
the service keeps answers of in memory, else nothing but memory would be measured: copies of
photographs, each with bytes of its own, whose rows are those few hundred over and over. Neither the
service nor the store can tell.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from commands import embed_reference, run_json
from embed import take
from PIL import Image

from featurestore.catalogue import Catalogue, Record
from featurestore.digests import sha256_file
from featurestore.embedding.embed import embed
from featurestore.embedding.settings import EmbedSettings
from featurestore.features import open_record
from featurestore.online import ONLINE, OnlineCache
from featurestore.recipe import Recipe
from featurestore.service.lookup import HOT_BYTES
from featurestore.state import StateFile

_ANSWER_BYTES = 1024  # about what an answer takes in memory beside its features
_MARGIN = 1.15
_FORMATS = ("zarr", "hdf5")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scratch:
    """What was prepared.

    Parameters
    ----------
    photographs
        Those that were embedded by the network.
    stored, online
        Images whose features are in the set, and in the online cache alone.
    records
        The set's, by store format.
    """

    cache: Path
    recipe: Recipe
    photographs: Sequence[Path]
    stored: Sequence[Path]
    online: Sequence[Path]
    records: dict[str, Record]

    def files(self, store_format: str) -> list[tuple[str, str, int]]:
        """Return the URL's path of each file of a store, its path below the cache, and its size."""
        record = self.records[store_format]
        store = record.store
        paths = [store] if store.is_file() else sorted(p for p in store.rglob("*") if p.is_file())
        listed = []
        for path in paths:
            below = path.relative_to(store.parent).as_posix()
            url = f"/v1/feature-sets/{record.name}/store/{below}"
            target = path.relative_to(self.cache).as_posix()
            listed.append((quote(url), quote(f"/{target}"), path.stat().st_size))
        return listed


@dataclasses.dataclass
class _Replayed:
    """A `ChoosesBackbone` whose network gives the rows of a feature set, over and over."""

    record: Record
    rows: np.ndarray
    batch_size: int = 32
    device: str | None = "cpu"

    @property
    def weights_label(self) -> str:
        return str(self.record.provenance["weights"])

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return self.rows.shape[1:]

    def recipe(self, state: StateFile | None, *, dataset: str, records: Sequence[Record]) -> Recipe:
        del state, dataset, records
        return self.record.recipe

    def network(self, recipe: Recipe) -> _Replayed:
        del recipe
        return self

    def embed_stream(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        order = _shuffled_for_ever(len(self.rows))
        for batch in batches:
            yield self.rows[[next(order) for _ in batch]]


def _shuffled_for_ever(count: int) -> Iterator[int]:
    """Yield all numbers below `count`, each time in another order.

    Else chunks would be equal, and `fs pull` fetches those once.
    """
    random = np.random.default_rng(0)
    while True:
        yield from random.permutation(count)


def prepare(photographs: Path, weights: Path, folder: Path, *, images: int, trial: bool) -> Scratch:
    """Embed so many photographs, and make the cache of them in `folder`."""
    cache = folder / "cache"
    paths = take(photographs, folder / "photographs", images)
    run_json(embed_reference(folder / "photographs", weights, cache))
    (record,) = Catalogue(cache).records()
    with open_record(record) as opened:
        rows = opened["train"].load()[0]
    many = images
    if not trial:
        many = int(_MARGIN * HOT_BYTES / (rows[0].nbytes + _ANSWER_BYTES))
    stored = copies(paths, folder / "many" / "train", many, mark="stored")
    online = copies(paths, folder / "online", many, mark="online")
    for store in _FORMATS:
        embed(
            folder / "many",
            EmbedSettings(store=store),
            cache=cache,
            choose=lambda settings: _Replayed(record, rows),
        )
    keep_online(cache, record.recipe, online, rows)
    if hasattr(os, "sync"):  # else what was written here is still being written while others sync
        os.sync()
    return Scratch(
        cache=cache,
        recipe=record.recipe,
        photographs=paths,
        stored=stored,
        online=online,
        records={
            each.store_format: each for each in Catalogue(cache).records() if each.dataset == "many"
        },
    )


def copies(paths: Sequence[Path], folder: Path, count: int, *, mark: str) -> list[Path]:
    """Write so many copies of photographs, each with bytes of its own behind the picture."""
    written = []
    for index, path in zip(range(count), itertools.cycle(paths), strict=False):
        target = folder / f"class{index % 2}" / f"{index:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() + f"{mark} {index}".encode())
        written.append(target)
    return written


def keep_online(cache: Path, recipe: Recipe, images: Sequence[Path], rows: np.ndarray) -> None:
    """Put features of images into the online cache, as if they had been asked for before."""
    online = OnlineCache(cache / ONLINE)
    found = {
        bytes.fromhex(sha256_file(path)): rows[index % len(rows)]
        for index, path in enumerate(images)
    }
    online.put(recipe.fingerprint, found)
    online.close()


def encoded_anew(paths: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """Write photographs as other JPEG files, so many and no two alike: nobody has seen them."""
    folder.mkdir(parents=True)
    written = []
    for index, path in zip(range(count), itertools.cycle(paths), strict=False):
        target = folder / f"{index:06d}.jpg"
        with Image.open(path) as image:
            image.convert("RGB").save(target, quality=88, comment=json.dumps([str(folder), index]))
        written.append(target)
    return written
