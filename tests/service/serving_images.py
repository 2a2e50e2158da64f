"""A service on a tiny backbone, and an engine that does as it is told, for tests of its routes."""

import asyncio
import hashlib
import io
import json
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
from fastapi.testclient import TestClient

from featurestore.service.app import create_app
from featurestore.service.contract import Answer, Limits, ServiceSettings
from featurestore.testing.backbones import TinyNetwork
from featurestore.testing.embedding import TinyEmbedder
from featurestore.testing.images import encode, photograph, write_image_folder

SHAPE = (4, 4, 3)
NPY, ARROW = "application/x-npy", "application/vnd.apache.arrow.stream"


def tiny(recipe):
    return TinyNetwork(dtype=recipe.dtype)


def make_cache(root, **settings):
    """Embed photographs from `root/photos` into `root/cache`; returns the embedder."""
    write_image_folder(root / "photos")
    embedder = TinyEmbedder(root / "photos", root / "cache")
    embedder(**settings)
    return embedder


def fresh(index, kind=0):
    """The bytes of a photograph that no feature set has."""
    return encode(photograph(kind, index=5000 + index))


def features_of(content, dtype="float16"):
    """What `FakeEngine` gives for an image: numbers that are awkward as decimals."""
    seed = int.from_bytes(hashlib.sha256(content).digest()[:4], "big")
    return (np.random.default_rng(seed).normal(size=SHAPE) * 37 / 3).astype(dtype)


class FakeEngine:
    """An `EmbedsImages`: texts are unreadable, the first time is a miss, errors come as told.

    Attributes
    ----------
    asked
        Recipe, number of images and other weights of each request.
    error, wait
        Raised, or waited for, at the next requests.
    cancelled
        Requests whose client left.
    """

    def __init__(self, dtype="float16"):
        self.dtype = dtype
        self.known = set()
        self.asked = []
        self.error = None
        self.wait = None
        self.cancelled = 0

    async def embed(self, recipe, images, *, other_weights=()):
        self.asked.append((recipe, len(images), tuple(other_weights)))
        if self.error is not None:
            raise self.error
        if self.wait is not None:
            try:
                await asyncio.sleep(self.wait)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return [self._answer(image) for image in images]

    def _answer(self, image):
        digest = hashlib.sha256(image).hexdigest()
        origin = "online cache" if digest in self.known else "computed"
        self.known.add(digest)
        if image.startswith(b"text"):
            return Answer(digest, None, "not an image", origin)
        return Answer(digest, features_of(image, self.dtype), None, origin)

    async def close(self):
        return


@contextmanager
def serving(cache, *, engine=None, **settings):
    """Yield a client of a service, with the real engine on a tiny network unless told otherwise."""
    chosen = ServiceSettings(cache=cache, **{"network": tiny, "workers": 1, **settings})
    with TestClient(create_app(chosen), base_url="http://127.0.0.1") as client:
        if engine is not None:
            client.app.state.service.embedder = engine
        yield client


def files(*contents, names=None):
    """Parts of a form for the client."""
    names = names or [f"{index}.jpg" for index in range(len(contents))]
    return [
        ("images", (name, content, "image/jpeg"))
        for name, content in zip(names, contents, strict=True)
    ]


def array_of(answer):
    """The array of an .npy answer."""
    return np.load(io.BytesIO(answer.content), allow_pickle=False)


def table_of(answer):
    """The table of an Arrow answer, and its metadata as values."""
    table = pa.ipc.open_stream(answer.content).read_all()
    about = {name.decode(): json.loads(value) for name, value in table.schema.metadata.items()}
    return table, about


def cache_headers(answer):
    """What the headers say of hits and misses."""
    headers = answer.headers
    return (
        headers["x-featurestore-cache"],
        int(headers["x-featurestore-hits"]),
        int(headers["x-featurestore-misses"]),
    )


__all__ = [
    "ARROW", "NPY", "SHAPE", "FakeEngine", "Limits", "array_of", "cache_headers", "features_of",
    "files", "fresh", "make_cache", "serving", "table_of", "tiny",
]  # fmt: skip
