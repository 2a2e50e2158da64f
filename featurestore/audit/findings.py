"""What an audit found: numbers and names, no reading and no printing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Sample:
    """One row of a feature set."""

    split: str
    sample_id: str
    label: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdenticalGroup:
    """Samples whose files hold the same bytes.

    Parameters
    ----------
    sha256
        Digest of the bytes, hexadecimal.
    samples
        Two or more, in the feature set's order.
    """

    sha256: str
    samples: tuple[Sample, ...]

    @property
    def leaks(self) -> bool:
        """Whether the samples lie in more than one split."""
        return len({sample.split for sample in self.samples}) > 1

    @property
    def disagrees(self) -> bool:
        """Whether the samples have more than one label."""
        return len({sample.label for sample in self.samples}) > 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identical:
    """Files with the same bytes. Counts are of all groups.

    Parameters
    ----------
    groups
        The first few: those that leak first, then those under several labels, then the largest.
    across, within
        Groups that lie in several splits, and in one.
    disagreeing
        Groups under several labels, in one split or several.
    """

    groups: tuple[IdenticalGroup, ...]
    across: int
    within: int
    disagreeing: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearPair:
    """Two samples of different bytes whose features point the same way.

    Parameters
    ----------
    similarity
        Cosine of the two rows of features.
    """

    first: Sample
    second: Sample
    similarity: float

    @property
    def leaks(self) -> bool:
        """Whether the two lie in different splits."""
        return self.first.split != self.second.split


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Pairs at or above a cosine, of all pairs. Counts are of all of them.

    Parameters
    ----------
    threshold
        The cosine.
    pairs
        The first few: those that leak first, then the most similar.
    across, within
        Pairs of different splits, and of one.
    disagreeing
        Pairs under different labels.
    looked_at
        Pairs that were compared: every pair of rows once.
    next_similarity
        The largest cosine below the threshold; None where no pair is below. A wide gap to the
        threshold says that the pairs found stand apart from merely similar images.
    zero_rows
        Rows whose features are all zero: they point nowhere and are near nothing.
    """

    threshold: float
    pairs: tuple[NearPair, ...]
    across: int
    within: int
    disagreeing: int
    looked_at: int
    next_similarity: float | None
    zero_rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitBalance:
    """How the classes share one split.

    Parameters
    ----------
    counts
        Rows of each class, in class order; 0 for a class that is missing.
    """

    split: str
    counts: Mapping[str, int]

    @property
    def rows(self) -> int:
        """Rows of the split."""
        return sum(self.counts.values())

    @property
    def missing(self) -> tuple[str, ...]:
        """Classes without a row."""
        return tuple(name for name, count in self.counts.items() if count == 0)

    @property
    def largest_share(self) -> float:
        """Share of the most frequent class: the accuracy of always answering it."""
        return max(self.counts.values()) / self.rows

    @property
    def imbalance(self) -> float | None:
        """Rows of the largest class for one of the smallest; None where a class is missing."""
        least = min(self.counts.values())
        return max(self.counts.values()) / least if least else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balance:
    """How the classes share the splits.

    Parameters
    ----------
    largest_difference
        Of any class between any two splits: the difference of its shares, in [0, 1].
    p_value
        Chi-square test of equal class shares in all splits; None with fewer than two splits or
        two classes.
    least_expected
        The smallest count that the test expects in a split and class. Below 5 the p-value is only
        rough (Cochran 1954). None where `p_value` is.
    """

    splits: tuple[SplitBalance, ...]
    largest_difference: float
    p_value: float | None
    least_expected: float | None


@dataclasses.dataclass(frozen=True)
class Reason:
    """Quarantined samples with one reason, split and class.

    Parameters
    ----------
    split, label
        None where the sample id does not tell.
    """

    reason: str
    split: str | None
    label: str | None
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything that was looked at.

    Parameters
    ----------
    near
        None where near duplicates were not looked for.
    remove
        Sample ids to remove so that no leak that was found is left, by split: of the samples that
        lie in several splits only those of the last split stay, so that test keeps its rows before
        validation, and validation before train.
    quarantine
        Most frequent first.
    """

    feature_set: str
    fingerprint: str
    rows: Mapping[str, int]
    identical: Identical
    near: NearDuplicates | None
    balance: Balance
    quarantine: tuple[Reason, ...]
    remove: Mapping[str, tuple[str, ...]]

    @property
    def leaks(self) -> bool:
        """Whether some image lies, or nearly lies, in more than one split."""
        return self.identical.across > 0 or (self.near is not None and self.near.across > 0)
