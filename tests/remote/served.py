"""A cache that a service serves, and another into which sets are pulled, for tests of both."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from scripted_server import Clock, between

from featurestore.catalogue import Catalogue, Record, checksums_path
from featurestore.remote.connection import Connection
from featurestore.remote.pull import PullResult, PullSettings, pull_set
from featurestore.service.live_catalogue import FRESH_S
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import encode, photograph

SPLITS = {"train": 100, "validation": 20, "test": 20}


class Sides:
    """What a test has in hand: images, the served cache, its URL, and the cache of a laptop."""

    def __init__(self, folder: Path, served: Path, laptop: Path, url: str) -> None:
        self.folder, self.served, self.laptop, self.url = folder, served, laptop, url
        self.clock = Clock()
        self._embed = TinyEmbedder(folder, served)

    def embed(self, **settings) -> None:
        """Embed into the served cache, and wait until the service must have seen it."""
        self._embed(**settings)
        time.sleep(FRESH_S + 0.05)

    def connect(self, url: str | None = None, **pacing) -> Connection:
        return Connection(url or self.url, pacing=self.clock.pacing(**pacing))

    def pull(self, name: str = "photos", url: str | None = None, **settings) -> PullResult:
        with self.connect(url) as connection:
            return pull_set(connection, name, PullSettings(**settings), cache=self.laptop)

    def pull_through(self, spoil, name: str = "photos", **settings) -> PullResult:
        """Pull through a server that spoils answers; see `between`."""
        with between(self.url, spoil) as server:
            return self.pull(name, url=server.url, **settings)

    def pulled(self) -> list[Record]:
        return Catalogue(self.laptop).records()

    def nothing_is_visible(self) -> bool:
        stores = [path for path in self.laptop.glob("photos/*") if not path.name.startswith(".")]
        return not self.pulled() and not stores

    def change_images(self, count: int) -> None:
        """Give the first images of the training split other bytes; the folder is this test's."""
        for at, path in enumerate(sorted((self.folder / "train" / "cats").iterdir())[:count]):
            kind = "PNG" if path.suffix == ".png" else "JPEG"
            path.write_bytes(encode(photograph(5, index=7000 + at), kind))


def files_of(record: Record) -> dict[str, bytes]:
    """Return the bytes of a store and of its checksum list, by path from its folder."""
    folder = record.store.parent
    files = [record.store] if record.store.is_file() else record.store.rglob("*")
    found = {path.relative_to(folder).as_posix(): path for path in files if path.is_file()}
    found["list"] = checksums_path(record.store)
    return {name: path.read_bytes() for name, path in found.items()}


def same_set(here: Record, there: Record) -> bool:
    """Whether two records, each in its cache, are of the same bytes and say the same."""
    fields = [
        (each.name, each.fingerprint, each.rows, each.quarantine, dict(each.content_sha256))
        for each in (here, there)
    ]
    return fields[0] == fields[1] and files_of(here) == files_of(there)


def copy_of(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target
