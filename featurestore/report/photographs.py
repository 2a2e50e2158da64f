"""The images behind the rows of a feature set, for people to look at.

An image is shown only where its bytes are those that were embedded. One that is gone, changed or
unreadable is said to be so; no other stands in for it.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

from PIL import Image

from featurestore.catalogue import Record
from featurestore.datasets import ScanOptions, scan_dataset
from featurestore.digests import sha256_hex
from featurestore.errors import FeatureStoreError, NotFound
from featurestore.features import open_record
from featurestore.images import HEAD_BYTES, UnreadableImage, check_readable, decode_thumbnail

_LONGEST_SIDE = 160
_QUALITY = 78


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A thumbnail, or why there is none.

    Parameters
    ----------
    jpeg
        Upright, 160 pixels at the longer side; None where `missing` says why.
    """

    jpeg: bytes | None
    width: int = 0
    height: int = 0
    missing: str | None = None


class Photographs:
    """Finds the images of a feature set by split and sample id.

    Parameters
    ----------
    record
        Its provenance says where the dataset lay, its store which bytes each sample has.
    folder
        Where the dataset lies now, a folder or manifest file; None for where it lay.
    """

    def __init__(self, record: Record, folder: Path | None = None) -> None:
        self.record = record
        self._source = folder or Path(str(record.provenance.get("source", "")))
        self._digests: dict[str, dict[str, str]] = {}
        self._scanned: dict[str, Path] | None = None

    def find(self, split: str, sample_id: str) -> Photograph:
        """Return the thumbnail of one sample.

        Raises
        ------
        NotFound
            The feature set has no such split or sample.
        IntegrityError
            Its store is missing or damaged.
        """
        digest = self._digest(split, sample_id)
        if not self._source.exists():
            return _missing("the dataset is no longer where it was")
        # Where names are plain the file lies at its id. Only where it does not (another Unicode
        # form, a link, another spelling of a split) is the whole dataset listed, once.
        root = self._source if self._source.is_dir() else self._source.parent
        content, problem = _read(root / sample_id)
        if content is None or sha256_hex(content) != digest:
            path = self._scan().get(sample_id)
            if path is not None and path != root / sample_id:
                content, problem = _read(path)
        if content is None:
            return _missing(problem)
        if sha256_hex(content) != digest:
            return _missing("the file has changed since it was embedded")
        return _thumbnail(content)

    def _digest(self, split: str, sample_id: str) -> str:
        if split not in self._digests:
            with open_record(self.record) as features:
                rows = features[split]
                text = rows.sha256.tobytes().hex()
                self._digests[split] = {
                    str(name): text[64 * row : 64 * row + 64]
                    for row, name in enumerate(rows.sample_ids)
                }
        if sample_id not in self._digests[split]:
            raise NotFound(
                f"feature set {self.record.name} has no sample {sample_id!r} in split {split!r}"
            )
        return self._digests[split][sample_id]

    def _scan(self) -> dict[str, Path]:
        if self._scanned is None:
            provenance = self.record.provenance
            split = provenance.get("split")
            options = ScanOptions(
                split=str(split) if split else None, seed=int(str(provenance.get("seed") or 0))
            )
            try:
                entries = scan_dataset(self._source, options=options).entries
            except FeatureStoreError:
                entries = ()  # no longer the dataset it was: its images are missing
            self._scanned = {entry.sample_id: Path(entry.path) for entry in entries}
        return self._scanned


def _missing(reason: str) -> Photograph:
    return Photograph(None, missing=reason)


def _read(path: Path) -> tuple[bytes | None, str]:
    try:
        if not path.is_file():  # reading a pipe would wait for its writer
            return None, "the file is gone"
        with path.open("rb") as stream:
            check_readable(stream.read(HEAD_BYTES), size_bytes=path.stat().st_size)
            stream.seek(0)
            return stream.read(), ""
    except UnreadableImage as error:
        return None, f"the file has changed since it was embedded: {error.reason}"
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        return None, f"the file cannot be read: {getattr(error, 'strerror', None) or error}"


def _thumbnail(content: bytes) -> Photograph:
    try:
        pixels = decode_thumbnail(content, longest=_LONGEST_SIDE)
    except UnreadableImage as error:
        return _missing(f"the image cannot be decoded: {error.reason}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    height, width = pixels.shape[:2]
    return Photograph(buffer.getvalue(), width, height)
