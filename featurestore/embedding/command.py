"""How a committed feature set would be embedded again: the command to type, and the settings."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from featurestore.augmentation import Augmentation
from featurestore.catalogue import Record, dataset_name
from featurestore.embedding.settings import EmbedSettings
from featurestore.recipe import Recipe, Views

_USUAL = {"pooling": "none", "interpolation": "bilinear", "dtype": "float16"}


def embed_command(
    record: Record,
    *,
    recipe: Recipe | None = None,
    weights: str | None = None,
    images: Path | None = None,
    cache: Path | None = None,
) -> str:
    """Return what embeds the images of a committed set.

    Parameters
    ----------
    recipe
        What they are to be embedded under; None: the set's own.
    weights
        As on the command line; None: those that the set was embedded with.
    images
        Where the images lie, if no longer where they were embedded from.
    cache
        Named in the command where it is given.
    """
    recipe = recipe or record.recipe
    provenance = record.provenance
    dataset = Path(str(provenance.get("source") or "DATASET"))
    if images is not None and not dataset.exists():
        dataset = images
    height, width = recipe.size
    words = ["fs", "embed", str(dataset), "--backbone", recipe.backbone, "--layer", recipe.layer]
    words += ["--weights", weights or str(provenance.get("weights") or "WEIGHTS")]
    words += ["--size", f"{height}x{width}", "--precision", recipe.precision]
    for field, usual in _USUAL.items():
        if (value := getattr(recipe, field)) != usual:
            words += [f"--{field}", value]
    if provenance.get("split"):
        words += ["--split", str(provenance["split"]), "--seed", str(provenance.get("seed") or 0)]
    if record.store_format != "zarr":
        words += ["--store", record.store_format]
    if dataset_name(dataset.stem if dataset.is_file() else dataset.name) != record.dataset:
        words += ["--name", record.dataset]
    if recipe.augmentation is not None:
        words += _views(recipe.augmentation)
    if cache is not None:
        words += ["--cache", str(cache)]
    return shlex.join(words)


def embed_settings(record: Record) -> EmbedSettings:
    """Return the settings that embed a dataset as a committed set was."""
    recipe, provenance = record.recipe, record.provenance
    views = recipe.augmentation
    return EmbedSettings(
        backbone=recipe.backbone,
        weights=str(provenance["weights"]),
        layer=recipe.layer,
        pooling=recipe.pooling,
        size=recipe.size,
        interpolation=recipe.interpolation,
        precision=recipe.precision,
        dtype=recipe.dtype,
        split=str(provenance["split"]) if provenance.get("split") else None,
        seed=int(str(provenance.get("seed") or 0)),
        views=None if views is None else views.count,
        augmentation=None if views is None else views.augmentation,
        view_seed=0 if views is None else views.seed,
        name=record.dataset,
        store=record.store_format,
    )


def with_views(recipe: Recipe, count: int) -> Recipe:
    """Return a recipe with `count` views: of its own ranges and seed, or the usual ones."""
    views = recipe.augmentation
    augmentation, seed = (Augmentation(), 0) if views is None else (views.augmentation, views.seed)
    return dataclasses.replace(
        recipe, augmentation=Views(augmentation=augmentation, seed=seed, count=count)
    )


def _views(views: Views) -> list[str]:
    """Return the options of views; ranges are told as fields where they are not the usual ones."""
    words = ["--views", str(views.count)]
    usual, fields = Augmentation().to_dict(), views.augmentation.to_dict()
    changed = [f"{name}={_text(value)}" for name, value in fields.items() if value != usual[name]]
    if changed:
        words += ["--augment", ",".join(changed)]
    if views.seed:
        words += ["--view-seed", str(views.seed)]
    return words


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
