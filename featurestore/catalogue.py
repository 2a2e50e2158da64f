"""What a cache holds: records of committed feature sets, their names, and where everything lies.

A feature set exists when its record does. The record is the last file a commit writes, so a store
without one is the rest of a commit that never ended, and is seen by nobody.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from featurestore.augmentation import Augmentation
from featurestore.digests import fingerprint
from featurestore.errors import (
    Conflict,
    FeatureStoreError,
    IntegrityError,
    InvalidInput,
    NotFound,
)
from featurestore.names import is_unicode, nfc
from featurestore.recipe import Recipe, Views
from featurestore.state import CACHE_MARKER
from featurestore.stores import SUFFIXES, durable
from featurestore.stores.version import NEWEST_VERSION, version_for

RUNS = "runs"
STAGING = ".staging"
LOCKS = ".locks"
MAPS = ".maps"
PULL_STAGING = "pull--"
"""How the folders of unfinished pulls begin; those of embeddings begin with their dataset."""
PULLED_FROM = "pulled_from"
"""Under this name the provenance of a pulled set has the URL of the service."""
CACHE_VERSION = 1
"""Version of the layout of a cache folder, which its marker tells."""

UPGRADE = "upgrade featurestore: pip install -U featurestore"
_PREFIX_LENGTH = 4
_LONGEST_NAME_BYTES = 100


@dataclasses.dataclass(frozen=True)
class Quarantined:
    """One sample that has no features, and why. `sha256` is None where the bytes were not read."""

    sample_id: str
    sha256: str | None
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The small file that makes a committed feature set visible.

    Parameters
    ----------
    name
        ``dataset/recipe-name``.
    store_format
        ``zarr`` or ``hdf5``.
    sequence
        Grows by one with each commit to a cache: of several versions, the largest is current.
    source_fingerprint
        Fingerprint of the dataset as it was scanned, with the samples that went to quarantine.
    content_sha256
        For each split, the SHA-256 of its features in row order, little-endian as stored: the same
        in either store format. Views have entries of their own: ``train/views/0``, ….
    checksums_sha256
        SHA-256 of the checksum list beside the store.
    """

    name: str
    store_format: str
    store: Path
    sequence: int
    fingerprint: str
    recipe: Recipe
    manifest_fingerprint: str
    source_fingerprint: str
    class_names: tuple[str, ...]
    rows: Mapping[str, int]
    feature_shape: tuple[int, ...]
    quarantine: tuple[Quarantined, ...]
    provenance: Mapping[str, object]
    committed_at: str
    content_sha256: Mapping[str, str]
    checksums_sha256: str
    stored_bytes: int

    @property
    def dataset(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]

    @property
    def views(self) -> int:
        """Views of each training image; 0 for a clean set."""
        return 0 if self.recipe.augmentation is None else self.recipe.augmentation.count

    @property
    def clean_name(self) -> str:
        """The name that this set would have without its views; its own if it has none."""
        return f"{self.dataset}/{self.recipe.clean.name}"

    def to_json(self) -> bytes:
        """Return the record file's bytes: indented JSON, UTF-8."""
        fields = dataclasses.asdict(self) | {
            "format_version": version_for(views=self.views > 0),
            "store": self.store.name,
            "recipe": self.recipe.to_dict(),
            "recipe_fingerprint": self.recipe.fingerprint,
        }
        return (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read one record file; raises as `parse`."""
        return cls.parse(path.read_bytes(), path=path)

    @classmethod
    def parse(cls, content: bytes, *, path: Path) -> Record:
        """Return the record that the bytes of a record file are; its store lies beside `path`.

        Raises
        ------
        Conflict
            It was written by a newer version.
        IntegrityError
            It is not a record, or its fingerprint is not that of its parts.
        """
        try:
            fields = json.loads(content)
            version = fields.pop("format_version")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"{path} is not a feature set record: {error!r}",
                next_step=f"remove {path} and embed the dataset again",
            ) from error
        if not isinstance(version, int) or version > NEWEST_VERSION:
            raise Conflict(
                f"{path}: expected format version at most {NEWEST_VERSION}, found {version!r}",
                next_step=UPGRADE,
            )
        try:
            recipe = Recipe.from_dict(fields.pop("recipe"))
            recipe_fingerprint = fields.pop("recipe_fingerprint")
            record = cls(
                **fields
                | {
                    "store": path.parent / Path(fields["store"]).name,
                    "recipe": recipe,
                    "class_names": tuple(fields["class_names"]),
                    "feature_shape": tuple(fields["feature_shape"]),
                    "quarantine": tuple(Quarantined(**entry) for entry in fields["quarantine"]),
                }
            )
        except Conflict as error:
            raise Conflict(f"{path}: {error.message}", next_step=error.next_step) from error
        except (KeyError, TypeError) as error:
            raise IntegrityError(
                f"{path} lacks or adds fields of a feature set record: {error}",
                next_step=f"remove {path} and embed the dataset again",
            ) from error
        expected = set_fingerprint(record.manifest_fingerprint, recipe)
        if recipe.fingerprint != recipe_fingerprint or expected != record.fingerprint:
            raise IntegrityError(
                f"{path}: expected fingerprint {expected}, found {record.fingerprint}",
                next_step=f"remove {path} and embed the dataset again",
            )
        return record

    @property
    def path(self) -> Path:
        """Where the record file lies: beside the store."""
        return record_path(self.store)


def set_fingerprint(manifest_fingerprint: str, recipe: Recipe) -> str:
    """Return the identity of one manifest under one recipe."""
    return fingerprint({"manifest": manifest_fingerprint, "recipe": recipe.fingerprint})


def record_path(store: Path) -> Path:
    """Return the record's path for a store's path."""
    return store.with_name(store.name + ".json")


def lock_path(cache: Path, name: str) -> Path:
    """Return the sidecar on which the writer of a feature set holds its lock."""
    return cache / LOCKS / f"{name.replace('/', '--')}.lock"


def staging_path(cache: Path, name: str, recipe: Recipe) -> Path:
    """Return where the shards of an unfinished embedding of `name` lie.

    As the name and its lock, it does not depend on how many views there are: what was staged is
    kept when their number is raised midway. A clean recipe has another place than the same with
    views, so neither clears the other's shards.
    """
    views = recipe.augmentation
    if views is not None:
        recipe = dataclasses.replace(recipe, augmentation=dataclasses.replace(views, count=1))
    return cache / STAGING / f"{name.partition('/')[0]}--{recipe.fingerprint[:16]}"


def sibling_staging(cache: Path, name: str, recipe: Recipe) -> Path:
    """Return where shards lie that may have rows of `name` too, of an unfinished sibling.

    With views that is the clean recipe's staging, without that of the usual views.
    """
    usual = Views(augmentation=Augmentation(), count=1) if recipe.augmentation is None else None
    return staging_path(cache, name, dataclasses.replace(recipe, augmentation=usual))


def pull_staging_path(cache: Path, fingerprint: str, *, store_format: str) -> Path:
    """Return where the files of an unfinished pull lie, each under its digest."""
    return cache / STAGING / f"{PULL_STAGING}{fingerprint[:16]}--{store_format}"


def checksums_path(store: Path) -> Path:
    """Return the path of a store's checksum list (the format of ``sha256sum``)."""
    return store.with_name(store.name + ".sha256")


def dataset_name(text: str) -> str:
    """Turn a folder or file name of any script into a dataset name.

    Path separators, characters that Windows refuses, control characters and white space become
    ``_``; the result is NFC and does not start with a dot.

    Raises
    ------
    InvalidInput
        Nothing is left, it is longer than 100 bytes of UTF-8 (files are named after it), or the
        name is one that the cache keeps for itself.
    """
    name = re.sub(r'[\s/\\<>:"|?*\x00-\x1f\x7f]+', "_", nfc(text))
    name = name.strip("._ ")
    size = len(name.encode("utf-8", "surrogateescape"))
    if not name or name == RUNS or size > _LONGEST_NAME_BYTES or not is_unicode(name):
        raise InvalidInput(
            f"dataset name {text!r}: expected 1 to {_LONGEST_NAME_BYTES} bytes of UTF-8 and not "
            f"{RUNS!r}",
            next_step="give one with --name NAME",
        )
    return name


class Catalogue:
    """The committed feature sets of one cache folder. Reading needs no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check_version(self) -> None:
        """Refuse a cache that a newer version has written to.

        Raises
        ------
        Conflict
            The cache's marker names a newer format.
        """
        marker = self.root / CACHE_MARKER
        try:
            version = json.loads(marker.read_bytes())["format_version"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{marker} is not a cache marker: {error!r}", next_step=f"remove {marker}"
            ) from error
        if not isinstance(version, int) or version > CACHE_VERSION:
            raise Conflict(
                f"cache {self.root}: expected format version at most {CACHE_VERSION}, "
                f"found {version!r}",
                next_step=UPGRADE,
            )

    def create(self) -> None:
        """Make the folder and its version marker, where they are missing.

        Raises
        ------
        InvalidInput
            The folder cannot be made or written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.check_version()
            marker = self.root / CACHE_MARKER
            if not marker.exists():
                durable.replace_file(marker, json.dumps({"format_version": CACHE_VERSION}).encode())
            if not os.access(self.root, os.W_OK):
                raise PermissionError(f"{self.root} is not writable")
        except OSError as error:
            raise InvalidInput(
                f"cache {self.root} cannot be written: {error}",
                next_step="choose another folder with --cache DIR or FS_CACHE",
            ) from error

    def records(self) -> list[Record]:
        """Return the records of every committed feature set, by name, newest version first.

        One that cannot be read does not hide the others: `problems` says what is wrong with it.
        """
        return self._read()[0]

    def problems(self) -> list[FeatureStoreError]:
        """Return why some records cannot be read: damage, or a newer version's."""
        return self._read()[1]

    def _read(self) -> tuple[list[Record], list[FeatureStoreError]]:
        """Return what `records` and `problems` do; everything else is made of this."""
        self.check_version()
        records: list[Record] = []
        problems: list[FeatureStoreError] = []
        for path in self._record_paths():
            try:
                records.append(Record.read(path))
            except FileNotFoundError:
                continue  # removed by another process since the folder was listed
            except (Conflict, IntegrityError) as error:
                problems.append(error)
        return sorted(records, key=lambda record: (record.name, -record.sequence)), problems

    def _record_paths(self) -> Iterator[Path]:
        endings = tuple(f"{suffix}.json" for suffix in SUFFIXES.values())
        if not self.root.is_dir():
            return
        for folder in sorted(self.root.iterdir()):
            if folder.name.startswith(".") or folder.name == RUNS or not folder.is_dir():
                continue
            for path in sorted(folder.iterdir()):
                if path.name.endswith(endings) and not path.name.startswith("."):
                    yield path

    def current(self) -> list[Record]:
        """Return the newest version of each name, once per store format it is held in."""
        return newest_versions(self.records())

    def find(self, wanted: str, *, with_views: bool = False) -> Record:
        """Return the one feature set that `wanted` means.

        A whole name comes first; then a prefix of names; then a prefix of fingerprints, which
        reaches older versions too. A name means its newest version, and Zarr before HDF5. A prefix
        of one clean set and of the same with views means the clean one, as it did before there
        were views: ``photos``, or ``photos/vgg16``. The name up to ``-views`` means the other.

        Parameters
        ----------
        with_views
            A prefix of names means those that have views, if any of them has.

        Raises
        ------
        NotFound
            Nothing matches.
        InvalidInput
            More than one thing matches.
        Conflict, IntegrityError
            Nothing matches, and a record cannot be read: perhaps the one that is meant.
        """
        records, problems = self._read()
        wanted = nfc(wanted)
        names = sorted({record.name for record in records})
        if wanted in names:
            matching = [wanted]
        else:
            matching = [name for name in names if wanted and name.startswith(wanted)]
            viewed = {record.name for record in records if record.views}.intersection(matching)
            matching = sorted(viewed) if with_views and viewed else _clean_of(records, matching)
        if len(matching) == 1:
            return _preferred([r for r in records if r.name == matching[0]])
        if matching:
            raise InvalidInput(
                f"{wanted!r} means {len(matching)} feature sets: {_listed(matching)}",
                next_step="type more of the name, or the start of a fingerprint (fs ls)",
            )
        by_print = [
            r
            for r in records
            if len(wanted) >= _PREFIX_LENGTH and r.fingerprint.startswith(wanted.lower())
        ]
        prints = sorted({record.fingerprint for record in by_print})
        if len(prints) == 1:
            return _preferred(by_print)
        if prints:
            raise InvalidInput(
                f"{wanted!r} is the start of {len(prints)} fingerprints: {_listed(prints)}",
                next_step="type more of it",
            )
        if problems:
            raise problems[0]
        held = f"it holds {_listed(names)}" if names else "it holds no feature set yet"
        raise NotFound(
            f"no feature set {wanted!r} in cache {self.root}: {held}",
            next_step="fs ls" if names else "fs embed DATASET",
        )

    def next_sequence(self) -> int:
        """Return a number above every committed version's."""
        return 1 + max((record.sequence for record in self.records()), default=0)


def newest_versions(records: list[Record]) -> list[Record]:
    """Keep of `Catalogue.records` the newest version of each name, once per store format."""
    leaders: dict[str, Record] = {}
    kept: dict[tuple[str, str], Record] = {}
    for record in records:
        leader = leaders.setdefault(record.name, record)
        if record.fingerprint == leader.fingerprint:
            kept.setdefault((record.name, record.store_format), record)
    return list(kept.values())


def _clean_of(records: list[Record], names: list[str]) -> list[str]:
    """Return the clean one of names if all others are the same with views; else all of them."""
    clean = {record.clean_name for record in records if record.name in names}
    return list(clean) if len(clean) == 1 and clean <= set(names) else names


def _preferred(records: list[Record]) -> Record:
    newest = max(records, key=lambda record: record.sequence)
    same = [record for record in records if record.fingerprint == newest.fingerprint]
    return min(same, key=lambda r: (list(SUFFIXES).index(r.store_format), -r.sequence))


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
