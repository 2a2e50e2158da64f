"""Holding a feature set to what was committed, and some rows to what its recipe gives now."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from featurestore.catalogue import Record, checksums_path
from featurestore.digests import sha256_file, sha256_hex
from featurestore.embedding.commit import content_digest, store_files
from featurestore.errors import IntegrityError, InvalidInput
from featurestore.executors.contract import EmbedsBatches
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
    """What was checked: files and rows, and the distances of recomputed rows."""

    files: int
    rows: int
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
        Number of rows, drawn over all splits with `seed`, whose images are read and embedded again.
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
    rows = _verify_rows(record)
    distances = np.zeros(0)
    if recompute and network is not None:
        distances = _recompute(record, min(recompute, rows), seed, network)
    tolerance = TOLERANCE[record.recipe.precision]
    return Verification(files, rows, len(distances), float(distances.max(initial=0.0)), tolerance)


def _verify_files(record: Record) -> int:
    again = f"remove {record.path} and embed the dataset again"
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


def _verify_rows(record: Record) -> int:
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
            found = content_digest(split.read, split.shape)
            if found != record.content_sha256[name]:
                raise IntegrityError(
                    f"{record.store}, split {name}: expected features "
                    f"{record.content_sha256[name][:16]}, found {found[:16]}",
                    next_step="embed the dataset again",
                )
        manifest = Manifest(record.class_names, parts)
    if manifest.fingerprint != record.manifest_fingerprint:
        raise IntegrityError(
            f"{record.store}: expected manifest fingerprint {record.manifest_fingerprint}, "
            f"found {manifest.fingerprint}",
            next_step="embed the dataset again",
        )
    return sum(manifest.rows.values())


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
        offsets = [(name, row) for name in features.splits for row in range(len(features[name]))]
        drawn = np.sort(np.random.default_rng(seed).choice(len(offsets), count, replace=False))
        groups = [
            [offsets[at] for at in drawn[start : start + backbone.batch_size].tolist()]
            for start in range(0, count, backbone.batch_size)
        ]
        parts = {name: features[name] for name in features.splits}
        images = (
            np.stack([_read_image(parts[name], row, source, recipe) for name, row in group])
            for group in groups
        )
        for group, fresh in zip(groups, backbone.embed_stream(images), strict=True):
            for (name, row), computed in zip(group, fresh, strict=True):
                distance = _distance(parts[name][row], computed)
                if not distance <= TOLERANCE[recipe.precision]:
                    raise IntegrityError(
                        f"{record.name}, {parts[name].sample_ids[row]}: expected a relative "
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


def _read_image(part: Split, row: int, source: SourceImages, recipe: Recipe) -> np.ndarray:
    sample_id, digest = str(part.sample_ids[row]), part.sha256[row].tobytes().hex()
    try:
        content = source.read(sample_id, sha256=digest)
        return decode_image(content, size=recipe.size, interpolation=recipe.interpolation)
    except SourceImageMissing as error:
        raise InvalidInput(
            error.message, next_step="embed the dataset again, then verify; or put the image back"
        ) from error
    except (MemoryError, UnreadableImage) as error:
        raise InvalidInput(
            f"image {sample_id} cannot be decoded again: {error}",
            next_step="verify without --recompute",
        ) from error
