"""Lists that a service gives a page at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurestore.remote.connection import Connection

_PAGE = 500
_MOST_PAGES = 2000  # a million entries: a service that lists without end must not fill the memory


def list_all(
    connection: Connection, path: str, *, of: str, query: Mapping[str, str] | None = None
) -> list[Any]:
    """Return the entries of all pages, in their order; an entry may be anything.

    Parameters
    ----------
    of
        Under what name a page has its entries.

    Raises
    ------
    InvalidInput
        There is no such list, or pages that do not move on, or too many of them.
    NotFound, Conflict, Unreachable
        As `Connection.ask`.
    """
    found: list[Any] = []
    before: list[Any] | None = None
    for _ in range(_MOST_PAGES):
        at = {"offset": str(len(found)), "limit": str(_PAGE)}
        page = connection.get_json(path, query={**(query or {}), **at}).get(of)
        if not isinstance(page, list):
            raise connection.no_service(f"{path} lists no {of.replace('_', ' ')}")
        if len(page) < _PAGE:
            return found + page
        if page == before:
            raise connection.no_service(f"{path} lists the same on every page")
        found += page
        before = page
    raise connection.no_service(f"{path} lists without end")
