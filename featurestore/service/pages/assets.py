"""The style sheets, scripts and pictures of the pages, served from the package's own files."""

from __future__ import annotations

import dataclasses
import functools
from importlib.resources import files

from featurestore.digests import sha256_hex

_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "woff2": "font/woff2",
}


@dataclasses.dataclass(frozen=True)
class Asset:
    """One file, with the start of its digest, by which a browser keeps it."""

    content: bytes
    media_type: str
    version: str


@functools.cache
def assets() -> dict[str, Asset]:
    """Return every asset by name. They are read once: a service restarts to have others."""
    found = {}
    folders = (
        files("featurestore.service.pages").joinpath("static"),
        # Its pictures are drawn for its own style sheet, which the pages share.
        files("featurestore.report").joinpath("templates"),
    )
    for folder in folders:
        for file in folder.iterdir():
            media_type = _TYPES.get(file.name.rpartition(".")[2])
            if media_type is not None and file.is_file():
                content = file.read_bytes()
                found[file.name] = Asset(content, media_type, sha256_hex(content)[:12])
    return found


def asset_url(name: str) -> str:
    """Return where a page finds an asset: another address when its content is another."""
    return f"/static/{name}?v={assets()[name].version}"
