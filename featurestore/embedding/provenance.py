"""What is recorded of how features came about. None of it is identity."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from featurestore.embedding.plan import digest_keys
from featurestore.embedding.rows import CommittedRows, StagedRows

_VERSIONED = ("featurestore", "tensorflow", "keras", "numpy", "pillow", "numcodecs", "h5py")


def this_machine(device: str) -> dict[str, object]:
    """Return what computed rows on this machine."""
    return {
        "device": device,
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _VERSIONED},
    }


def computed_on(
    keys: np.ndarray, sources: Sequence[StagedRows | CommittedRows], *, device: str | None
) -> list[dict[str, object]]:
    """Return every machine that computed one of the rows with these (n, 32) keys, each once.

    Reused rows keep the machines of the set they come from. Staged rows count as this machine's,
    though another may have begun the embedding.
    """
    wanted = np.sort(digest_keys(keys))  # once: staging has a shard for each 256 rows
    this = this_machine(device or "not recorded")
    machines: dict[str, dict[str, object]] = {}
    for source in sources:
        if not _any_in(digest_keys(source.digests), wanted):
            continue
        if isinstance(source, CommittedRows):
            entries = source.record.provenance.get("computed_on")
            found = entries if isinstance(entries, list) else []
        else:
            found = [this]
        machines |= {json.dumps(entry, sort_keys=True): entry for entry in found}
    return list(machines.values())


def _any_in(keys: np.ndarray, ordered: np.ndarray) -> bool:
    at = np.searchsorted(ordered, keys)
    inside = at < len(ordered)
    return bool((ordered[at[inside]] == keys[inside]).any())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
