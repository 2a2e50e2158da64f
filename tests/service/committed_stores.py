"""Feature sets committed to a cache without images or a network, of any size and either format."""

import dataclasses

from featurestore.catalogue import Record, checksums_path, record_path, set_fingerprint
from featurestore.digests import sha256_hex
from featurestore.embedding.commit import checksum_lines, remove_store, store_files, store_path
from featurestore.stores import create_store
from featurestore.stores.zarr_store import ZarrWriter
from featurestore.testing.rows import RECIPE
from featurestore.testing.store_rows import layout_of, sparse_rows, write_splits


def commit_rows(
    cache, splits, *, manifest="e", dataset="photos", store_format="zarr", shard_above=None,
    sequence=1, recipe=RECIPE,
) -> Record:  # fmt: skip
    """Commit `splits`, by name, as `featurestore.embedding.commit` does: the record last.

    `manifest` is repeated to make the manifest's fingerprint, so equal ones make equal names.
    """
    name = f"{dataset}/{recipe.name}"
    fingerprint = set_fingerprint((manifest * 64)[:64], recipe)
    store = store_path(cache, name=name, fingerprint=fingerprint, store_format=store_format)
    store.parent.mkdir(parents=True, exist_ok=True)
    remove_store(store)
    building = store.with_name(f".incomplete-{store.name}")
    layout = layout_of(splits, {"name": name, "class_names": ["cats", "dogs"]})
    writer = (
        create_store(store_format, building, layout)
        if shard_above is None
        else ZarrWriter(building, layout, shard_above=shard_above)
    )
    write_splits(writer, splits)
    writer.close()
    checksums = checksum_lines(building, store.name)
    building.replace(store)
    checksums_path(store).write_bytes(checksums)
    record = Record(
        name=name,
        store_format=store_format,
        store=store,
        sequence=sequence,
        fingerprint=fingerprint,
        recipe=recipe,
        manifest_fingerprint=(manifest * 64)[:64],
        source_fingerprint="a" * 64,
        class_names=("cats", "dogs"),
        rows={split: len(rows.labels) for split, rows in splits.items()},
        feature_shape=next(iter(splits.values())).features.shape[1:],
        quarantine=(),
        provenance={"source": "made up"},
        committed_at="2026-01-01T00:00:00+00:00",
        content_sha256=dict.fromkeys(splits, "c" * 64),
        checksums_sha256=sha256_hex(checksums),
        stored_bytes=sum(path.stat().st_size for path in store_files(store)),
    )
    write_record(record)
    return record


def write_record(record, **changes) -> None:
    """Write a record's file anew, with some fields changed, as a commit does: by replacing it."""
    target = record_path(record.store)
    temporary = target.with_name(f".tmp-0-0-{target.name}")
    temporary.write_bytes(dataclasses.replace(record, **changes).to_json())
    temporary.replace(target)


def commit_list(record, checksums) -> None:
    """Give a store another checksum list, which its record pins."""
    checksums_path(record.store).write_bytes(checksums)
    write_record(record, checksums_sha256=sha256_hex(checksums))


def few_rows(rows=100, *, seed=0, shape=(2, 2, 8)):
    """Return a training and a test split."""
    return {
        "train": sparse_rows(rows, shape, seed=seed),
        "test": sparse_rows(rows // 2, shape, seed=seed + 1),
    }
