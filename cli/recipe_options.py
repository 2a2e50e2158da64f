"""The options that say how a dataset is embedded: its recipe, its splits and its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from featurestore.catalogue import Catalogue, dataset_name
from featurestore.datasets.splitting import SplitFractions
from featurestore.errors import Conflict
from featurestore_cli.options import Command, SizeType

# Option as passed: field of EmbedSettings.
_FIELDS = {
    "backbone": "backbone",
    "backbone_weights": "weights",
    "layer": "layer",
    "pooling": "pooling",
    "size": "size",
    "interpolation": "interpolation",
    "precision": "precision",
    "dtype": "dtype",
    "split": "split",
    "dataset_name": "name",
}

# Without defaults, so that what was asked for is told from what was not: they are EmbedSettings'.
_OPTIONS = (
    click.option("--backbone", help="Pretrained network.", show_default="vgg16"),
    click.option(
        "--weights",
        "backbone_weights",
        help="imagenet, random:SEED, or a .weights.h5, .h5, .keras or .onnx file.",
        show_default="imagenet",
    ),
    click.option("--layer", help="Cut layer (fs summary lists them); default: last feature map."),
    click.option("--pooling", type=click.Choice(["none", "avg", "max"]), show_default="none"),
    click.option(
        "--size", type=SizeType(), help="Input pixels, 150 or 150x200; default: the backbone's."
    ),
    click.option(
        "--interpolation",
        type=click.Choice(["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]),
        show_default="bilinear",
        help="Filter of the resize.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        show_default="auto",
        help="Type the network computes in; auto is bfloat16 where the processor has it.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float16", "float32"]),
        show_default="float16",
        help="Type features are stored in.",
    ),
    click.option("--split", help="Fractions such as 0.7,0.15,0.15 for a folder of class folders."),
    click.option("--name", "dataset_name", help="Dataset name; default: the folder's."),
)

RECIPE_OPTIONS = tuple(_FIELDS)
"""Under which names the options are passed."""


split_seed_option = click.option(
    "--split-seed",
    type=click.IntRange(0),
    show_default="0",
    help="Seed of --split; --seed is the training's.",
)
"""For commands whose ``--seed`` is another; passed as `split_seed`, None if absent."""

EMBED_OPTIONS = (*RECIPE_OPTIONS, "split_seed")
"""Options by which such a command embeds a dataset first."""


def recipe_options(command: Command) -> Command:
    """Add an option for each of `RECIPE_OPTIONS`, passed by that name, None if absent."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def embed_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options that were given, as fields of `EmbedSettings`."""
    return {
        field: options[option]
        for option, field in _FIELDS.items()
        if options.get(option) is not None
    }


def check_split(dataset: Path, options: Mapping[str, Any], *, cache: Path) -> None:
    """Refuse to split a dataset otherwise than before unless ``--split-seed`` says so.

    The newest version of a name is the current one: whoever forgot the seed would leave the splits
    that everything before was trained on.

    Raises
    ------
    Conflict
        The newest feature set of that dataset name was split by other fractions or another seed.
    """
    if options.get("split") is None:
        return
    resolved = dataset.resolve()
    given = options.get("dataset_name") or (resolved.stem if resolved.is_file() else resolved.name)
    name = dataset_name(given)
    records = [
        record
        for record in Catalogue(cache).records()
        if record.dataset == name and record.provenance.get("split")
    ]
    if options.get("split_seed") is not None or not records:
        return
    newest = max(records, key=lambda record: record.sequence)
    split, seed = str(newest.provenance["split"]), int(str(newest.provenance.get("seed") or 0))
    asked = SplitFractions.parse(options["split"])
    if asked != SplitFractions.parse(split, seed=seed):
        raise Conflict(
            f"{newest.name} was split by {split} with seed {seed}: expected the same, found "
            f"--split {options['split']} with seed 0",
            next_step=f"add --split {split} --split-seed {seed}, or --split-seed 0 if another "
            "split is meant",
        )
