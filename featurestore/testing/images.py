"""Image files for tests: small generated photographs that classes separate, and broken files.

Everything is a function of its arguments, so two calls write the same bytes (under one version of
Pillow and its codecs).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SPLITS: Mapping[str, int] = {"train": 8, "validation": 4, "test": 4}


def photograph(
    kind: int, *, index: int = 0, size: tuple[int, int] = (48, 64), seed: int = 0
) -> NDArray[np.uint8]:
    """Return one generated photograph: (height, width, 3) uint8, RGB.

    Stripes whose direction, spacing and tint belong to `kind`, on a smooth background and under
    noise that belong to (`kind`, `index`, `seed`). Features of a network with random weights
    already separate two kinds; no two photographs are equal.
    """
    height, width = size
    random = np.random.default_rng([seed, kind, index])
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    angle = kind * 2.399963  # the golden angle, so that any number of kinds stay apart
    spacing = 4.0 + 3.0 * (kind % 4)
    across = rows * np.cos(angle) + columns * np.sin(angle)
    stripes = np.sin(across * (2 * np.pi / spacing) + random.uniform(0, 2 * np.pi))
    tint = 60.0 + 40.0 * np.cos(angle + np.array([0.0, 2.1, 4.2]))
    slope = random.uniform(-30, 30, size=2)
    background = 110.0 + slope[0] * rows / height + slope[1] * columns / width
    noise = random.normal(0.0, 8.0, size=(height, width, 3))
    pixels = background[..., None] + stripes[..., None] * tint + noise
    return np.asarray(np.clip(pixels, 0, 255), dtype=np.uint8)


def encode(pixels: NDArray[np.uint8], image_format: str = "JPEG") -> bytes:
    """Return the bytes of an image file holding `pixels`, (height, width, 3) RGB or (h, w) grey."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, image_format)
    return stream.getvalue()


def write_image_folder(
    root: Path,
    *,
    splits: Mapping[str, int] = SPLITS,
    classes: Sequence[str] = ("cats", "dogs"),
    size: tuple[int, int] = (48, 64),
    seed: int = 0,
) -> list[Path]:
    """Write ``root/<split>/<class>/<class>.<n>.jpg``, `splits[split]` images a class.

    Every fourth image is a PNG. Numbers go on from one split to the next, so no two files of a
    folder share a name or their bytes. Returns the paths in the order they were written.
    """
    written: list[Path] = []
    first = 0
    for split, images in splits.items():
        folder = root / split
        written += _write_classes(folder, range(first, first + images), classes, size, seed)
        first += images
    return written


def write_class_folder(
    root: Path,
    *,
    images: int = 16,
    classes: Sequence[str] = ("cats", "dogs"),
    size: tuple[int, int] = (48, 64),
    seed: int = 0,
) -> list[Path]:
    """Write ``root/<class>/<class>.<n>.jpg``: class folders without splits, `images` a class."""
    return _write_classes(root, range(images), classes, size, seed)


def _write_classes(
    folder: Path, indices: range, classes: Sequence[str], size: tuple[int, int], seed: int
) -> list[Path]:
    written: list[Path] = []
    for kind, label in enumerate(classes):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for index in indices:
            image_format, suffix = ("PNG", "png") if index % 4 == 3 else ("JPEG", "jpg")
            path = folder / label / f"{label}.{index}.{suffix}"
            pixels = photograph(kind, index=index, size=size, seed=seed)
            path.write_bytes(encode(pixels, image_format))
            written.append(path)
    return written


def broken_images() -> dict[str, bytes]:
    """Return files that must be quarantined, by file name: none decodes, each for its own reason.

    ``bomb.png`` and ``bomb.gif`` are small files whose headers claim more pixels than the limit.
    """
    jpeg = encode(photograph(0, index=10_000))
    png = encode(photograph(1, index=10_000), "PNG")
    return {
        "empty.jpg": b"",
        "text.jpg": b"This is not a photograph.\n",
        "page.png": b"<!doctype html><html><body>404 Not Found</body></html>",
        "signature.jpg": jpeg[:4],
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "checksum.png": _flip_byte(png, len(png) // 2),
        "float.tiff": _float_tiff(),
        "bomb.png": _png_claiming(200_000, 200_000),
        "bomb.gif": _gif_claiming(65_535, 65_535),
    }


def _flip_byte(content: bytes, position: int) -> bytes:
    flipped = bytes([content[position] ^ 0xFF])
    return content[:position] + flipped + content[position + 1 :]


def _float_tiff() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.linspace(0.0, 1.0, 64, dtype=np.float32).reshape(8, 8)).save(stream, "TIFF")
    return stream.getvalue()


def _png_claiming(width: int, height: int) -> bytes:
    """Return a valid grey PNG header of that size, with pixel bytes for far fewer."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1024))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _gif_claiming(width: int, height: int) -> bytes:
    """Return a GIF of one frame of that size, two grey levels and hardly any pixel bytes."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + frame + b";"
