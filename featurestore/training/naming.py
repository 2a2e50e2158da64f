"""What a name typed by a person means: a run or a feature set."""

from __future__ import annotations

from pathlib import Path

from featurestore.catalogue import RUNS, Catalogue, Record
from featurestore.errors import FeatureStoreError, InvalidInput, NotFound
from featurestore.training.runs import Run, find_run, load_run, matching_ids

_SHOWN = 5


def find_named(wanted: str, *, cache: Path) -> Run | Record:
    """Return the one run or feature set that `wanted` means.

    A whole run id or a whole feature set name comes first; then whatever a prefix of either, or of
    a fingerprint, reaches.

    Raises
    ------
    NotFound
        Nothing in the cache is called so.
    InvalidInput
        Several things are, of one kind or of both.
    Conflict, IntegrityError
        What is meant, or may be meant, cannot be read.
    """
    ids = matching_ids(wanted, cache=cache)
    if ids == [wanted]:
        return load_run(cache / RUNS / wanted)
    try:
        record = Catalogue(cache).find(wanted)
    except NotFound as error:
        if ids:
            return find_run(wanted, cache=cache)
        raise NotFound(
            f"{error.message}; nor does a run's id start so", next_step=error.next_step
        ) from error
    except InvalidInput as error:
        if ids:
            raise _ambiguous(wanted, ids, error.message) from error
        raise
    except FeatureStoreError:
        if ids:  # a damaged record of a set says nothing about a run
            return find_run(wanted, cache=cache)
        raise
    if ids and record.name != wanted:
        raise _ambiguous(wanted, ids, f"it is the feature set {record.name}")
    return record


def _ambiguous(wanted: str, ids: list[str], sets: str) -> InvalidInput:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    kind = "the run" if len(ids) == 1 else f"{len(ids)} runs,"
    return InvalidInput(
        f"{wanted!r} is ambiguous: {sets}, and {kind} {', '.join(ids[:_SHOWN])}{more}",
        next_step="type more of the name or of the run's id",
    )
