"""Holding a feature set to what was committed, and some rows to what its recipe gives now."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np

from featurestore.augmentation import augment
from featurestore.catalogue import PULLED_FROM, Record, checksums_path
from featurestore.digests import sha256_file, sha256_hex
from featurestore.embedding.commit import content_digests, content_names, store_files
from featurestore.errors import IntegrityError, InvalidInput
from featurestore.executors.contract import EmbedsBatches, Version
from featurestore.features import Split, open_record
from featurestore.images import UnreadableImage, decode_image
from featurestore.manifest import Manifest, ManifestSplit
from featurestore.recipe import Recipe
from featurestore.source_images import SourceImageMissing, SourceImages

# Relative L2 distance that a recomputed row may have from the stored one. Measured on VGG16,
# bfloat16 lies within 0.02 of float32 (docs/precision.md); float16 storage within 0.0005.
TOLERANCE = {"float32": 0.002, "bfloat16": 0.03, "float16": 0.03}


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was checked: files, rows, views of rows, and the distances of recomputed ones."""

    files: int
    rows: int
    views: int
    recomputed: int
    largest_distance: float
    tolerance: float


def verify_set(
    record: Record,
    *,
    recompute: int = 0,
    seed: int = 0,
    network: Callable[[Recipe], EmbedsBatches] | None = None,
) -> Verification:
    """Check every stored byte, every row's identity, and optionally recompute some rows.

    Parameters
    ----------
    recompute
        Number of rows, drawn with `seed` over all splits and views, whose images are read and
        embedded again.
    network
        Builds the backbone of a recipe; needed to recompute.

    Raises
    ------
    IntegrityError
        A file, a row or a recomputed feature is not what was committed.
    InvalidInput
        Rows are to be recomputed and the dataset is not where it was.
    """
    files = _verify_files(record)
    rows, views = _verify_rows(record)
    distances = np.zeros(0)
    if recompute and network is not None:
        distances = _recompute(record, min(recompute, rows + views), seed, network)
    return Verification(
        files=files,
        rows=rows,
        views=views,
        recomputed=len(distances),
        largest_distance=float(distances.max(initial=0.0)),
        tolerance=TOLERANCE[record.recipe.precision],
    )


def _verify_files(record: Record) -> int:
    pulled_from = record.provenance.get(PULLED_FROM)
    again = f"remove {record.path} and embed the dataset again"
    if pulled_from is not None:
        cache = str(record.store.parent.parent)
        pull = ["fs", "pull", str(pulled_from), record.name, "--format", record.store_format]
        again = shlex.join([*pull, "--again", "--cache", cache])
    listing = checksums_path(record.store)
    try:
        text = listing.read_bytes()
    except FileNotFoundError as error:
        raise IntegrityError(f"{listing} is missing", next_step=again) from error
    if sha256_hex(text) != record.checksums_sha256:
        raise IntegrityError(
            f"{listing}: expected digest {record.checksums_sha256}, found {sha256_hex(text)}",
            next_step=again,
        )
    expected = {}
    for line in text.decode().splitlines():
        digest, _, name = line.partition("  ")
        expected[record.store.parent / name] = digest
    found = set(store_files(record.store)) if record.store.exists() else set()
    for path in sorted(found ^ set(expected)):
        what = "is missing" if path in expected else "does not belong to the store"
        raise IntegrityError(f"{path} {what}", next_step=again)
    for path, digest in expected.items():
        if sha256_file(path) != digest:
            raise IntegrityError(
                f"{path}: expected digest {digest}, found {sha256_file(path)}", next_step=again
            )
    return len(expected)


def _verify_rows(record: Record) -> tuple[int, int]:
    """Return how many rows, and how many views of rows, are as committed."""
    views = 0
    with open_record(record) as features:
        parts = {}
        for name in features.splits:
            split = features[name]
            parts[name] = ManifestSplit(
                sample_ids=tuple(split.sample_ids.tolist()),
                labels=split.labels,
                sha256=split.sha256,
                paths=(Path(),) * len(split),
            )
            views += split.views * len(split)
            found = content_digests(name, split, rows=len(split))
            for content in content_names(name, record.recipe.augmentation):
                expected, stored = record.content_sha256.get(content), found.get(content)
                if stored is None or stored != expected:
                    raise IntegrityError(
                        f"{record.store}, {content}: expected features "
                        f"{(expected or 'none')[:16]}, found {(stored or 'none')[:16]}",
                        next_step="embed the dataset again",
                    )
        manifest = Manifest(record.class_names, parts)
    if manifest.fingerprint != record.manifest_fingerprint:
        raise IntegrityError(
            f"{record.store}: expected manifest fingerprint {record.manifest_fingerprint}, "
            f"found {manifest.fingerprint}",
            next_step="embed the dataset again",
        )
    return sum(manifest.rows.values()), views


def _recompute(
    record: Record, count: int, seed: int, network: Callable[[Recipe], EmbedsBatches]
) -> np.ndarray:
    recipe = record.recipe
    source = SourceImages(record)
    if not source.dataset.exists():
        raise InvalidInput(
            f"the dataset of {record.name} is no longer at {source.dataset}",
            next_step="verify without --recompute, or put the dataset back",
        )
    backbone = network(recipe)
    distances = []
    with open_record(record) as features:
        parts = {name: features[name] for name in features.splits}
        offsets: list[tuple[str, int, Version]] = [
            (name, row, version)
            for name, part in parts.items()
            for version in (None, *range(part.views))
            for row in range(len(part))
        ]
        drawn = np.sort(np.random.default_rng(seed).choice(len(offsets), count, replace=False))
        groups = [
            [offsets[at] for at in drawn[start : start + backbone.batch_size].tolist()]
            for start in range(0, count, backbone.batch_size)
        ]
        images = (
            np.stack(
                [
                    _read_image(parts[name], row, version, source, recipe)
                    for name, row, version in group
                ]
            )
            for group in groups
        )
        for group, fresh in zip(groups, backbone.embed_stream(images), strict=True):
            for (name, row, version), computed in zip(group, fresh, strict=True):
                part = parts[name]
                stored = part[row] if version is None else part.read_view(version, row, row + 1)[0]
                distance = _distance(stored, computed)
                if not distance <= TOLERANCE[recipe.precision]:
                    of_view = "" if version is None else f", view {version}"
                    raise IntegrityError(
                        f"{record.name}, {part.sample_ids[row]}{of_view}: expected a relative "
                        f"distance of at most {TOLERANCE[recipe.precision]} from the stored "
                        f"features, found {distance:.4f}",
                        next_step="compare the versions in `fs show` with those of `fs doctor`",
                    )
                distances.append(distance)
    return np.array(distances)


def _distance(stored: np.ndarray, computed: np.ndarray) -> float:
    expected = stored.astype(np.float64)
    scale = max(float(np.linalg.norm(expected)), 1e-12)
    return float(np.linalg.norm(computed.astype(np.float64) - expected)) / scale


def _read_image(
    part: Split, row: int, version: Version, source: SourceImages, recipe: Recipe
) -> np.ndarray:
    sample_id, sha256 = str(part.sample_ids[row]), part.sha256[row].tobytes()
    try:
        content = source.read(sample_id, sha256=sha256.hex())
        image = decode_image(content, size=recipe.size, interpolation=recipe.interpolation)
        views = recipe.augmentation
        if version is None or views is None:
            return image
        return augment(image, views.augmentation, seed=views.seed, sha256=sha256, view=version)
    except SourceImageMissing as error:
        raise InvalidInput(
            error.message, next_step="embed the dataset again, then verify; or put the image back"
        ) from error
    except (MemoryError, UnreadableImage) as error:
        raise InvalidInput(
            f"image {sample_id} cannot be decoded again: {error}",
            next_step="verify without --recompute",
        ) from error
