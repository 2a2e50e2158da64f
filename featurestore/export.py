"""Writing a feature set as one file for other tools; rows stream, so memory stays bounded."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from featurestore.errors import Conflict, InvalidInput
from featurestore.features import FeatureSet, Split
from featurestore.stores import create_store, durable
from featurestore.stores.contract import SplitLayout, StoreLayout

_BLOCK_ROWS = 1024
_VIEW_BLOCK_ROWS = 256  # of all views at once


def export_set(features: FeatureSet, path: Path, *, overwrite: bool = False) -> None:
    """Write a feature set to `path`; its ending chooses the format.

    ``.npz`` holds, for each split S, ``S_features`` (N, *shape), ``S_labels`` (N,) int64,
    ``S_sample_ids`` and ``S_sha256`` (hexadecimal), with ``class_names`` and ``recipe`` (JSON); it
    loads with ``allow_pickle=False``. A split with views has ``S_views`` (K, N, *shape) as well.
    ``.parquet`` holds one row for each sample: ``split``, ``sample_id``, ``label``, ``class``,
    ``sha256`` and ``features``, a fixed-size list of shape (H x W x C) in C order, whose shape
    stands in the file's metadata; where a split has views there is a column ``views``, a fixed-size
    list of shape (K x H x W x C), null in the other splits. ``.h5`` and ``.zarr`` are stores as in
    docs/format.md.

    The file appears under its name when it is whole and durable; until then a file that is
    overwritten stands there. A folder (.zarr) is moved away first, and back if that fails.

    Raises
    ------
    InvalidInput
        The ending is none of these.
    Conflict
        `path` exists and `overwrite` is not set.
    """
    writers: dict[str, Callable[[FeatureSet, Path], None]] = {
        ".npz": _write_npz,
        ".parquet": _write_parquet,
        ".h5": _write_store,
        ".zarr": _write_store,
    }
    if path.suffix not in writers:
        raise InvalidInput(
            f"export file {path}: expected an ending of {', '.join(writers)}, "
            f"found {path.suffix or 'none'}"
        )
    if path.exists() and not overwrite:
        raise Conflict(f"{path} exists already", next_step="choose another name or add --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f".incomplete-{path.name}")
    durable.remove(building)
    try:
        writers[path.suffix](features, building)
        if building.is_file():  # a store has synced its folder itself
            durable.sync_file(building)
        durable.put_in_place(building, path)
    except BaseException:
        durable.remove(building)
        raise


def _identity(features: FeatureSet) -> dict[str, Any]:
    return {
        "name": features.name,
        "fingerprint": features.fingerprint,
        "manifest_fingerprint": features.manifest_fingerprint,
        "recipe_fingerprint": features.recipe.fingerprint,
        "recipe": features.recipe.to_dict(),
        "class_names": list(features.class_names),
        "quarantine": [dataclasses.asdict(entry) for entry in features.record.quarantine],
        "provenance": dict(features.record.provenance),
    }


def _hex_digests(split: Split) -> list[str]:
    return [digest.tobytes().hex() for digest in split.sha256]


def _write_npz(features: FeatureSet, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, values: np.ndarray) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, values, allow_pickle=False)

        add("class_names", np.array(features.class_names, np.str_))
        add("recipe", np.array(json.dumps(features.recipe.to_dict())))
        add("fingerprint", np.array(features.fingerprint))
        for name in features.splits:
            split = features[name]
            with archive.open(f"{name}_features.npy", "w", force_zip64=True) as entry:
                _write_array(entry, split, split.shape, [split.read])
            if split.views:
                with archive.open(f"{name}_views.npy", "w", force_zip64=True) as entry:
                    reads = [partial(split.read_view, view) for view in range(split.views)]
                    _write_array(entry, split, (split.views, *split.shape), reads)
            add(f"{name}_labels", split.labels)
            add(f"{name}_sample_ids", np.array(split.sample_ids.tolist(), np.str_))
            add(f"{name}_sha256", np.array(_hex_digests(split), np.str_))


def _write_array(
    entry: IO[bytes],
    split: Split,
    shape: tuple[int, ...],
    reads: Sequence[Callable[[int, int], np.ndarray]],
) -> None:
    """Write a .npy file of `shape`: all rows of a split as each of `reads` gives them."""
    header = {
        "descr": np.lib.format.dtype_to_descr(split.dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_2_0(entry, header)
    for read in reads:
        for start in range(0, len(split), _BLOCK_ROWS):
            rows = read(start, min(start + _BLOCK_ROWS, len(split)))
            entry.write(np.ascontiguousarray(rows).tobytes())


def _write_parquet(features: FeatureSet, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = features[features.splits[0]]
    width = int(np.prod(first.feature_shape))
    value_type = pa.from_numpy_dtype(first.dtype)
    # One number for all: the recipe's, in the splits that have views.
    views = max(features[name].views for name in features.splits)
    columns = [
        ("split", pa.string()),
        ("sample_id", pa.string()),
        ("label", pa.int64()),
        ("class", pa.string()),
        ("sha256", pa.string()),
        ("features", pa.list_(value_type, width)),
    ]
    if views:
        columns.append(("views", pa.list_(value_type, views * width)))
    schema = pa.schema(
        columns,
        metadata={
            "featurestore": json.dumps(
                _identity(features) | {"feature_shape": list(first.feature_shape)}
            )
        },
    )
    block_rows = _VIEW_BLOCK_ROWS if views else _BLOCK_ROWS
    classes = np.array(features.class_names, np.object_)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for name in features.splits:
            split = features[name]
            digests, ids = _hex_digests(split), split.sample_ids.tolist()
            for start in range(0, len(split), block_rows):
                rows = split[start : start + block_rows]
                stop = start + len(rows)
                labels = split.labels[start:stop]
                block = [
                    pa.array([name] * len(rows)),
                    pa.array(ids[start:stop], pa.string()),
                    pa.array(labels),
                    pa.array(classes[labels].tolist(), pa.string()),
                    pa.array(digests[start:stop]),
                    pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), width),
                ]
                if split.views:
                    seen = [split.read_view(view, start, stop) for view in range(split.views)]
                    values = pa.array(np.stack(seen, axis=1).ravel())
                    block.append(pa.FixedSizeListArray.from_arrays(values, views * width))
                elif views:
                    block.append(pa.nulls(len(rows), schema.field("views").type))
                writer.write_table(pa.Table.from_arrays(block, schema=schema))


def _write_store(features: FeatureSet, path: Path) -> None:
    layout = StoreLayout(
        splits={
            name: SplitLayout(
                len(features[name]),
                features[name].feature_shape,
                str(features[name].dtype),
                views=features[name].views,
            )
            for name in features.splits
        },
        attributes=_identity(features),
    )
    writer = create_store("zarr" if path.suffix == ".zarr" else "hdf5", path, layout)
    try:
        for name in features.splits:
            split = features[name]
            step = writer.block_rows(name)
            for start in range(0, len(split), step):
                writer.write_features(name, start, split[start : start + step])
            for view in range(split.views):
                for start in range(0, len(split), step):
                    stop = min(start + step, len(split))
                    writer.write_views(name, view, start, split.read_view(view, start, stop))
            writer.write_rows(
                name,
                labels=split.labels,
                sample_ids=split.sample_ids.tolist(),
                sha256=split.sha256,
            )
        writer.close()
    except BaseException:
        writer.abort()
        raise
