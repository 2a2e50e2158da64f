"""Runs on disk: one directory each, written whole or not at all, read only when undamaged.

    <cache>/runs/<run-id>/
        run.json                    everything but the arrays and the model
        probabilities-<split>.npz   sample_ids (N,) str, labels (N,) int64, probabilities (N, K)
        model.keras | model.skops

A run is made under a temporary name, synced and renamed, so a directory under a run's name is
complete. `run.json` holds the SHA-256 of every other file; none is read before it matches.
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featurestore.catalogue import RUNS, UPGRADE
from featurestore.digests import sha256_file
from featurestore.errors import (
    Conflict,
    FeatureStoreError,
    IntegrityError,
    InvalidInput,
    NotFound,
)
from featurestore.names import nfc
from featurestore.stores import durable
from featurestore.training.contract import Head, HeadSettings
from featurestore.training.heads import create_head, stored_settings
from featurestore.training.run_record import (
    CACHED,
    check_record,
    parse_record,
    predictions_name,
    upgraded,
)

if TYPE_CHECKING:  # it loads scikit-learn, which a list of runs does without
    from featurestore.training.evaluation import Metrics, Predictions

RUN_FORMAT_VERSION = 3
RECORD_NAME = "run.json"
_TRAIN_AGAIN = "fs train"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The feature set that a run was trained on.

    Parameters
    ----------
    rows
        Rows of each split that has any.
    recipe
        The recipe's fields, as `Recipe.to_dict` gives them.
    comparable
        Runs that have the same are judged on the same images under the same rule from bytes to
        features, and may be compared: the fingerprint of the manifest under the recipe without
        views. Of a fine-tuned network, that of the run that it started from.
    """

    name: str
    fingerprint: str
    manifest_fingerprint: str
    recipe_fingerprint: str
    recipe: Mapping[str, object]
    class_names: tuple[str, ...]
    feature_shape: tuple[int, ...]
    rows: Mapping[str, int]
    comparable: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One trained head and everything needed to judge, compare and repeat it.

    Parameters
    ----------
    created
        UTC, ISO 8601, seconds.
    settings
        The head's settings; `head` is its name.
    shuffled_labels
        A control: the labels of the training rows were permuted before the fit.
    path_taken
        One of `PATHS`: ``cached`` features, ``end-to-end`` (images augmented and run through the
        frozen network in every epoch), or ``fine-tune`` (layers of the network trained too).
    augmentation
        What the training images were varied by: `Augmentation.to_dict` with ``seed``, and with
        ``views`` where stored views were used. None: they were not.
    started_from
        Id of the run that a fine-tuning started from, else None.
    parameters
        Of a fine-tuning: numbers of weights by name; else empty.
    metrics
        For each of train, validation and test: what `featurestore.training.evaluation.score` gives,
        or None where the feature set has no rows for it.
    history
        Per-epoch numbers of the head; empty where it has no epochs.
    chosen
        What the fit chose by itself, such as a tuned ``c``.
    notes
        What a reader of the metrics must be told.
    versions
        Of Python, featurestore, NumPy and the head's libraries.
    seconds
        ``fit``: the fit with reading its rows, over all processes that were at it up to their last
        checkpoint; ``total``: with evaluation; ``predict_per_row``: one row's probabilities within
        a block.
    files
        SHA-256 of every file beside run.json.
    """

    id: str
    path: Path
    created: str
    head: str
    settings: HeadSettings
    seed: int
    shuffled_labels: bool
    path_taken: str = CACHED
    augmentation: Mapping[str, object] | None = None
    started_from: str | None = None
    parameters: Mapping[str, int] = dataclasses.field(default_factory=dict)
    features: TrainedOn
    metrics: Mapping[str, Metrics | None]
    history: Mapping[str, list[float]]
    chosen: Mapping[str, object]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    files: Mapping[str, str]

    @property
    def model_path(self) -> Path:
        """The model file: ``.keras`` or ``.skops``."""
        return self.path / next(name for name in self.files if name.startswith("model."))

    def changed_settings(self) -> dict[str, object]:
        """Return the settings that are not at their defaults, as JSON-ready values."""
        defaults = {
            field.name: field.default
            if field.default_factory is MISSING
            else field.default_factory()
            for field in dataclasses.fields(self.settings)  # type: ignore[arg-type] # dataclasses
        }
        # A field without a default (a scikit-learn class) is always told.
        return {
            name: value
            for name, value in self.settings.to_dict().items()
            if value != defaults.get(name, MISSING)
        }

    def damages(self) -> dict[str, str]:
        """Read every file and return what is wrong with each that is not the one written.

        Raises
        ------
        NotFound
            The whole run is gone.
        """
        found = {}
        for name in self.files:
            try:
                self._checked(name)
            except IntegrityError as error:
                found[name] = error.message
        return found

    def to_dict(self) -> dict[str, object]:
        """Return the record as JSON-ready values: all but `path`, since a run may be moved."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields |= {
            "format_version": RUN_FORMAT_VERSION,
            "settings": self.settings.to_dict(),
            "features": dataclasses.asdict(self.features),
        }
        del fields["path"]
        return fields

    def load_start(self) -> Run | None:
        """Return the run that a fine-tuning started from, or None where there is none to read.

        It may have been removed or damaged since, which says nothing against this run.
        """
        if self.started_from is None:
            return None
        try:
            return load_run(self.path.parent / self.started_from)
        except (Conflict, IntegrityError, NotFound):
            return None

    def load_head(self) -> Head:
        """Return the trained head.

        Raises
        ------
        IntegrityError
            The model file is gone, is not the one that was written, or is no model of this head.
        NotFound
            The whole run is gone.
        """
        head = create_head(self.settings)
        return head.load(
            self._checked(f"model{head.suffix}"),
            feature_shape=self.features.feature_shape,
            n_classes=len(self.features.class_names),
        )

    def predictions(self, split: str) -> Predictions:
        """Return the probabilities that the head gave each sample of a split when it was trained.

        Raises
        ------
        NotFound
            The run has no rows of that split, or is gone.
        IntegrityError
            The file is gone or is not the one that was written.
        """
        from featurestore.training.evaluation import Predictions

        name = predictions_name(split)
        if name not in self.files:
            raise NotFound(
                f"run {self.id} has no predictions for split {split!r}: "
                f"it has {', '.join(self.features.rows)}"
            )
        with np.load(self._checked(name), allow_pickle=False) as arrays:
            return Predictions(arrays["sample_ids"], arrays["labels"], arrays["probabilities"])

    def _checked(self, name: str) -> Path:
        path = self.path / name
        expected = self.files.get(name)
        try:
            found = sha256_file(path)
        except OSError as error:
            if not self.path.exists():
                raise NotFound(
                    f"run {self.id} is gone: another process has removed it", next_step="fs runs"
                ) from error
            raise IntegrityError(
                f"run {self.id}: {path} cannot be read: {error}", next_step=_TRAIN_AGAIN
            ) from error
        if found != expected:
            raise IntegrityError(
                f"run {self.id}: {path}: expected SHA-256 {expected}, found {found}",
                next_step=f"do not use it: fs rm {self.id}, then {_TRAIN_AGAIN} again",
            )
        return path


def new_run_id(head: str, dataset: str, *, created: datetime, suffix: str) -> str:
    """Return ``<head>-<dataset>-<UTC time>-<suffix>``, a file name on every system.

    Of the dataset's name, letters and digits of any script, ``.``, ``_`` and ``-`` stay; 40
    characters at most. `created` is in UTC.
    """
    name = unicodedata.normalize("NFC", dataset)
    name = re.sub(r"[^\w.-]+", "_", name)[:40].strip("._-") or "dataset"
    return f"{head}-{name}-{created:%Y%m%dT%H%M%S}-{suffix}"


def write_run(run: Run, head: Head, predictions: Mapping[str, Predictions]) -> Run:
    """Write a run to `run.path`, which must not exist; it is durable when this returns.

    Returns
    -------
    The run with the digests of its files in `files`.

    Raises
    ------
    InvalidInput
        The cache cannot be written.
    """
    temporary = durable.temporary_path(run.path)
    try:
        run.path.parent.mkdir(parents=True, exist_ok=True)
        durable.make_directory(temporary)
        head.save(temporary / f"model{head.suffix}")
        for split, found in predictions.items():
            np.savez_compressed(
                temporary / predictions_name(split),
                sample_ids=np.array([str(name) for name in found.sample_ids], dtype=np.str_),
                labels=found.labels,
                probabilities=found.probabilities,
            )
        files = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
        run = dataclasses.replace(run, files=files)
        durable.write_new_file(temporary / RECORD_NAME, _json(run.to_dict()))
        durable.sync_tree(temporary)
        durable.replace(temporary, run.path)
    except OSError as error:
        raise InvalidInput(
            f"run {run.id} cannot be written to {run.path}: {error}",
            next_step="free some space, or choose another folder with --cache DIR or FS_CACHE",
        ) from error
    finally:
        durable.remove(temporary)
    return run


def load_run(path: Path) -> Run:
    """Read a run's record; neither its model nor its arrays are opened.

    Raises
    ------
    NotFound
        No run lies there.
    Conflict
        It was written by a newer version.
    IntegrityError
        Its record is damaged.
    """
    record = path / RECORD_NAME
    remove = f"fs rm {path.name}"
    try:
        fields = parse_record(record.read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"no run in {path}: it has no {RECORD_NAME}") from error
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{record} is not the record of a run: {error}", next_step=remove
        ) from error
    version = fields.pop("format_version", None)
    if isinstance(version, int) and version > RUN_FORMAT_VERSION:
        raise Conflict(
            f"{record}: expected format version at most {RUN_FORMAT_VERSION}, found {version}",
            next_step=UPGRADE,
        )
    try:
        if version not in range(1, RUN_FORMAT_VERSION + 1):
            raise ValueError(f"format_version: expected a whole number from 1, found {version!r}")
        fields = upgraded(fields, version)
        check_record(fields)
        settings = stored_settings(fields["head"], fields["settings"])
    except (ValueError, IntegrityError) as error:
        problem = error.message if isinstance(error, IntegrityError) else str(error)
        raise IntegrityError(f"{record}: {problem}", next_step=remove) from error
    features = fields["features"]
    fields |= {
        "id": path.name,
        "path": path,
        "settings": settings,
        "features": TrainedOn(
            **features
            | {
                "class_names": tuple(features["class_names"]),
                "feature_shape": tuple(features["feature_shape"]),
            }
        ),
        "notes": tuple(fields["notes"]),
    }
    return Run(**fields)


class FoundRuns(NamedTuple):
    """The runs of a cache that can be read, newest first, and why others cannot."""

    runs: list[Run]
    problems: list[FeatureStoreError]


def read_runs(cache: Path, *, without: Collection[str] = ()) -> FoundRuns:
    """Return the runs of a cache but for some ids; a damaged one does not hide the others."""
    found = FoundRuns([], [])
    for path in (path for path in _run_paths(cache) if path.name not in without):
        try:
            found.runs.append(load_run(path))
        except NotFound:
            if path.exists():  # else another process has removed it since the folder was listed
                problem = f"{path} is not a run: it has no {RECORD_NAME}"
                found.problems.append(IntegrityError(problem, next_step=f"fs rm {path.name}"))
        except (Conflict, IntegrityError) as error:
            found.problems.append(error)
    found.runs.sort(key=lambda run: (run.created, run.id), reverse=True)
    return found


def matching_ids(wanted: str, *, cache: Path) -> list[str]:
    """Return the id `wanted` if there is such a run, readable or not; else those that start so."""
    return _matching(wanted, [path.name for path in _run_paths(cache)])


def _matching(wanted: str, names: Sequence[str]) -> list[str]:
    wanted = nfc(wanted)
    if wanted in names:
        return [wanted]
    return [name for name in names if wanted and name.startswith(wanted)]


def find_run_path(wanted: str, *, cache: Path) -> Path:
    """Return the folder of the one run that has the id `wanted`, or whose id starts so.

    Raises
    ------
    NotFound
        No id starts so.
    InvalidInput
        Several do.
    """
    names = [path.name for path in _run_paths(cache)]
    return cache / RUNS / choose_run(wanted, names, cache=cache)


def choose_run(wanted: str, names: Sequence[str], *, cache: Path) -> str:
    """Return the one of the ids in `cache` that `wanted` is, or is the start of.

    Raises
    ------
    NotFound, InvalidInput
        As `find_run_path`.
    """
    matching = _matching(wanted, names)
    if len(matching) > 1:
        raise InvalidInput(
            f"{wanted!r} means {len(matching)} runs: {', '.join(matching[:8])}",
            next_step="type more of the id",
        )
    if not matching:
        held = f"it holds {', '.join(names[-8:])}" if names else "it holds none yet"
        raise NotFound(
            f"no run {wanted!r} in cache {cache}: {held}",
            next_step="fs runs" if names else _TRAIN_AGAIN,
        )
    return matching[0]


def find_run(wanted: str, *, cache: Path) -> Run:
    """Return the one run that has the id `wanted`, or whose id starts so.

    Raises
    ------
    NotFound, InvalidInput
        As `find_run_path`.
    Conflict, IntegrityError
        As `load_run`.
    """
    return load_run(find_run_path(wanted, cache=cache))


def _run_paths(cache: Path) -> list[Path]:
    folder = cache / RUNS
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _json(fields: Mapping[str, object]) -> bytes:
    return (json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
