"""Copying a feature set from a service into a cache, so that it is there whole or not at all."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from featurestore.catalogue import (
    PULL_STAGING,
    PULLED_FROM,
    STAGING,
    Catalogue,
    Record,
    lock_path,
    pull_staging_path,
)
from featurestore.embedding.commit import make_visible, relist, store_files
from featurestore.embedding.refusals import storage_errors
from featurestore.errors import Conflict, InvalidInput, NotFound
from featurestore.locks import hold
from featurestore.remote.catalogue import RemoteStore, fetch_checksums, fetch_record, find_set
from featurestore.remote.connection import Connection
from featurestore.remote.pull_plan import PullPlan, held_files, plan_pull
from featurestore.remote.pulled_store import (
    build_store,
    check_store,
    is_whole,
    refuse_other_images,
)
from featurestore.remote.records import ListedFile
from featurestore.remote.transfer import Allowance, Transfer, add_copy, digests, whole_files
from featurestore.stores import STORE_FORMATS, durable

DEFAULT_JOBS = 4
_ATTEMPTS = 3
_OF = "feature-set"  # file that says whose staging a folder is; no digest is called so


class PullProgress(Protocol):
    """Told how a pull gets on; `moved` from any thread."""

    def phase(self, text: str) -> None:
        """Something else is being done now."""
        ...

    def planned(self, *, name: str, size_bytes: int | None) -> None:
        """So many bytes are about to be fetched; None where that is not known."""
        ...

    def moved(self, count: int) -> None:
        """So many more bytes have come."""
        ...


class Quiet:
    """Tells nobody."""

    def phase(self, text: str) -> None:
        """See `PullProgress`."""

    def planned(self, *, name: str, size_bytes: int | None) -> None:
        """See `PullProgress`."""

    def moved(self, count: int) -> None:
        """See `PullProgress`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PullSettings:
    """How a feature set is pulled.

    Parameters
    ----------
    store_format
        ``zarr`` or ``hdf5``; None is the one that the service gives first.
    jobs
        Files fetched at once.
    wait
        Wait for another writer of the same set instead of failing.
    again
        Hold every byte of a set that is here to its digest, of one of more than 256 MiB too.
    """

    store_format: str | None = None
    jobs: int = DEFAULT_JOBS
    wait: bool = False
    again: bool = False
    dry_run: bool = False
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if self.store_format not in (None, *STORE_FORMATS):
            raise InvalidInput(
                f"store format: expected one of {', '.join(STORE_FORMATS)}, "
                f"found {self.store_format!r}"
            )
        if self.jobs < 1:
            raise InvalidInput(f"jobs: expected at least 1, found {self.jobs}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PullResult:
    """What was done, or with `dry_run` would be.

    Parameters
    ----------
    path
        Of the store; None after a dry run.
    files, moved_files, reused_files
        Of the store; fetched; and found here. Equal files are fetched once.
    moved_bytes
        That came over the network; a dry run says an upper bound.
    unchanged
        All of it was here, and nothing was to be done.
    """

    feature_set: str
    fingerprint: str
    store_format: str
    path: Path | None
    rows: Mapping[str, int]
    views: int
    files: int
    moved_files: int = 0
    reused_files: int = 0
    moved_bytes: int = 0
    reused_bytes: int = 0
    seconds: float = 0.0
    unchanged: bool = False
    dry_run: bool = False


def pull_set(
    connection: Connection,
    wanted: str,
    settings: PullSettings | None = None,
    *,
    cache: Path | str = "cache",
    progress: PullProgress | None = None,
) -> PullResult:
    """Copy a feature set into a cache; the same as ``fs pull``.

    Its store has the service's bytes, each file held to its digest, and becomes visible when it is
    whole. What stores of the same dataset here have already is not fetched; a set that is here and
    damaged is mended (of one of more than 256 MiB, without `PullSettings.again`, only missing files
    and another size in all are seen). Killed at any moment, the next call goes on with what has
    come.

    Parameters
    ----------
    wanted
        Its name, or a unique start of it or of its fingerprint.

    Raises
    ------
    NotFound
        The service has no such set, or has it no more: it was replaced while it was pulled.
    InvalidInput
        Several are meant, or what answers is no service, or wants a token.
    IntegrityError
        The service sent what its record does not vouch for.
    Conflict
        Another process writes the same set; the cache holds other images under its name, or is of
        a newer version; or the disk is full.
    Unreachable
        The service does not answer, for longer than `connection` waits.
    """
    with storage_errors(Path(cache)):
        pull = _Pull(
            connection, settings or PullSettings(), Path(cache), progress=progress or Quiet()
        )
        return pull.run(wanted)


@dataclasses.dataclass
class _Pull:
    connection: Connection
    settings: PullSettings
    cache: Path
    progress: PullProgress

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.catalogue = Catalogue(self.cache)

    def run(self, wanted: str) -> PullResult:
        self.progress.phase(f"asking {self.connection.url}")
        record = self._find(wanted)
        record = dataclasses.replace(
            record,
            store=self.cache / record.store,
            provenance={**record.provenance, PULLED_FROM: self.connection.url},
        )
        if self.settings.dry_run:
            self.catalogue.check_version()
            return self._pull(record)
        self.catalogue.create()
        self.progress.phase(f"waiting for the lock of {record.name}")
        with hold(
            lock_path(self.cache, record.name),
            subject=f"feature set {record.name}",
            wait=self.settings.wait,
            since=datetime.fromtimestamp(self.settings.clock(), UTC).isoformat(timespec="seconds"),
        ):
            result = self._pull(record)
            self._clear_staging(record.name)
        return result

    def _find(self, wanted: str) -> Record:
        """Return the record of what is wanted; of the next version if it is replaced meanwhile."""
        store: RemoteStore | None = None
        for _ in range(_ATTEMPTS):
            before = store
            store = find_set(self.connection, wanted, store_format=self.settings.store_format)
            try:
                return fetch_record(self.connection, store)
            except NotFound:
                if store == before:
                    raise
        raise Conflict(
            f"{wanted!r} was replaced {_ATTEMPTS} times on {self.connection.url} while we asked",
            next_step="try again",
        )

    def _pull(self, record: Record) -> PullResult:
        records = self.catalogue.records()
        here = self._here(record, records)
        if here is not None:
            held = len(store_files(here.store))
            return self._result(
                here,
                files=held,
                reused_files=held,
                reused_bytes=here.stored_bytes,
                unchanged=True,
            )
        try:
            return self._copy(record, records)
        except NotFound as error:
            raise NotFound(
                f"{record.name} was replaced or removed on {self.connection.url} while it was "
                f"pulled: {error.message}",
                next_step="run the same command again: what has come is kept",
            ) from error

    def _here(self, record: Record, records: Sequence[Record]) -> Record | None:
        """Return the record of this very set in this cache, made current again where need be.

        None if it is not here, or damaged.
        """
        same = [each for each in records if each.path == record.path and each.store.exists()]
        if not same:
            return None
        (here,) = same
        if here.fingerprint != record.fingerprint:  # eight digits name a store
            raise Conflict(
                f"{here.store} holds {here.fingerprint}, and would be replaced by "
                f"{record.fingerprint}",
                next_step="pull it into another cache with --cache DIR",
            )
        self.progress.phase("checking what is here")
        if not is_whole(here, jobs=self.settings.jobs, every_byte=self.settings.again):
            return None
        newest = max(each.sequence for each in records if each.name == here.name)
        # What was embedded here says itself what could not be read here.
        says = record if PULLED_FROM in here.provenance else here
        listed = (here.source_fingerprint, here.quarantine) == (
            says.source_fingerprint,
            says.quarantine,
        )
        if (listed and here.sequence == newest) or self.settings.dry_run:
            return here
        return relist(
            here,
            source_fingerprint=says.source_fingerprint,
            quarantine=says.quarantine,
            sequence=self.catalogue.next_sequence(),
        )

    def _copy(self, record: Record, records: Sequence[Record]) -> PullResult:
        checksums, files = fetch_checksums(self.connection, record)
        staging = pull_staging_path(
            self.cache, record.fingerprint, store_format=record.store_format
        )
        held = held_files(self.cache, records, record)
        if self.settings.dry_run:
            return self._dry(record, files, plan_pull(files, staged=(), held=held))
        staging.mkdir(parents=True, exist_ok=True)
        durable.replace_file(staging / _OF, record.name.encode())
        self.progress.phase("checking what is here")
        sizes = whole_files(staging, jobs=self.settings.jobs, keep=(_OF,))
        plan = plan_pull(files, staged=sizes, held=held)
        sizes |= self._reuse(plan, staging)
        plan = plan_pull(files, staged=sizes, held={})
        reused_bytes = sum(sizes[digest] for digest in plan.staged)
        missing_bytes = record.stored_bytes - reused_bytes
        subject = f"{record.name} on {self.connection.url}"
        transfer = Transfer(
            self.connection,
            staging,
            allowance=Allowance(max(0, missing_bytes), subject=subject),
            moved=self.progress.moved,
        )
        self.progress.planned(name=record.name, size_bytes=max(0, missing_bytes))
        store = RemoteStore(record.name, record.fingerprint, record.store_format)
        urls = {digest: store.url_path(path) for digest, path in plan.fetch.items()}
        transfer.fetch(urls, jobs=self.settings.jobs)
        self.progress.phase("checking what has come")
        building = build_store(record, files, staging=staging, jobs=self.settings.jobs)
        check_store(record, building)
        refuse_other_images(record, building, records)
        self._commit(record, building, checksums)
        return self._result(
            record,
            files=len(files),
            moved_files=len(plan.fetch),
            reused_files=len(plan.staged),
            moved_bytes=transfer.moved_bytes,
            reused_bytes=reused_bytes,
        )

    def _reuse(self, plan: PullPlan, staging: Path) -> dict[str, int]:
        """Add to staging what lies elsewhere in this cache and is what it should be."""
        found = digests([*plan.held.values()], jobs=self.settings.jobs)
        sizes = {}
        for (digest, path), read in zip(plan.held.items(), found, strict=True):
            if read == digest:
                target = staging / digest
                try:
                    add_copy(path, target)
                except FileNotFoundError:  # another pull or a collection has removed it since
                    continue
                sizes[digest] = target.stat().st_size
        return sizes

    def _commit(self, record: Record, building: Path, checksums: bytes) -> None:
        self.progress.phase("committing")
        sequence = self.catalogue.next_sequence()
        make_visible(dataclasses.replace(record, sequence=sequence), building, checksums)

    def _clear_staging(self, name: str) -> None:
        """Remove what pulls of a set, of this version and of earlier ones, have left behind.

        The caller holds the set's lock.
        """
        for folder in (self.cache / STAGING).glob(f"{PULL_STAGING}*--*"):
            try:
                of = (folder / _OF).read_text(encoding="utf-8")
            except (OSError, ValueError):
                continue
            if of == name:
                durable.remove(folder)

    def _dry(self, record: Record, files: Sequence[ListedFile], plan: PullPlan) -> PullResult:
        reused_bytes = sum(path.stat().st_size for path in plan.held.values() if path.exists())
        return self._result(
            record,
            files=len(files),
            moved_files=len(plan.fetch),
            reused_files=len(plan.held),
            moved_bytes=max(0, record.stored_bytes - reused_bytes),
            reused_bytes=reused_bytes,
        )

    def _result(
        self,
        record: Record,
        *,
        files: int,
        moved_files: int = 0,
        reused_files: int = 0,
        moved_bytes: int = 0,
        reused_bytes: int = 0,
        unchanged: bool = False,
    ) -> PullResult:
        return PullResult(
            feature_set=record.name,
            fingerprint=record.fingerprint,
            store_format=record.store_format,
            path=None if self.settings.dry_run else record.store,
            rows=record.rows,
            views=record.views,
            files=files,
            moved_files=moved_files,
            reused_files=reused_files,
            moved_bytes=moved_bytes,
            reused_bytes=reused_bytes,
            seconds=round(time.monotonic() - self.started, 3),
            unchanged=unchanged,
            dry_run=self.settings.dry_run,
        )
