"""What the parts of an HTTP answer say. All of it may be anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping

import urllib3

PIECE_BYTES = 1 << 18  # urllib3 loses what it has of a piece when the connection breaks
_SHOWN = 600


def bounded(
    response: urllib3.BaseHTTPResponse, most: int, *, came: Callable[[int], None]
) -> Iterator[bytes]:
    """Yield a body up to `most` bytes, as they come; `came` is told of each piece before."""
    left = most
    while left > 0 and (piece := response.read1(PIECE_BYTES, decode_content=False)):
        came(len(piece))
        yield piece[:left]
        left -= len(piece)


def problem(response: urllib3.BaseHTTPResponse, body: bytes) -> tuple[str, str | None] | None:
    """Return detail and next step of a problem document (RFC 9457); None if it is none."""
    if not response.headers.get("Content-Type", "").startswith("application/problem+json"):
        return None
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("detail"), str):
        return None
    step = fields.get("next_step")
    return short(fields["detail"]), short(step) if isinstance(step, str) else None


def retry_after_s(text: str | None) -> float | None:
    """Return the seconds of a ``Retry-After``, if it says any."""
    # The other form, a date, needs two clocks that agree; the pauses of our own do without.
    return float(text) if text and re.fullmatch(r"\d{1,6}", text) else None


def first_byte(headers: Mapping[str, str]) -> int | None:
    """Return where the bytes of a partial answer begin in the file."""
    match = re.match(r"bytes (\d{1,18})-", headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def strong(etag: str | None) -> str | None:
    """Return an ETag that stands for exactly these bytes."""
    return etag if etag and not etag.startswith("W/") else None


def short(text: str) -> str:
    """Return the beginning of a text from elsewhere, for a message."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def plain(error: Exception) -> str:
    """Return what an error says without the address of urllib3's connection object."""
    return short(
        re.sub(r"^[\w.]*(?:Connection|Pool)\([^)]*\): |<[\w.]+ object at \w+>: ", "", str(error))
    )
