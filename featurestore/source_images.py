"""The image files that a feature set was embedded from, held to the bytes that were embedded."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from featurestore.catalogue import Record
from featurestore.datasets import ScanOptions, build_manifest, scan_dataset
from featurestore.digests import sha256_hex
from featurestore.errors import FeatureStoreError, InvalidInput
from featurestore.images import HEAD_BYTES, UnreadableImage, check_readable
from featurestore.state import StateFile


class SourceImageMissing(InvalidInput):
    """The bytes that were embedded are not to be had; `reason` says why, without the name."""

    def __init__(self, sample_id: str, reason: str) -> None:
        super().__init__(f"image {sample_id}: {reason}")
        self.reason = reason


def holds_images(dataset: Path, record: Record, *, state: StateFile | None = None) -> bool:
    """Return whether a folder or manifest file has the images of a committed set, and no others.

    That is their bytes, names, labels and splits. Images that were quarantined do not count.

    Parameters
    ----------
    state
        Remembers digests, so that only files that are new to it are read.

    Raises
    ------
    Conflict
        A file kept changing while it was read.
    """
    try:
        scan = scan_dataset(dataset, options=_scan_options(record))
        manifest = build_manifest(scan, state=state).manifest
    except InvalidInput:
        return False  # it is no dataset at all, or not one file can be read
    whole = manifest.without({entry.sha256 for entry in record.quarantine if entry.sha256})
    return bool(whole.splits) and (
        whole.only_classes_with_rows().fingerprint == record.manifest_fingerprint
    )


class SourceImages:
    """Finds images by sample id, in the dataset that a record's provenance names.

    Parameters
    ----------
    dataset
        Where the dataset lies now, a folder or manifest file; None for where it lay.
    """

    def __init__(self, record: Record, dataset: Path | None = None) -> None:
        self._record = record
        self.dataset = dataset or Path(str(record.provenance.get("source", "")))

    def read(self, sample_id: str, *, sha256: str) -> bytes:
        """Return the bytes of one image; `sha256` is their digest in hexadecimal.

        A file lies at its sample id below the dataset. Only where it does not (another Unicode
        form, a link, another spelling of a split) is the whole dataset listed, once.

        Raises
        ------
        SourceImageMissing
            There is no such file, it cannot be read, or it has other bytes.
        """
        if not self.dataset.exists():
            raise SourceImageMissing(sample_id, f"its dataset is no longer at {self.dataset}")
        root = self.dataset if self.dataset.is_dir() else self.dataset.parent
        try:
            return _read(root / sample_id, sample_id, sha256)
        except SourceImageMissing:
            path = self._listed.get(sample_id)
            if path is None or path == root / sample_id:
                raise
        return _read(path, sample_id, sha256)

    @cached_property
    def _listed(self) -> dict[str, Path]:
        try:
            entries = scan_dataset(self.dataset, options=_scan_options(self._record)).entries
        except FeatureStoreError:
            return {}  # no longer the dataset it was: what lies at its id is all there is
        return {entry.sample_id: Path(entry.path) for entry in entries}


def _scan_options(record: Record) -> ScanOptions:
    """Return the options that the dataset of a record was scanned with."""
    split = record.provenance.get("split")
    return ScanOptions(
        split=str(split) if split else None, seed=int(str(record.provenance.get("seed") or 0))
    )


def _read(path: Path, sample_id: str, sha256: str) -> bytes:
    changed = "the file has changed since it was embedded"
    try:
        if not path.is_file():  # reading a pipe would wait for its writer
            raise SourceImageMissing(sample_id, "the file is gone")
        with path.open("rb") as stream:
            check_readable(stream.read(HEAD_BYTES), size_bytes=path.stat().st_size)
            stream.seek(0)
            content = stream.read()
    except UnreadableImage as error:
        raise SourceImageMissing(sample_id, f"{changed}: {error.reason}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        why = getattr(error, "strerror", None) or error
        raise SourceImageMissing(sample_id, f"the file cannot be read: {why}") from error
    found = sha256_hex(content)
    if found != sha256:
        raise SourceImageMissing(
            sample_id, f"{changed}: expected SHA-256 {sha256[:12]}, found {found[:12]}"
        )
    return content
