"""Which samples of a manifest have no features, and why."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featurestore.catalogue import Quarantined
from featurestore.embedding.plan import digest_keys
from featurestore.manifest import Manifest

_SHOWN = 5


def quarantined_samples(manifest: Manifest, known: Mapping[str, str]) -> tuple[Quarantined, ...]:
    """Return the samples whose digest is in `known`, SHA-256 (hexadecimal) to reason, in order."""
    refused = {bytes.fromhex(digest): reason for digest, reason in known.items()}
    if not refused:
        return ()
    keys = np.array(list(refused), "S32")
    return tuple(
        Quarantined(part.sample_ids[row], digest.hex(), refused[digest])
        for part in manifest.splits.values()
        for row in np.flatnonzero(np.isin(digest_keys(part.sha256), keys)).tolist()
        for digest in (part.sha256[row].tobytes(),)
    )


def first_reasons(quarantine: tuple[Quarantined, ...]) -> str:
    """Return the first few samples with their reasons, a line each, after a colon."""
    shown = "".join(f"\n  {entry.sample_id}: {entry.reason}" for entry in quarantine[:_SHOWN])
    return f":{shown}" if shown else ""
