"""How the classes share the splits, and which samples were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import chi2_contingency

from featurestore.audit.findings import Balance, Reason, SplitBalance
from featurestore.catalogue import Quarantined
from featurestore.datasets.entries import SPLIT_NAMES


def class_balance(labels: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Balance:
    """Count the classes of each split; `labels` are (N,) int64 by split, none empty.

    Source of the test: Pearson's chi-square of the table of splits by classes, without Yates's
    correction (SciPy's `chi2_contingency`).
    """
    counts = np.array(
        [np.bincount(column, minlength=len(class_names)) for column in labels.values()]
    )
    shares = counts / counts.sum(axis=1, keepdims=True)
    p_value = least = None
    table = counts[:, counts.any(axis=0)]
    if min(table.shape) > 1:
        tested = chi2_contingency(table, correction=False)
        p_value, least = float(tested.pvalue), float(tested.expected_freq.min())
    return Balance(
        splits=tuple(
            SplitBalance(split=split, counts=dict(zip(class_names, row.tolist(), strict=True)))
            for split, row in zip(labels, counts, strict=True)
        ),
        largest_difference=float(np.ptp(shares, axis=0).max()),
        p_value=p_value,
        least_expected=least,
    )


def quarantine_reasons(
    quarantine: Iterable[Quarantined], class_names: Sequence[str]
) -> tuple[Reason, ...]:
    """Count quarantined samples by reason, split and class, most frequent first.

    A quarantined sample has no row. Its id is its path in the dataset, which names split and class
    for folders of splits, the class for folders of classes, and neither for most lists.
    """
    known = set(class_names)
    found = Counter((entry.reason, *_place(entry.sample_id, known)) for entry in quarantine)
    ordered = sorted(found.items(), key=lambda item: (-item[1], *map(str, item[0])))
    return tuple(Reason(*key, count) for key, count in ordered)


def _place(sample_id: str, class_names: set[str]) -> tuple[str | None, str | None]:
    folders = sample_id.split("/")[:-1]
    split = SPLIT_NAMES.get(folders[0].lower()) if len(folders) > 1 else None
    rest = folders[1:] if split else folders
    label = rest[0] if rest and rest[0] in class_names else None
    return split, label
