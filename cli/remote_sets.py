"""`fs ls --remote`: what a service holds, and which of it is in the cache already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featurestore.catalogue import Catalogue, Record
from featurestore.remote.catalogue import RemoteSet, list_problems, list_sets
from featurestore_cli.connecting import connect
from featurestore_cli.output import print_json, say, say_error
from featurestore_cli.set_table import print_sets, set_fields

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
            set_fields(each, quarantined=each.quarantined)
            | {
                "here": at == _HERE,
                "other_version_here": at == _OTHER_VERSION,
                "here_as": _formats(each, records),
            }
            for each, at in zip(found, here, strict=True)
        ]
        print_json({"url": connection.url, "feature_sets": entries})
    elif found:
        quarantined = [each.quarantined for each in found]
        print_sets(found, quarantined=quarantined, here=here, whole=["name", "fingerprint"])
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
