"""`fs ls`, `show`, `verify`, `export`, `gc`: what a cache holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from featurestore.catalogue import Catalogue, Record
from featurestore_cli.options import cache_option, json_option
from featurestore_cli.output import (
    bytes_text,
    print_fields,
    print_json,
    print_line,
    say,
    say_error,
)
from featurestore_cli.set_table import print_sets, rows_text, set_fields, shape_text
from featurestore_cli.token_option import token_option


def _views_text(record: Record) -> str:
    """Return how many views there are, of what: ranges that are 0 are left out."""
    views = record.recipe.augmentation
    if views is None:
        return "none"
    ranges = [
        f"{name} {value}"
        for name, value in views.augmentation.to_dict().items()
        if name in ("rotation", "shift", "shear", "zoom") and value != "0"
    ]
    ranges += ["flip"] * views.augmentation.flip
    drawn = ", ".join([*ranges, f"fill {views.augmentation.fill}", f"seed {views.seed}"])
    return f"{views.count} of each training image: {drawn}"


@click.command()
@click.option("--all", "everything", is_flag=True, help="Superseded versions too.")
@click.option("--remote", metavar="URL", help="List those of the service at URL instead.")
@token_option
@cache_option
@json_option
def ls(
    cache: Path,
    *,
    everything: bool,
    remote: str | None,
    token_file: Path | None,
    as_json: bool,
) -> int:
    """List the feature sets of a cache, newest version of each name.

    With --remote URL those of a service, and whether each is in the cache already.

    A record that cannot be read is told on stderr, and the exit code is then 5 (6 for one that a
    newer version wrote).
    """
    if remote is not None:
        if everything:
            raise click.UsageError("--all: a service lists the newest version of each name")
        from featurestore_cli.remote_sets import list_remote

        return list_remote(remote, token_file=token_file, cache=cache, as_json=as_json)
    if token_file is not None:
        raise click.UsageError("--token-file: it is for --remote URL, which is not given")
    catalogue = Catalogue(cache)
    records = catalogue.records() if everything else catalogue.current()
    problems = catalogue.problems()
    if as_json:
        print_json({"feature_sets": [_summary(record) for record in records]})
    elif records:
        print_sets(records, quarantined=[len(record.quarantine) for record in records])
    elif not problems:
        say(f"no feature set in {cache}; next: fs embed DATASET")
    for problem in problems:
        say_error(problem)
    return min((problem.exit_code for problem in problems), default=0)


def _summary(record: Record) -> dict[str, object]:
    fields = set_fields(record, quarantined=len(record.quarantine))
    return fields | {"path": str(record.store)}


@click.command()
@click.argument("name")
@cache_option
@json_option
def show(name: str, cache: Path, *, as_json: bool) -> int:
    """Show a feature set or a run: NAME is its name, its id or the unique start of one.

    Of a feature set: recipe, classes, rows, bytes, compression, provenance, quarantine. Of a run:
    settings, metrics on every split, history, the fingerprints of what it was trained on, versions
    and files, whose bytes are held to their digests (exit code 5 where they differ).
    """
    from featurestore.training.naming import find_named
    from featurestore.training.runs import Run
    from featurestore_cli.runs import show_run

    found = find_named(name, cache=cache)
    if isinstance(found, Run):
        return show_run(found, as_json=as_json)
    _show_set(found, as_json=as_json)
    return 0


def _show_set(record: Record, *, as_json: bool) -> None:
    from featurestore.features import open_record

    with open_record(record) as features:
        storage = features.storage()
    if as_json:
        print_json(
            _summary(record)
            | {
                "kind": "feature set",
                "manifest_fingerprint": record.manifest_fingerprint,
                "recipe_fingerprint": record.recipe.fingerprint,
                "recipe": record.recipe.to_dict(),
                "class_names": list(record.class_names),
                "storage": storage,
                "provenance": dict(record.provenance),
                "quarantine": [dataclasses.asdict(entry) for entry in record.quarantine],
            }
        )
        return
    print_line(record.name)
    logical = int(str(storage["logical_bytes"]))
    ratio = f" ({logical / record.stored_bytes:.1f} x smaller)" if record.stored_bytes else ""
    print_fields(
        [
            ("  fingerprint", record.fingerprint),
            ("  store", record.store),
            ("  rows", rows_text(record)),
            ("  views", _views_text(record)),
            ("  classes", _classes_text(record.class_names)),
            ("  features", f"{shape_text(record)} {record.recipe.dtype}"),
            ("  bytes", f"{bytes_text(record.stored_bytes)} of {bytes_text(logical)}{ratio}"),
            ("  compression", f"{storage['compression']}, chunks of {storage['chunk_rows']} rows"),
            ("  committed", record.committed_at),
        ]
    )
    _section("recipe", record.recipe.to_dict())
    provenance = dict(record.provenance)
    machines = provenance.pop("computed_on", [])
    _section("provenance", provenance)
    for machine in machines if isinstance(machines, list) else []:
        _section("computed on", machine)
    print_line(f"quarantine: {len(record.quarantine) or 'none'}")
    for entry in record.quarantine:
        print_line(f"  {entry.sample_id}: {entry.reason}")


def _classes_text(names: tuple[str, ...], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)}: {', '.join(names[:most])}{more}"


def _section(title: str, fields: dict[str, object]) -> None:
    print_line(f"{title}:")
    for name, value in fields.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list):
            value = " x ".join(map(str, value))
        print_line(f"  {name.ljust(16)} {'-' if value is None else value}")


@click.command()
@click.argument("name")
@click.option(
    "--recompute",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Embed N rows or views again.",
)
@click.option("--weights", help="Weights for --recompute; default: those it was embedded with.")
@click.option("--seed", type=click.INT, show_default="0", help="Which rows --recompute draws.")
@cache_option
@json_option
def verify(
    name: str, cache: Path, *, recompute: int, weights: str | None, seed: int | None, as_json: bool
) -> None:
    """Check every byte and row of feature set NAME against what was committed.

    With --recompute N, also read the images of N rows or views again, embed them, and hold them to
    the tolerance that docs/architecture.md states.
    """
    for flag, value in (("--weights", weights), ("--seed", seed)):
        if value is not None and not recompute:
            raise click.UsageError(f"{flag}: it is for --recompute N, which is not given")
    from featurestore.embedding.backbone import network_of
    from featurestore.verify import verify_set

    record = Catalogue(cache).find(name)
    chosen = weights or str(record.provenance["weights"])
    result = verify_set(
        record,
        recompute=recompute,
        seed=seed or 0,
        network=(lambda recipe: network_of(recipe, weights=chosen)) if recompute else None,
    )
    if as_json:
        print_json({"name": record.name, "fingerprint": record.fingerprint} | vars(result))
        return
    rows = f"{result.rows} rows" + (f" with {result.views} views" if result.views else "")
    print_line(f"{record.name}: {result.files} files and {rows} are as committed")
    if result.recomputed:
        print_line(
            f"{result.recomputed} rows recomputed: largest relative distance "
            f"{result.largest_distance:.2g}, tolerance {result.tolerance:g}"
        )


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@cache_option
def export(name: str, file: Path, cache: Path, *, overwrite: bool) -> None:
    """Write feature set NAME to FILE: .npz, .parquet, .h5 or .zarr."""
    from featurestore.export import export_set
    from featurestore.features import open_features

    with open_features(name, cache=cache) as features:
        export_set(features, file, overwrite=overwrite)
        say(f"wrote {features.name} to {file}")


@click.command()
@click.option(
    "--staging", is_flag=True, help="What unfinished embeddings and trainings have left, too."
)
@click.option("--dry-run", is_flag=True, help="List what would be removed; remove nothing.")
@cache_option
@json_option
def gc(cache: Path, *, staging: bool, dry_run: bool, as_json: bool) -> None:
    """Remove superseded versions of feature sets and leftovers of killed commits.

    A version that a run was trained on stays, and so do the staged rows of an unfinished embedding
    (its next run goes on from them) unless --staging is given. Checkpoints of a training that was
    stopped stay for a week, and go with --staging.
    """
    from featurestore.collect import find_garbage, remove_garbage

    garbage = find_garbage(cache, staging=staging)
    going = [item for item in garbage if item.kept is None]
    freed = sum(item.size_bytes for item in going) if dry_run else remove_garbage(cache, garbage)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "bytes": freed,
                "removed": [
                    {"path": str(i.path), "reason": i.reason, "bytes": i.size_bytes} for i in going
                ],
                "kept": [
                    {"path": str(i.path), "reason": i.kept, "bytes": i.size_bytes}
                    for i in garbage
                    if i.kept is not None
                ],
            }
        )
        return
    for item in garbage:
        verb = "kept" if item.kept is not None else "would remove" if dry_run else "removed"
        why = f"{item.reason}; {item.kept}" if item.kept is not None else item.reason
        print_line(f"{verb} {item.path} ({bytes_text(item.size_bytes)}): {why}")
    print_line(f"{bytes_text(freed)} {'would be freed' if dry_run else 'freed'}")
