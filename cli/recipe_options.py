"""The options that say how a dataset is embedded: its recipe, its splits and its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

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
