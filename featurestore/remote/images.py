"""Images on their way to a service: what is sent together, and what comes back."""

from __future__ import annotations

import dataclasses
import io
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from featurestore.errors import NotFound
from featurestore.names import as_unicode

Image = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, the bytes of an image file, or a binary file object that is read to its end."""

MOST_IMAGES = 64
MOST_BYTES = 16 * 2**20
"""Of one request: well below what a service takes unless it was told to take less."""

NPY = "application/x-npy"
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


@dataclasses.dataclass(frozen=True)
class Source:
    """One image: its place in what was asked for, what to call it, and where its bytes are."""

    place: int
    name: str
    size_bytes: int
    content: bytes | Path

    def read(self) -> bytes:
        """Return the bytes; raises `NotFound` for a file that is gone."""
        if isinstance(self.content, bytes):
            return self.content
        try:
            return self.content.read_bytes()
        except OSError as error:
            raise _unreadable_file(self.content, error) from error


def sources(images: Sequence[Image]) -> list[Source]:
    """Return images in order. Files are not read yet; file objects are.

    Raises
    ------
    NotFound
        A path leads to no file that can be read.
    """
    return [_source(place, image) for place, image in enumerate(images)]


def cut(images: Sequence[Source]) -> list[Sequence[Source]]:
    """Cut images into what is sent together; an image that is larger is sent alone."""
    batches: list[Sequence[Source]] = []
    first = size = 0
    for place, image in enumerate(images):
        size += image.size_bytes
        if place > first and (place - first == MOST_IMAGES or size > MOST_BYTES):
            batches.append(images[first:place])
            first, size = place, image.size_bytes
    if images:
        batches.append(images[first:])
    return batches


def form(images: Sequence[Source]) -> tuple[str, bytes]:
    """Return content type and bytes of a form with an image in each part (RFC 7578)."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for image in images:
        name = as_unicode(image.name).translate(_ESCAPES)
        pieces += [
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode(),
            image.read(),
            b"\r\n",
        ]
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)


def parse_npy(content: bytes) -> np.ndarray:
    """Return the array of an .npy file; never runs what a pickle says.

    Raises
    ------
    ValueError
        It is none.
    """
    stream = io.BytesIO(content)
    try:
        found: np.ndarray = np.load(stream, allow_pickle=False)
    except (EOFError, OSError, SyntaxError) as error:
        raise ValueError(f"no .npy file: {error}") from error
    return found


def _source(place: int, image: Image) -> Source:
    if isinstance(image, bytes | bytearray | memoryview):
        content = bytes(image)
        return Source(place, f"image {place}", len(content), content)
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        try:
            with path.open("rb") as stream:
                size_bytes = stream.seek(0, os.SEEK_END)
        except OSError as error:
            raise _unreadable_file(path, error) from error
        return Source(place, str(image), size_bytes, path)
    content = image.read()
    if not isinstance(content, bytes):
        raise TypeError(f"image {place}: expected a file object in binary mode, found {image!r}")
    name = getattr(image, "name", None)
    return Source(
        place, name if name and isinstance(name, str) else f"image {place}", len(content), content
    )


def _unreadable_file(path: Path, error: OSError) -> NotFound:
    return NotFound(f"image {path} cannot be read: {error.strerror}", next_step="check the path")
