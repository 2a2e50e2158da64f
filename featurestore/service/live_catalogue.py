"""The catalogue of a cache, read again only when something in its folders has changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featurestore.catalogue import Catalogue, Record
from featurestore.errors import Conflict, IntegrityError
from featurestore.training.runs import Run, find_run, read_runs


def read_record(path: Path) -> Record:
    """Read one record file, which may hold anything.

    Raises
    ------
    FileNotFoundError
        There is none.
    Conflict, IntegrityError
        It is a newer version's, or no record that can be used.
    """
    try:
        return Record.read(path)
    except (FileNotFoundError, Conflict, IntegrityError):
        raise
    except Exception as error:  # of one record: it must not hide the others
        raise IntegrityError(
            f"{path} is not a feature set record: {error!r}",
            next_step=f"remove {path} and embed the dataset again",
        ) from error


class LiveCatalogue:
    """See `FindsSets`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._catalogue = Catalogue(cache)

    def current(self) -> Sequence[Record]:
        """See `FindsSets.current`."""
        return self._catalogue.current()

    def records(self) -> Sequence[Record]:
        """See `FindsSets.records`."""
        return self._catalogue.records()

    def find(self, wanted: str) -> Record:
        """See `FindsSets.find`."""
        return self._catalogue.find(wanted)

    def of_recipe(self, wanted: str) -> Record:
        """See `FindsSets.of_recipe`."""
        return self._catalogue.find(wanted)

    def runs(self) -> Sequence[Run]:
        """See `FindsSets.runs`."""
        return read_runs(self._cache).runs

    def run(self, wanted: str) -> Run:
        """See `FindsSets.run`."""
        return find_run(wanted, cache=self._cache)
