"""What is recorded of how features came about. None of it is identity."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from featurestore.backbones.weights import parse_weights
from featurestore.embedding.plan import digest_keys
from featurestore.embedding.rows import CommittedRows, StagedRows
from featurestore.errors import FeatureStoreError

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


def found_again(recorded: Mapping[str, object], now: Mapping[str, object]) -> dict[str, object]:
    """Return what is recorded of a set, with what is gone replaced by where it was found now.

    A dataset that is still where it lay stays the origin, though a copy was given; so do weights.
    """
    kept = dict(recorded)
    if not Path(str(recorded.get("source", ""))).exists():
        kept |= {key: now[key] for key in ("source", "split", "seed")}
    try:
        parse_weights(str(recorded.get("weights", "")))
    except FeatureStoreError:
        kept["weights"] = now["weights"]
    return kept


def _any_in(keys: np.ndarray, ordered: np.ndarray) -> bool:
    at = np.searchsorted(ordered, keys)
    inside = at < len(ordered)
    return bool((ordered[at[inside]] == keys[inside]).any())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
