"""Auditing one feature set: its digests, its labels, its features and its quarantine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from featurestore.audit.balance import class_balance, quarantine_reasons
from featurestore.audit.findings import Audit, NearDuplicates, NearPair, Sample
from featurestore.audit.identical import find_identical, leaking_rows
from featurestore.audit.near import (
    Found,
    Known,
    Progress,
    Search,
    find_near,
    fit_blocks,
    plan_blocks,
)
from featurestore.embedding.plan import digest_keys
from featurestore.errors import InvalidInput
from featurestore.features import FeatureSet

# Cosine of VGG16's block5_pool at 150 pixels, unpooled and averaged: of 4,000 photographs of cats
# and dogs the most alike of different scenes have 0.79 and 0.92. Of altered copies of 40, at least
# 0.95 have: 0.98 and more of those stored again as JPEG of quality 30 and of those halved in size,
# nine tenths of those cropped by 5 %; not most of those cropped by 10 %, mirrored or made grey.
DEFAULT_THRESHOLD = 0.95
DEFAULT_MEMORY_BYTES = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What to look for.

    Parameters
    ----------
    threshold
        Cosine, in (0, 1], at which two rows are near duplicates; None looks for none, and reads no
        features.
    memory_bytes
        Most that features and their products may take, beside the ids, labels and digests of all
        rows and a few MiB.
    show
        Most groups and pairs that are named; all are counted.
    progress
        Told pairs of rows looked at, and in all.
    """

    threshold: float | None = DEFAULT_THRESHOLD
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    show: int = 20
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise InvalidInput(
                f"near duplicates: expected a cosine above 0 and at most 1, found {self.threshold}"
            )


def audit(features: FeatureSet, options: AuditOptions = AuditOptions()) -> Audit:  # frozen
    """Look through a feature set for what would make its results untrustworthy.

    Identical bytes are certain. Near duplicates are candidates: a cosine says that the backbone
    sees two images alike, and two photographs of one scene and two prints of one form both are.

    Raises
    ------
    InvalidInput
        `memory_bytes` holds not even two rows.
    IntegrityError
        Stored rows are damaged.
    """
    splits = {name: features[name] for name in features.splits if len(features[name])}
    digests = np.concatenate([rows.sha256 for rows in splits.values()])
    known = Known(
        splits=np.repeat(np.arange(len(splits)), [len(rows) for rows in splits.values()]),
        labels=np.concatenate([rows.labels for rows in splits.values()]),
        digests=_numbered(digests),
    )
    sample_ids = np.concatenate([rows.sample_ids for rows in splits.values()])
    split_names = tuple(splits)

    def name(row: int) -> Sample:
        return Sample(
            split=split_names[known.splits[row]],
            sample_id=str(sample_ids[row]),
            label=features.class_names[known.labels[row]],
        )

    identical = find_identical(
        known, keep=options.show, name=name, digest=lambda row: digests[row].tobytes().hex()
    )
    leaking = leaking_rows(known)
    near = None
    if options.threshold is not None:
        search = Search(threshold=options.threshold, keep=options.show)
        columns = int(np.prod(features.record.feature_shape))
        panels = plan_blocks(
            {split: len(rows) for split, rows in splits.items()},
            fit_blocks(columns, memory_bytes=options.memory_bytes),
        )
        found = find_near(splits, known, search, panels=panels, progress=options.progress)
        leaking |= found.leaking
        near = _named(found, search, name=name, rows=len(known.labels))
    return Audit(
        feature_set=features.name,
        fingerprint=features.fingerprint,
        rows={split: len(rows) for split, rows in splits.items()},
        identical=identical,
        near=near,
        balance=class_balance(
            {split: rows.labels for split, rows in splits.items()}, features.class_names
        ),
        quarantine=quarantine_reasons(features.record.quarantine, features.class_names),
        remove={
            split: tuple(
                str(sample_ids[row]) for row in np.flatnonzero(leaking & (known.splits == at))
            )
            for at, split in enumerate(split_names)
            if (leaking & (known.splits == at)).any()
        },
    )


def _numbered(digests: np.ndarray) -> np.ndarray:
    """Return (N,) int64, equal where the (N, 32) digests are."""
    return np.unique(digest_keys(digests), return_inverse=True)[1].astype(np.int64)


def _named(
    found: Found, search: Search, *, name: Callable[[int], Sample], rows: int
) -> NearDuplicates:
    return NearDuplicates(
        threshold=search.threshold,
        pairs=tuple(
            NearPair(first=name(int(i)), second=name(int(j)), similarity=float(similarity))
            for i, j, similarity in zip(found.first, found.second, found.similarity, strict=True)
        ),
        across=found.across,
        within=found.within,
        disagreeing=found.disagreeing,
        looked_at=rows * (rows - 1) // 2,
        next_similarity=found.next_similarity,
        zero_rows=found.zero_rows,
    )
