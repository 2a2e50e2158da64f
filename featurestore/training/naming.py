"""What a name typed by a person means: a run or a feature set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featurestore.catalogue import RUNS, Catalogue, Record, set_fingerprint
from featurestore.errors import FeatureStoreError, InvalidInput, NotFound
from featurestore.names import nfc
from featurestore.training.runs import Run, find_run, load_run, matching_ids, read_runs

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


def runs_judged_on(wanted: str, *, cache: Path) -> list[Run]:
    """Return the runs that may be compared on the one dataset and recipe that `wanted` means.

    Runs of every path are among them, oldest first: on the features, with or without views, and
    fine-tuned from runs on them. Controls with shuffled labels are not. A name means the newest
    version of what it names.

    Parameters
    ----------
    wanted
        The name of a feature set or of its dataset, the start of either, or that of a fingerprint.

    Raises
    ------
    NotFound
        No feature set is called so.
    InvalidInput
        No run is judged on any that is, or runs on several are meant.
    Conflict, IntegrityError
        What may be meant cannot be read.
    """
    records = _matching_records(wanted, cache=cache)
    runs = [run for run in reversed(read_runs(cache).runs) if not run.shuffled_labels]
    clean = {set_fingerprint(each.manifest_fingerprint, each.recipe.clean) for each in records}
    meant = [run for run in runs if run.features.comparable in clean]
    if not meant:  # of a cut layer there may be fine-tunings, which are judged on other features
        own = {record.fingerprint for record in records}
        meant = [run for run in runs if run.features.fingerprint in own]
    if not meant:
        name = records[0].name
        raise InvalidInput(
            f"there is no run on feature set {name} to compare",
            next_step=f"fs compare {name} --heads dense,logistic",
        )
    names = {run.features.comparable: (run.load_start() or run).features.name for run in meant}
    if len(names) > 1:
        shown = ", ".join([*names.values()][:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
        raise InvalidInput(
            f"{wanted!r} means runs on {len(names)} feature sets, which cannot be compared: "
            f"{shown}",
            next_step=f"fs compare {next(iter(names.values()))}",
        )
    return meant


def _matching_records(wanted: str, *, cache: Path) -> Sequence[Record]:
    """Return the newest version of each set of that name, or dataset, or whose name starts so."""
    catalogue = Catalogue(cache)
    current, wanted = catalogue.current(), nfc(wanted)
    return (
        [record for record in current if record.name == wanted]
        or [record for record in current if record.dataset == wanted]
        or [record for record in current if wanted and record.name.startswith(wanted)]
        or [catalogue.find(wanted)]
    )


def _ambiguous(wanted: str, ids: list[str], sets: str) -> InvalidInput:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    kind = "the run" if len(ids) == 1 else f"{len(ids)} runs,"
    return InvalidInput(
        f"{wanted!r} is ambiguous: {sets}, and {kind} {', '.join(ids[:_SHOWN])}{more}",
        next_step="type more of the name or of the run's id",
    )
