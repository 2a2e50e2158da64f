"""Copying a run from a service: its record, model and probabilities, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featurestore.catalogue import LOCKS, PULL_STAGING, RUNS, STAGING, Catalogue
from featurestore.digests import sha256_hex
from featurestore.embedding.refusals import storage_errors
from featurestore.errors import Conflict, IntegrityError, NotFound
from featurestore.locks import hold
from featurestore.remote.connection import Connection, quoted
from featurestore.remote.paging import list_all
from featurestore.remote.pull import PullProgress, PullSettings, Quiet
from featurestore.remote.transfer import Allowance, Transfer, add_copy, whole_files
from featurestore.stores import durable
from featurestore.training.runs import RECORD_NAME, Run, load_run

RUN_STAGING = "run"
"""How the name of a run's staging folder ends, where a feature set's has its store format."""

_LONGEST_RECORD = 1 << 26
_LARGEST_FILES = 1 << 34  # a record does not say how large a run's files are
_ID = re.compile(r"[\w-][\w.-]{0,199}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PulledRun:
    """A run that was copied, or was here; `moved_bytes` came over the network."""

    id: str
    path: Path
    head: str
    feature_set: str
    fingerprint: str
    moved_bytes: int
    seconds: float
    unchanged: bool


def find_run_id(connection: Connection, wanted: str) -> str:
    """Return the id of the run that `wanted`, an id or the unique start of one, means to a service.

    Raises
    ------
    NotFound, InvalidInput
        No run is called so, or several; and as `Connection.ask`.
    IntegrityError
        What is answered is no id.
    """
    if "/" in wanted or not wanted:
        raise NotFound(f"no run {wanted!r}")
    path = quoted("v1", RUNS, wanted)
    return _checked_id(connection.get_json(path).get("id"), subject=connection.url + path)


def run_ids_on(connection: Connection, fingerprint: str) -> list[str]:
    """Return the ids of the runs of a service that were trained on a feature set, newest first."""
    path = quoted("v1", RUNS)
    entries = list_all(connection, path, of="runs", query={"on": fingerprint})
    return [_id_of(each, subject=connection.url + path) for each in entries]


def pull_run(
    connection: Connection,
    run_id: str,
    settings: PullSettings | None = None,
    *,
    cache: Path | str = "cache",
    progress: PullProgress | None = None,
) -> PulledRun:
    """Copy a run into a cache, every file held to the digest that its record has.

    What it was trained on is not copied with it. One that is damaged here is fetched again. Killed
    at any moment, nothing half is seen, and the next call goes on with what has come.

    Parameters
    ----------
    run_id
        Whole, as `find_run_id` gives it.

    Raises
    ------
    NotFound
        The service has no such run, or has it no more.
    Conflict
        The cache has another run of that id, another process pulls it, the record is of a newer
        version, or the disk is full.
    IntegrityError
        The service sent what is no run, or other bytes than its record vouches for.
    InvalidInput, Unreachable
        As `Connection.ask`.
    """
    settings = settings or PullSettings()
    cache = Path(cache)
    _checked_id(run_id, subject=connection.url)
    started = time.monotonic()
    with storage_errors(cache):
        record = connection.get_bytes(_url(run_id, RECORD_NAME), limit_bytes=_LONGEST_RECORD)
        Catalogue(cache).create()
        lock = cache / LOCKS / f"{RUN_STAGING}--{run_id}.lock"
        with hold(lock, subject=f"run {run_id}", wait=settings.wait, once=True):
            pull = _RunPull(connection, run_id, record, cache=cache, progress=progress or Quiet())
            run, moved_bytes = pull.run(settings.jobs)
    return PulledRun(
        id=run.id,
        path=run.path,
        head=run.head,
        feature_set=run.features.name,
        fingerprint=run.features.fingerprint,
        moved_bytes=moved_bytes or 0,
        seconds=round(time.monotonic() - started, 3),
        unchanged=moved_bytes is None,
    )


@dataclasses.dataclass
class _RunPull:
    connection: Connection
    run_id: str
    record: bytes
    cache: Path
    progress: PullProgress

    def run(self, jobs: int) -> tuple[Run, int | None]:
        """Return the run, and the bytes that came; None if it was here."""
        final = self.cache / RUNS / self.run_id
        building = durable.temporary_path(final)
        building.parent.mkdir(parents=True, exist_ok=True)
        try:
            durable.make_directory(building)
            durable.write_new_file(building / RECORD_NAME, self.record)
            files = self._files(building)
            if final.exists():
                here = self._here(final, files)
                if not here.damages():
                    return here, None
            staging = self._staging()
            moved_bytes = self._fetch(files, staging, jobs)
            for name, digest in files.items():
                add_copy(staging / digest, building / name)
            damages = load_run(building).damages()
            if damages:
                raise self._wrong(_without(building, next(iter(damages.values()))))
            durable.sync_tree(building)
            durable.remove(final)  # damaged, if there is one
            durable.replace(building, final)
        finally:
            durable.remove(building)
        durable.remove(staging)
        return load_run(final), moved_bytes

    def _files(self, building: Path) -> Mapping[str, str]:
        """Return digests by name, of a record that is checked as every run's is."""
        try:
            run = load_run(building)
        except IntegrityError as error:
            raise self._wrong(_without(building, error.message)) from error
        except Conflict as error:
            raise Conflict(
                f"run {self.run_id} of {self.connection.url}: {_without(building, error.message)}",
                next_step=error.next_step,
            ) from error
        named = json.loads(self.record).get("id")  # `load_run` takes the folder's name instead
        if named != self.run_id:
            raise self._wrong(f"its record is that of run {named!r}"[:300])
        return run.files

    def _here(self, final: Path, files: Mapping[str, str]) -> Run:
        run = load_run(final)
        if run.files != files:
            raise Conflict(
                f"{final} is another run than {self.run_id} of {self.connection.url}",
                next_step="pull it into another cache with --cache DIR",
            )
        return run

    def _staging(self) -> Path:
        digits = sha256_hex(self.record)[:16]
        folder = self.cache / STAGING / f"{PULL_STAGING}{digits}--{RUN_STAGING}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _fetch(self, files: Mapping[str, str], staging: Path, jobs: int) -> int:
        subject = f"run {self.run_id} of {self.connection.url}"
        allowance = Allowance(_LARGEST_FILES, subject=subject)
        transfer = Transfer(
            self.connection, staging, allowance=allowance, moved=self.progress.moved
        )
        held = whole_files(staging, jobs=jobs)
        wanted = {digest: _url(self.run_id, name) for name, digest in files.items()}
        self.progress.planned(name=f"run {self.run_id}", size_bytes=None)
        transfer.fetch(
            {digest: url for digest, url in wanted.items() if digest not in held}, jobs=jobs
        )
        return transfer.moved_bytes

    def _wrong(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"run {self.run_id} of {self.connection.url}: {what}",
            next_step=f"on the machine that serves it: fs show {self.run_id}",
        )


def _url(run_id: str, name: str) -> str:
    return quoted("v1", RUNS, run_id, "files", name)


def _without(folder: Path, message: str) -> str:
    """Return a message without the path of a temporary folder, which nobody can look into."""
    return message.replace(f"{folder}{os.sep}", "").replace(str(folder), "it")


def _id_of(entry: Any, *, subject: str) -> str:
    return _checked_id(entry.get("id") if isinstance(entry, dict) else None, subject=subject)


def _checked_id(found: object, *, subject: str) -> str:
    """Return the id of a run, which becomes the name of a folder."""
    if not isinstance(found, str) or not _ID.fullmatch(found) or found.endswith("."):
        raise IntegrityError(
            f"{subject} names what is no run: {found!r}"[:300],
            next_step="give both sides one version: pip install -U featurestore",
        )
    return found
