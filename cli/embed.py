"""`fs embed`: compute the features of a dataset, once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from featurestore.augmentation import parse_augmentation
from featurestore.embedding.embed import embed as embed_dataset
from featurestore.embedding.settings import EmbedResult, EmbedSettings
from featurestore_cli.options import cache_option, json_option
from featurestore_cli.output import print_fields, print_json, print_line, say, say_quarantined
from featurestore_cli.progress import progress_for
from featurestore_cli.recipe_options import RECIPE_OPTIONS, embed_fields, recipe_options


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@recipe_options
@click.option("--seed", type=click.INT, show_default="0", help="Seed of --split.")
@click.option(
    "--views",
    type=click.IntRange(1),
    metavar="K",
    help="Embed K augmented versions of each training image too; a set that has more is kept.",
)
@click.option(
    "--augment",
    metavar="SPEC",
    show_default="default",
    help="What views are drawn from: default, reference, or fields such as rotation=20,flip=false.",
)
@click.option("--view-seed", type=click.IntRange(0), show_default="0", help="Seed of --views.")
@click.option("--store", type=click.Choice(["zarr", "hdf5"]), default="zarr", show_default=True)
@click.option(
    "--compression", type=click.Choice(["gzip", "zstd"]), help="Default: zarr zstd, hdf5 gzip."
)
@click.option("--batch-size", type=click.IntRange(1), help="Default: what suits the device.")
@click.option("--workers", type=click.IntRange(1), help="Decoding threads; default: one a core.")
@click.option("--strict", is_flag=True, help="Stop at the first unreadable image.")
@click.option("--wait", is_flag=True, help="Wait for another writer of the same set.")
@click.option("--dry-run", is_flag=True, help="Print what would be computed; compute nothing.")
@cache_option
@json_option
def embed(
    dataset: Path,
    cache: Path,
    *,
    seed: int | None,
    augment: str | None,
    view_seed: int | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Embed DATASET: a folder of splits of class folders, a folder of class folders (with --split),
    or a CSV or Parquet file with the columns path, label and split.

    What exists is reused. A killed run goes on where it stopped. Unreadable images are listed, the
    rest goes on, and the exit code is 1.

    With --views K the set is named after ranges and seed, and holds the images as they are as well.
    More views later compute only the new ones.
    """
    if seed is not None and options["split"] is None:
        raise click.UsageError("--seed: it is the seed of --split, which is not given")
    for flag, value in (("--augment", augment), ("--view-seed", view_seed)):
        if value is not None and options["views"] is None:
            raise click.UsageError(f"{flag}: it is for --views K, which is not given")
    augmentation = None if augment is None else parse_augmentation(augment)
    if augment is not None and (augmentation is None or augmentation.changes_nothing):
        raise click.UsageError(f"--augment {augment}: views of it would be the images themselves")
    others = {name: value for name, value in options.items() if name not in RECIPE_OPTIONS}
    settings = EmbedSettings(
        seed=seed or 0,
        augmentation=augmentation,
        view_seed=view_seed or 0,
        **embed_fields(options),
        **others,
    )
    with progress_for(sys.stderr) as progress:
        result = embed_dataset(dataset, settings, cache=cache, progress=progress)
    if as_json:
        print_json(_fields(result))
    else:
        _print(result)
    return say_quarantined(result.quarantined, feature_set=result.feature_set)


def _fields(result: EmbedResult) -> dict[str, object]:
    return {
        "feature_set": result.feature_set,
        "fingerprint": result.fingerprint,
        "path": None if result.path is None else str(result.path),
        "rows": dict(result.rows),
        "computed": result.computed,
        "reused": result.reused,
        "views": result.views,
        "views_computed": result.views_computed,
        "views_reused": result.views_reused,
        "quarantined": len(result.quarantined),
        "quarantine": [vars(entry) for entry in result.quarantined],
        "seconds": result.seconds,
        "images_per_s": result.images_per_s,
        "dry_run": result.dry_run,
    }


def _print(result: EmbedResult) -> None:
    speed = f" at {result.images_per_s:.1f} images/s" if result.images_per_s else ""
    print_line(result.feature_set)
    computed = "  to compute" if result.dry_run else "  computed"
    fields: list[tuple[str, object]] = [
        ("  rows", ", ".join(f"{split} {count}" for split, count in result.rows.items())),
        (computed, f"{result.computed}{speed}"),
        ("  reused", result.reused),
    ]
    viewed = result.views_computed + result.views_reused > 0
    if viewed:
        fields = [
            fields[0],
            ("  views", f"{result.views} of each training image"),
            (computed, f"{result.computed} images and {result.views_computed} views{speed}"),
            ("  reused", f"{result.reused} images and {result.views_reused} views"),
        ]
    print_fields(
        [
            *fields,
            ("  quarantined", len(result.quarantined)),
            ("  fingerprint", result.fingerprint[:16]),
            ("  store", result.path or "not written: dry run"),
        ]
    )
    if not result.dry_run:
        how = "--head dense --views all" if viewed else "--head logistic"
        say(f"next: fs train {result.feature_set} {how}")
