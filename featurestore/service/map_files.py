"""The files of a feature set's map: arrays, each with the digest that it was written with.

    <cache>/.maps/<fingerprint>/vectors-v1.npy    (N, channels) float16, see `projection`
    <cache>/.maps/<fingerprint>/draft-v1.npy      (N, 2) float32: principal components
    <cache>/.maps/<fingerprint>/points-v1.npy     (N, 2) float32: the layout
    <cache>/.maps/<fingerprint>/….npy.sha256      as sha256sum writes it, written after its array

Rows are those of the set's splits, one split after the other. All of it may be deleted: it is made
again from the features. An array that is not the one its digest was written for counts as missing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from featurestore.catalogue import MAPS
from featurestore.digests import sha256_file
from featurestore.service.projection import METHOD_VERSION
from featurestore.stores import durable

VECTORS, DRAFT, POINTS = "vectors", "draft", "points"


def map_folder(cache: Path, fingerprint: str) -> Path:
    """Return where the map of one feature set lies; it may not be there yet."""
    return cache / MAPS / fingerprint


def read_array(folder: Path, name: str) -> np.ndarray | None:
    """Return an array, mapped into memory; None where it is missing or damaged.

    Every byte is read once, for its digest.
    """
    path = _path(folder, name)
    try:
        expected = _digest_path(path).read_text("ascii").partition(" ")[0]
        if sha256_file(path) != expected:
            return None
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError):
        return None


def write_array(
    folder: Path, name: str, blocks: Iterable[np.ndarray], *, shape: tuple[int, ...], dtype: str
) -> None:
    """Write an array block by block; it is durable, and counts as there, when this returns."""
    path = _path(folder, name)
    temporary = durable.temporary_path(path)
    digest = hashlib.sha256()
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head,
        {
            "shape": shape,
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        },
    )
    try:
        with temporary.open("xb", buffering=0) as stream:
            digest.update(head.getvalue())
            durable.write(stream, head.getvalue())
            for block in blocks:
                content = np.ascontiguousarray(block, dtype).reshape(-1).view(np.uint8).data
                digest.update(content)
                durable.write(stream, content)
            durable.sync(stream.fileno())
        _digest_path(path).unlink(missing_ok=True)
        durable.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    durable.replace_file(_digest_path(path), f"{digest.hexdigest()}  {path.name}\n".encode())


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}-v{METHOD_VERSION}.npy"


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
