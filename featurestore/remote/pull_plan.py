"""What a pull has to fetch, and what is here already. The plan is pure; finding what is here reads
the lists of files that stores have beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from featurestore.catalogue import PULL_STAGING, STAGING, Record, checksums_path
from featurestore.remote.records import ListedFile
from featurestore.remote.transfer import PARTIAL

_DIGEST_DIGITS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class PullPlan:
    """Where each different file of a store comes from.

    Parameters
    ----------
    staged
        Digests of files that this pull has fetched before.
    held
        Where a file of that digest lies in this cache, it is said: its bytes are yet to be hashed.
    fetch
        Path in the store, by digest, of what is nowhere here.
    """

    staged: frozenset[str]
    held: Mapping[str, Path]
    fetch: Mapping[str, str]


def plan_pull(
    files: Iterable[ListedFile], *, staged: Collection[str], held: Mapping[str, Path]
) -> PullPlan:
    """Decide where the files of a store come from; equal files come once.

    Parameters
    ----------
    staged, held
        As in the plan, of any files.
    """
    paths: dict[str, str] = {}
    for file in files:
        paths.setdefault(file.sha256, file.path)
    return PullPlan(
        staged=frozenset(paths.keys() & set(staged)),
        held={digest: held[digest] for digest in paths if digest in held and digest not in staged},
        fetch={
            digest: path
            for digest, path in paths.items()
            if digest not in staged and digest not in held
        },
    )


def held_files(cache: Path, records: Sequence[Record], record: Record) -> dict[str, Path]:
    """Return where files may lie that the store of `record` has too, by digest.

    They are those of the stores of its dataset in its format (a set with views has the chunks of
    the one without), and what stopped pulls have left. Nothing is hashed.
    """
    found: dict[str, Path] = {}
    for folder in sorted((cache / STAGING).glob(f"{PULL_STAGING}*--{record.store_format}")):
        found |= _fetched(folder)
    for other in records:
        if other.dataset == record.dataset and other.store_format == record.store_format:
            found |= _listed(other.store)
    return found


def _fetched(folder: Path) -> dict[str, Path]:
    try:
        return {
            path.name: path
            for path in folder.iterdir()
            if path.suffix != PARTIAL and len(path.name) == _DIGEST_DIGITS
        }
    except FileNotFoundError:  # another pull has ended, and removed it
        return {}


def _listed(store: Path) -> dict[str, Path]:
    try:
        lines = checksums_path(store).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # it is being removed, or damaged: then it has nothing to give
        return {}
    parts = (line.partition("  ") for line in lines)
    return {digest: store.parent / name for digest, _, name in parts if name}
