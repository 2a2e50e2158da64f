"""Feature sets as rows of a table and as JSON: those of a cache, and those that a service has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from featurestore_cli.output import bytes_text, print_table


class ListedSet(Protocol):
    """What is told of a feature set, wherever it lies."""

    @property
    def name(self) -> str: ...  # noqa: D102 -- as of `Record`, and so on

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    @property
    def store_format(self) -> str: ...  # noqa: D102

    @property
    def rows(self) -> Mapping[str, int]: ...  # noqa: D102

    @property
    def views(self) -> int: ...  # noqa: D102

    @property
    def feature_shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def stored_bytes(self) -> int: ...  # noqa: D102

    @property
    def committed_at(self) -> str: ...  # noqa: D102


def rows_text(listed: ListedSet) -> str:
    """Return the rows of each split in words."""
    return ", ".join(f"{split} {count}" for split, count in listed.rows.items())


def shape_text(listed: ListedSet) -> str:
    """Return the shape of one row, in brackets."""
    return "(" + ", ".join(map(str, listed.feature_shape)) + ")"


def set_fields(listed: ListedSet, *, quarantined: int) -> dict[str, object]:
    """Return what `fs ls --json` tells of a set, wherever it lies."""
    return {
        "name": listed.name,
        "fingerprint": listed.fingerprint,
        "store": listed.store_format,
        "rows": dict(listed.rows),
        "views": listed.views,
        "feature_shape": list(listed.feature_shape),
        "bytes": listed.stored_bytes,
        "quarantined": quarantined,
        "committed_at": listed.committed_at,
    }


def print_sets(
    sets: Sequence[ListedSet],
    *,
    quarantined: Sequence[int],
    here: Sequence[str] | None = None,
    whole: Sequence[str] = (),
) -> None:
    """Print a line for each set; with `here`, a last column of that name."""
    columns = ["name", "fingerprint", "rows", "shape", "store", "size", "quarantined", "committed"]
    viewed = any(listed.views for listed in sets)
    if viewed:
        columns.insert(3, "views")
    lines = [
        [
            listed.name,
            listed.fingerprint[:8],
            rows_text(listed),
            *([listed.views or "-"] if viewed else []),
            shape_text(listed),
            listed.store_format,
            bytes_text(listed.stored_bytes),
            count,
            listed.committed_at,
        ]
        for listed, count in zip(sets, quarantined, strict=True)
    ]
    if here is not None:
        columns.append("here")
        lines = [[*line, at] for line, at in zip(lines, here, strict=True)]
    right = [*(["views"] if viewed else []), "size", "quarantined"]
    print_table(columns, lines, right=right, whole=whole)
