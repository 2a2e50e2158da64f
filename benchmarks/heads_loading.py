"""Part (c) of `heads.py`: loading a whole split from Zarr and HDF5 against `np.load`."""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from featurestore.catalogue import Catalogue, Record
from featurestore.errors import NotFound
from featurestore.features import FeatureSet, open_record
from featurestore.stores.durable import TEMPORARY_PREFIX

FORMATS = ("zarr", "hdf5")
ROUNDS = 9


def loading_against_numpy(features: FeatureSet) -> dict[str, object]:
    """Time opening and loading the training split from each format against `np.load`.

    Of the same float16 array, format after format in turn. Cold: the system is asked first to drop
    the files' pages (POSIX; a machine below this one may still hold them).

    Raises
    ------
    NotFound
        The cache lacks the set in one of the formats.
    """
    cache = features.path.parent.parent
    records = _in_every_format(features, cache)
    seconds: dict[str, dict[str, list[float]]] = {}
    # In the cache, so that all lie on one disk: a temporary folder in memory is never cold.
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=cache) as scratch:
        array = Path(scratch) / "features.npy"
        expected = features["train"].load()[0]
        np.save(array, expected)
        readers: dict[str, tuple[Path, Callable[[], np.ndarray]]] = {
            "npy": (array, functools.partial(np.load, array))
        }
        for name, record in records.items():
            readers[name] = (record.store, functools.partial(_from_store, record))
        for _, read in readers.values():
            np.testing.assert_array_equal(read(), expected)
        for state in ("cold", "warm"):
            seconds[state] = {name: [] for name in readers}
            for _ in range(ROUNDS):
                for name, (path, read) in readers.items():
                    if state == "cold":
                        _drop_pages(path)
                    begun = time.perf_counter()
                    read()
                    seconds[state][name].append(time.perf_counter() - begun)
    medians = {
        state: {name: statistics.median(found) for name, found in each.items()}
        for state, each in seconds.items()
    }
    for state, median in medians.items():
        print(
            f"loading {expected.nbytes / 2**20:.0f} MiB, {state}: "
            + ", ".join(
                f"{name} {1e3 * found:.0f} ms ({found / median['npy']:.1f} x)"
                for name, found in median.items()
            ),
            flush=True,
        )
    return {"seconds": seconds, "medians": medians}


def _in_every_format(features: FeatureSet, cache: Path) -> dict[str, Record]:
    found = {
        record.store_format: record
        for record in Catalogue(cache).records()
        if record.fingerprint == features.fingerprint
    }
    missing = [name for name in FORMATS if name not in found]
    if missing:
        raise NotFound(
            f"{features.name} in cache {cache}: expected it as {' and '.join(FORMATS)}, to compare "
            f"them; there is none as {' and '.join(missing)}",
            next_step=f"embed the dataset again with --store {missing[0]}",
        )
    return {name: found[name] for name in FORMATS}


def _from_store(record: Record) -> np.ndarray:
    with open_record(record) as features:
        return features["train"].load()[0]


def _drop_pages(path: Path) -> None:
    """Ask the system to forget what it holds of a file, or of every file below a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    for each in files:
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages not yet written are not dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
