"""Where pages and pictures are: names of datasets are anybody's, so every part is quoted."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from featurestore.catalogue import Record


def set_page(name: str, *, fingerprint: str | None = None) -> str:
    """Return the address of a feature set's page; of one version with its fingerprint."""
    return f"/sets/{_quoted(name)}{_pinned(fingerprint)}"


def map_page(name: str, *, asked: str = "") -> str:
    """Return the address of a feature set's map; `asked` is a query as it came, without its ?."""
    return f"/sets/{_quoted(name)}/map{asked and '?'}{asked}"


def run_page(run_id: str) -> str:
    """Return the address of a run's page."""
    return f"/runs/{quote(run_id, safe='')}"


def row_image(record: Record, split: str, row: int) -> str:
    """Return the address of the thumbnail of one row of one version."""
    pinned = _pinned(record.fingerprint[:16])
    return f"/v1/feature-sets/{_quoted(record.name)}/images/{quote(split, safe='')}/{row}{pinned}"


def store_address(record: Record) -> str:
    """Return the address of a version's store, which a Zarr library opens."""
    store = quote(record.store.name, safe="")
    return f"/v1/feature-sets/{_quoted(record.name)}/store/{store}"


def query(**fields: str | None) -> str:
    """Return ``?name=value&…`` of the fields that have a value; an empty text without any."""
    given = {name: value for name, value in fields.items() if value}
    return f"?{urlencode(given)}" if given else ""


def _quoted(name: str) -> str:
    return "/".join(quote(part, safe="") for part in name.split("/"))


def _pinned(fingerprint: str | None) -> str:
    return query(fingerprint=fingerprint)
