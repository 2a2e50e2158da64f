"""Which version of a feature set is meant: the newest, or one that a link was made for."""

from __future__ import annotations

from featurestore.catalogue import Record
from featurestore.errors import NotFound
from featurestore.service.contract import FindsSets


def find_version(catalogue: FindsSets, name: str, fingerprint: str | None) -> Record:
    """Return the newest version of a name, or that whose fingerprint so starts.

    Raises
    ------
    NotFound
        There is no such version of it any more.
    InvalidInput, Conflict, IntegrityError
        As `FindsSets.find`.
    """
    newest = catalogue.find(name)
    if not fingerprint or newest.fingerprint.startswith(fingerprint):
        return newest
    for record in catalogue.records():
        if record.name == newest.name and record.fingerprint.startswith(fingerprint):
            return record
    raise NotFound(
        f"feature set {newest.name} has no version {fingerprint[:12]}: it was collected, or never "
        "was in this cache",
        next_step="take the newest version: leave out fingerprint",
    )
