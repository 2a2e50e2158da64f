"""Columns of numbers as one body of bytes, which a browser reads without looking at each number.

8 bytes     FSCOLUMN
4 bytes     length of what follows, little-endian
JSON        {"fingerprint": …, "rows": N, "columns": [{"name", "dtype", "start"}]}, and spaces
columns     little-endian; `start` counts bytes from the end of the JSON, in multiples of 8
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import numpy as np

from featurestore.digests import sha256_hex

_MAGIC = b"FSCOLUMN"
_ALIGNED = 8
_FRAME = 0xFFFF


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """Bytes to send; `etag` is the SHA-256 of them, quoted."""

    content: bytes
    etag: str


def pack(columns: Mapping[str, np.ndarray], about: Mapping[str, object]) -> Body:
    """Return columns of equal length, and what there is to say about them, as one body."""
    described: list[dict[str, object]] = []
    pieces: list[bytes] = []
    at = 0
    for name, column in columns.items():
        content = column.astype(column.dtype.newbyteorder("<")).tobytes()
        content += bytes(-len(content) % _ALIGNED)
        described.append({"name": name, "dtype": str(column.dtype), "start": at})
        pieces.append(content)
        at += len(content)
    text = json.dumps({**about, "columns": described}).encode()
    text += b" " * (-(len(_MAGIC) + 4 + len(text)) % _ALIGNED)
    content = b"".join([_MAGIC, len(text).to_bytes(4, "little"), text, *pieces])
    return Body(content, f'"{sha256_hex(content)}"')


def framed(points: np.ndarray) -> np.ndarray:
    """Return points within -1 and 1 as (N, 2) uint16: 65,535 steps from the lower left."""
    return np.asarray(np.rint((points + 1) / 2 * _FRAME), np.uint16)
