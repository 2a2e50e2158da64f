"""`fs ls --remote`: what a service holds, and which of it is in the cache already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featurestore.catalogue import Catalogue, Record
from featurestore.remote.catalogue import RemoteSet, list_problems, list_sets
from featurestore_cli.connecting import connect
from featurestore_cli.output import bytes_text, print_json, print_table, say, say_error

_HERE, _OTHER_VERSION, _NOT_HERE = "yes", "another version", "-"


def list_remote(url: str, *, token_file: Path | None, cache: Path, as_json: bool) -> int:
    """Print the feature sets of a service, newest version of each name, and return the exit code.

    It is that of `fs ls`: a record of the cache that cannot be read may be of one of them.
    """
    with connect(url, token_file=token_file) as connection:
        found = list_sets(connection)
        problems = list_problems(connection)
    catalogue = Catalogue(cache)
    records = catalogue.records()
    damaged = catalogue.problems()
    here = [_here(each, records) for each in found]
    if as_json:
        entries = [
            _fields(each, at) | {"here_as": _formats(each, records)}
            for each, at in zip(found, here, strict=True)
        ]
        print_json({"url": connection.url, "feature_sets": entries})
    elif found:
        _print(found, here)
    elif not problems:
        say(f"no feature set at {connection.url}")
    for problem in problems:
        say(f"{connection.url} cannot read one: {problem}")
    for problem in damaged:
        say_error(problem)
    return min((problem.exit_code for problem in damaged), default=0)


def _here(remote: RemoteSet, records: Sequence[Record]) -> str:
    formats = _formats(remote, records)
    if remote.store_format in formats:
        return _HERE
    if formats:
        return f"as {formats[0]}"
    return _OTHER_VERSION if any(each.name == remote.name for each in records) else _NOT_HERE


def _formats(remote: RemoteSet, records: Sequence[Record]) -> list[str]:
    """Return the store formats that this version of a set has in the cache."""
    key = remote.name, remote.fingerprint
    return sorted(each.store_format for each in records if (each.name, each.fingerprint) == key)


def _fields(remote: RemoteSet, here: str) -> dict[str, object]:
    return {
        "name": remote.name,
        "fingerprint": remote.fingerprint,
        "store": remote.store_format,
        "rows": dict(remote.rows),
        "views": remote.views,
        "feature_shape": list(remote.feature_shape),
        "bytes": remote.stored_bytes,
        "quarantined": remote.quarantined,
        "committed_at": remote.committed_at,
        "here": here == _HERE,
        "other_version_here": here == _OTHER_VERSION,
    }


def _print(found: Sequence[RemoteSet], here: Sequence[str]) -> None:
    columns = ["name", "fingerprint", "rows", "shape", "store", "size", "quarantined", "committed"]
    viewed = any(remote.views for remote in found)
    if viewed:
        columns.insert(3, "views")
    print_table(
        [*columns, "here"],
        [
            [
                remote.name,
                remote.fingerprint[:8],
                ", ".join(f"{split} {count}" for split, count in remote.rows.items()),
                *([remote.views or "-"] if viewed else []),
                f"({', '.join(map(str, remote.feature_shape))})",
                remote.store_format,
                bytes_text(remote.stored_bytes),
                remote.quarantined,
                remote.committed_at,
                at,
            ]
            for remote, at in zip(found, here, strict=True)
        ],
        right=[*(["views"] if viewed else []), "size", "quarantined"],
        whole=["name", "fingerprint"],
    )
