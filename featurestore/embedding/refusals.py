"""What an embedding refuses to begin or to commit, and what errors of its cache mean."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from featurestore.catalogue import Quarantined, Record
from featurestore.embedding.plan import VIEWED, digest_keys
from featurestore.embedding.quarantine import first_reasons
from featurestore.embedding.rows import CommittedRows, StagedRows
from featurestore.embedding.settings import EmbedSettings
from featurestore.errors import Conflict, InvalidInput
from featurestore.manifest import Manifest
from featurestore.recipe import Recipe

_FULL = (errno.ENOSPC, errno.EDQUOT)


def refuse_no_images_to_view(
    dataset: Path, recipe: Recipe, manifest: Manifest, quarantine: tuple[Quarantined, ...] = ()
) -> None:
    """Refuse views of a dataset that has no training images.

    Raises
    ------
    InvalidInput
        The recipe has views, and the manifest has nothing that would have them.
    """
    if recipe.augmentation is not None and VIEWED not in manifest.splits:
        found = ", ".join(manifest.splits) or "none"
        raise InvalidInput(
            f"dataset {dataset}: expected images in split {VIEWED} to embed views of, "
            f"found readable images in {found}{first_reasons(quarantine)}",
            next_step="embed it without --views",
        )


def refuse_other_dataset(
    dataset: Path,
    manifest: Manifest,
    siblings: Sequence[Record],
    sources: Sequence[StagedRows | CommittedRows],
) -> None:
    """Keep two datasets whose folders have the same name from becoming versions of one.

    Parameters
    ----------
    siblings
        The committed sets of its name and clean recipe: those with views are called by the same
        prefix as the one without.

    Raises
    ------
    Conflict
        The newest of them is of a dataset elsewhere that is still there and shares less than half
        of the images.
    """
    if not siblings:
        return
    newest = max(siblings, key=lambda record: record.sequence)
    source = Path(str(newest.provenance["source"]))
    if source == dataset.resolve() or not source.exists():
        return
    before = np.concatenate(
        [np.empty((0, 32), np.uint8)]
        + [
            each.digests
            for each in sources
            if isinstance(each, CommittedRows) and each.record == newest and each.view is None
        ]
    )
    now = np.concatenate([part.sha256 for part in manifest.splits.values()])
    shared = int(np.isin(digest_keys(now), digest_keys(before)).sum())
    if 2 * shared < min(len(now), len(before)):
        raise Conflict(
            f"{newest.name} holds another dataset: expected {source}, found "
            f"{dataset.resolve()}, which shares {shared} of {len(now)} images with it",
            next_step="give this one a name of its own with --name NAME",
        )


def check_compression(settings: EmbedSettings) -> None:
    """Miss a codec's package before hours of computing, not after."""
    if settings.store == "hdf5" and settings.compression == "zstd":
        from featurestore.stores.hdf5_format import require_zstd

        require_zstd()


@contextmanager
def storage_errors(cache: Path) -> Iterator[None]:
    """Say what an operating system error means for the cache; finished units stay staged."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise Conflict(
                f"the disk that holds cache {cache} is full: {error}",
                next_step="free some space (fs gc) and run the same command again; "
                "what was staged is kept",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InvalidInput(
                f"cache {cache} cannot be written: {error}",
                next_step="choose another folder with --cache DIR or FS_CACHE",
            ) from error
        raise
