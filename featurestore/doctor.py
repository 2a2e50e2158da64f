"""What this machine and this cache are like, for a bug report or a slow run."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from featurestore.backbones.precision import native_bfloat16_cpu, resolve_precision
from featurestore.backbones.quiet import quiet_startup
from featurestore.catalogue import LOCKS, Catalogue
from featurestore.collect import find_garbage
from featurestore.errors import FeatureStoreError
from featurestore.locks import is_held
from featurestore.training.runs import read_runs

PACKAGES = (
    "featurestore", "tensorflow", "keras", "numpy", "pillow", "numcodecs", "zarr", "h5py",
    "scikit-learn", "skops", "pyarrow", "onnx", "hdf5plugin",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide or hold a feature."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def devices() -> dict[str, object]:
    """Return processors, GPUs and what ``--precision auto`` means here. Loads TensorFlow."""
    with quiet_startup():
        import tensorflow as tf

    gpus = [
        str(tf.config.experimental.get_device_details(device).get("device_name", device.name))
        for device in tf.config.list_physical_devices("GPU")
    ]
    return {
        "cpus": os.cpu_count() or 1,
        "cpu_native_bfloat16": native_bfloat16_cpu(),
        "gpus": gpus,
        "precision_auto": resolve_precision("auto"),
    }


def cache_health(
    cache: Path, *, disk_usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage
) -> dict[str, object]:
    """Return what a cache holds and what is wrong with it; `problems` is empty if all is well."""
    problems: list[str] = []
    existing = next(path for path in (cache, *cache.resolve().parents) if path.exists())
    health: dict[str, object] = {
        "path": str(cache),
        "exists": cache.exists(),
        "free_bytes": disk_usage(existing)[2],
        "problems": problems,
    }
    if not os.access(existing, os.W_OK):
        problems.append(f"{existing} cannot be written; choose another with --cache or FS_CACHE")
    try:
        records = Catalogue(cache).records()
        garbage = find_garbage(cache, staging=True)
    except FeatureStoreError as error:
        problems.append(str(error))
        return health
    problems.extend(str(problem) for problem in Catalogue(cache).problems())
    problems.extend(str(problem) for problem in read_runs(cache).problems)
    for record in records:
        if not record.store.exists():
            problems.append(f"{record.name}: its store {record.store} is missing; embed it again")
    health |= {
        "feature_sets": len({record.name for record in records}),
        "stored_bytes": sum(record.stored_bytes for record in records),
        "collectable_bytes": sum(item.size_bytes for item in garbage if item.kept is None),
        "being_written": [
            path.stem for path in sorted((cache / LOCKS).glob("*.lock")) if is_held(path)
        ],
    }
    return health
