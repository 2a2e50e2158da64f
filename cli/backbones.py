"""`fs summary`: the layers of a backbone, to choose where to cut and what to unfreeze."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from featurestore_cli.options import SizeType, json_option
from featurestore_cli.output import print_fields, print_json, print_line, print_table

if TYPE_CHECKING:
    from featurestore.backbones.summary import BackboneSummary, Counts, LayerRow

_COLUMNS = ("index", "layer", "input", "output", "parameters", "trained")
_RIGHT = ("index", "parameters")


@click.command()
@click.argument("backbone")
@click.option("--top", is_flag=True, help="Include the ImageNet classifier.")
@click.option(
    "--size", type=SizeType(), help="Input pixels, 150 or 150x200; default: the backbone's."
)
@click.option(
    "--unfreeze",
    multiple=True,
    metavar="LAYER",
    help="Freeze all but these layers, named as for fs train: block5, 'block7*'; may be repeated.",
)
@click.option("--head", is_flag=True, help="With the head Flatten, Dense(256), Dense(1) on it.")
@json_option
def summary(
    backbone: str,
    *,
    top: bool,
    size: tuple[int, int] | None,
    unfreeze: tuple[str, ...],
    head: bool,
    as_json: bool,
) -> None:
    """Print the layers of BACKBONE, such as vgg16, with shapes and parameters.

    Every name in the column "layer" can be given to `fs embed --layer`.
    """
    from featurestore.backbones.quiet import quiet_startup
    from featurestore.backbones.table import get_spec

    get_spec(backbone)  # a misspelt name is told before TensorFlow takes its seconds to load
    with quiet_startup():
        from featurestore.backbones.summary import SummaryOptions, summarize
    described = summarize(
        backbone, SummaryOptions(top=top, size=size, unfreeze=unfreeze or None, head=head)
    )
    if as_json:
        print_json(_fields(described))
    else:
        _print(described)


def _print(described: BackboneSummary) -> None:
    height, width = described.size
    top = "with its top" if described.top else "without its top"
    print_line(
        f"{described.backbone} at {height}x{width}, {top}; "
        f"default cut layer: {described.default_layer}"
    )
    rows = [*described.layers, *(described.head or ())]
    print_table(_COLUMNS, [_cells(row) for row in rows], right=_RIGHT)
    _print_counts(described.backbone, described.counts)
    if described.head_counts is not None and described.head_unfrozen_counts is not None:
        _print_counts(f"{described.backbone} and head", described.head_counts)
        unfrozen = described.head_unfrozen_counts
        print_fields([("  before freezing, trainable arrays", unfrozen.trainable_arrays)])


def _cells(row: LayerRow) -> list[str]:
    trained = "yes" if row.trainable else "no" if row.parameters else ""
    return [
        str(row.index),
        row.name,
        _shape(row.input_shape),
        _shape(row.output_shape),
        f"{row.parameters:,}",
        trained,
    ]


def _shape(shape: tuple[int | None, ...]) -> str:
    """Return the shape of one image's array: the batch axis is left out."""
    return "(" + ", ".join("?" if side is None else str(side) for side in shape[1:]) + ")"


def _print_counts(title: str, counts: Counts) -> None:
    print_line(title)
    print_fields(
        [
            ("  total parameters", f"{counts.total:,}"),
            ("  trainable", f"{counts.trainable:,}"),
            ("  non-trainable", f"{counts.non_trainable:,}"),
            ("  weight arrays", counts.weight_arrays),
            ("  trainable arrays", counts.trainable_arrays),
        ]
    )


def _fields(described: BackboneSummary) -> dict[str, object]:
    fields = dataclasses.asdict(described)
    for name in ("counts", "head_counts", "head_unfrozen_counts"):
        counts = getattr(described, name)
        if counts is not None:
            fields[name]["non_trainable"] = counts.non_trainable
    return fields
