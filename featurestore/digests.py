"""Digests of bytes and fingerprints of values: the only two ways anything is identified here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SCALARS = (str, int, bool, type(None))


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces (memory stays bounded).

    Raises
    ------
    OSError
        The file cannot be opened or read; nothing stands in for its digest.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def view_digests(sha256: NDArray[np.uint8], view: int, *, drawn: str) -> NDArray[np.uint8]:
    """Return what stands for one view of images where an image has its digest: (n, 32) of (n, 32).

    Parameters
    ----------
    sha256
        Digests of the images' bytes.
    view
        Number of the view, from 0.
    drawn
        Fingerprint of what views are drawn from (`Views.drawn`). With it in the key, a row found
        in another set's store or staging cannot be taken for a view under these ranges and seed.
    """
    prefix = f"featurestore view {view} of {drawn} ".encode()
    keys = b"".join(hashlib.sha256(prefix + digest.tobytes()).digest() for digest in sha256)
    return np.frombuffer(keys, np.uint8).reshape(-1, 32)


def canonical_json(value: object) -> bytes:
    """Return the one JSON text of `value`: sorted keys, no white space, UTF-8.

    Only strings, integers, booleans, None and lists, tuples and string-keyed dicts of these are
    accepted. A float is refused, because its text differs between languages.

    Raises
    ------
    TypeError
        Anything else appears anywhere in `value`.
    """
    _refuse_unstable(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def fingerprint(value: object) -> str:
    """Return the SHA-256 (hexadecimal) of the canonical JSON of `value`."""
    return sha256_hex(canonical_json(value))


def _refuse_unstable(value: object) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"canonical JSON needs string keys, found {key!r}")
            _refuse_unstable(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_unstable(item)
    elif not isinstance(value, _SCALARS):
        raise TypeError(f"canonical JSON cannot hold {type(value).__name__} {value!r}")
