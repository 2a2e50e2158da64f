"""The bytes of a Zarr chunk file or shard file as values; no disk.

Source: Zarr codecs bytes, zstd, crc32c, vlen-utf8 and sharding_indexed 1.0; `docs/format.md` spells
out the part in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray

ZSTD_LEVEL = 1
CRC_BYTES = 4
ABSENT = 2**64 - 1
"""Offset and length in a shard index of a chunk that lies past the last row."""

_ZSTD = Zstd(level=ZSTD_LEVEL)


class ChunkError(Exception):
    """Bytes that are not a chunk of the array: the reader says of which rows."""


def encode_chunk(values: NDArray[np.generic], *, chunk_rows: int) -> bytes:
    """Return the stored bytes of up to `chunk_rows` rows of numbers."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    padding = (chunk_rows - len(values)) * prod(values.shape[1:]) * values.dtype.itemsize
    return _seal(little.tobytes() + bytes(padding))


def encode_texts(texts: Sequence[str], *, chunk_rows: int) -> bytes:
    """Return the stored bytes of up to `chunk_rows` texts."""
    pieces = [chunk_rows.to_bytes(4, "little")]
    for text in texts:
        utf8 = text.encode()
        pieces += [len(utf8).to_bytes(4, "little"), utf8]
    return _seal(b"".join(pieces) + bytes(4 * (chunk_rows - len(texts))))


def decode_chunk(
    stored: bytes, *, chunk_rows: int, row_shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> NDArray[np.generic]:
    """Return a chunk's rows (chunk_rows, *row_shape), padding included.

    Raises
    ------
    ChunkError
        A checksum fails or the size is another.
    """
    raw = _unseal(stored)
    if len(raw) != chunk_rows * prod(row_shape) * dtype.itemsize:
        raise ChunkError(f"{len(raw)} bytes are not {chunk_rows} rows of {row_shape} {dtype}")
    return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(chunk_rows, *row_shape)


def decode_texts(stored: bytes, *, chunk_rows: int) -> list[str]:
    """Return a chunk's texts, padding included.

    Raises
    ------
    ChunkError
        A checksum fails or the bytes are not `chunk_rows` texts.
    """
    raw = _unseal(stored)
    if int.from_bytes(raw[:4], "little") != chunk_rows:
        raise ChunkError(f"not a chunk of {chunk_rows} texts")
    texts, position = [], 4
    for _ in range(chunk_rows):
        start = position + 4
        position = start + int.from_bytes(raw[position:start], "little")
        texts.append(raw[start:position].decode())
    if position != len(raw):
        raise ChunkError(f"texts end at byte {position} of {len(raw)}")
    return texts


def crc32c(data: bytes) -> bytes:
    """Return the CRC-32C of `data` as stored, four bytes little-endian."""
    value: int = google_crc32c.value(data)
    return value.to_bytes(CRC_BYTES, "little")


def _seal(raw: bytes) -> bytes:
    compressed = bytes(_ZSTD.encode(raw))
    return compressed + crc32c(compressed)


def _unseal(stored: bytes) -> bytes:
    compressed = _verified(stored)
    try:
        return bytes(_ZSTD.decode(compressed))
    except (RuntimeError, ValueError) as error:
        raise ChunkError(f"not a zstd frame: {error}") from error


def _verified(stored: bytes) -> bytes:
    body, stored_crc = stored[:-CRC_BYTES], stored[-CRC_BYTES:]
    if crc32c(body) != stored_crc:
        raise ChunkError("CRC-32C does not match")
    return body


# Shards


def assemble_shard(chunks: Sequence[bytes], *, slots: int) -> bytes:
    """Return the bytes of a shard file: chunks in row order, then the index.

    Parameters
    ----------
    slots
        Chunks of a full shard; those past the last row are marked `ABSENT`.
    """
    index = np.full((slots, 2), ABSENT, dtype="<u8")
    offset = 0
    for slot, chunk in enumerate(chunks):
        index[slot] = (offset, len(chunk))
        offset += len(chunk)
    encoded = index.tobytes()
    return b"".join([*chunks, encoded, crc32c(encoded)])


def index_bytes(slots: int) -> int:
    """Return the size of a shard's index, which ends the file."""
    return slots * 16 + CRC_BYTES


def decode_index(stored: bytes, *, slots: int) -> NDArray[np.uint64]:
    """Return (slots, 2): offset and length of each chunk in the shard.

    Raises
    ------
    ChunkError
        The checksum fails or the size is another.
    """
    if len(stored) != index_bytes(slots):
        raise ChunkError("the shard is shorter than its index")
    return np.frombuffer(_verified(stored), "<u8").reshape(slots, 2)
