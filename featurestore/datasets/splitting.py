"""Seeded, stratified splits that stay where they are when files are added."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

from featurestore.datasets.entries import Entry
from featurestore.errors import InvalidInput
from featurestore.manifest import SPLITS

_RANGE = 1 << 64


@dataclasses.dataclass(frozen=True)
class SplitFractions:
    """How large each split should be, and the seed that decides which image goes where.

    Parameters
    ----------
    fractions
        Of train, validation and test; not negative, their sum is exactly 1.
    """

    fractions: tuple[Fraction, Fraction, Fraction]
    seed: int = 0

    @classmethod
    def parse(cls, text: str, *, seed: int = 0) -> SplitFractions:
        """Read ``0.7,0.15,0.15`` (train, validation, test) or ``0.8,0.2`` (train, validation).

        Numbers are taken as they are written in decimal; ``1/3,1/3,1/3`` is understood too.

        Raises
        ------
        InvalidInput
            There are not two or three numbers, one is negative, or they do not sum to 1.
        """
        try:
            numbers = [Fraction(part.strip()) for part in text.split(",")]
        except (ValueError, ZeroDivisionError) as error:
            raise _bad(text, "a part is not a number") from error
        if len(numbers) not in (2, 3):
            raise _bad(text, f"found {len(numbers)} numbers")
        if min(numbers) < 0:
            raise _bad(text, "a fraction is negative")
        if sum(numbers) != 1:
            raise _bad(text, f"they sum to {float(sum(numbers)):g}")
        train, validation, test = (*numbers, Fraction(0))[:3]
        return cls((train, validation, test), seed)

    @property
    def intervals(self) -> dict[str, tuple[int, int]]:
        """For each split with a fraction: the half-open interval of 64-bit positions it owns."""
        bounds = itertools.accumulate(self.fractions, initial=Fraction(0))
        scaled = [int(bound * _RANGE) for bound in bounds]
        return {
            split: (start, stop)
            for split, start, stop in zip(SPLITS, scaled[:-1], scaled[1:], strict=True)
            if start < stop
        }


def _bad(text: str, found: str) -> InvalidInput:
    return InvalidInput(
        f"--split {text}: expected two or three fractions (train, validation, test) that sum "
        f"to 1; {found}",
        next_step="for example --split 0.7,0.15,0.15",
    )


def position(sample_id: str, *, seed: int) -> int:
    """Return where a sample falls in [0, 2**64): the first 8 bytes of SHA-256 of ``seed/id``."""
    digest = hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def assign_splits(entries: Sequence[Entry], fractions: SplitFractions) -> list[Entry]:
    """Return `entries` with their splits decided, class by class.

    A sample's split depends on its id and the seed alone, so adding, removing or changing other
    files moves nothing. One exception: where a class has at least as many images as there are
    splits but one split would get none of them, the image nearest to that split's interval moves
    into it; only in a class that small can an added file send another one back.
    """
    intervals = fractions.intervals
    by_class: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_class[entry.label].append(entry)
    assigned: list[Entry] = []
    for members in by_class.values():
        positions = {
            entry.sample_id: position(entry.sample_id, seed=fractions.seed) for entry in members
        }
        splits = _fill_empty_splits(positions, intervals)
        assigned += [entry._replace(split=splits[entry.sample_id]) for entry in members]
    return assigned


def _fill_empty_splits(
    positions: dict[str, int], intervals: dict[str, tuple[int, int]]
) -> dict[str, str]:
    splits = {
        sample_id: next(name for name, (_, stop) in intervals.items() if place < stop)
        for sample_id, place in positions.items()
    }
    if len(positions) < len(intervals):
        return splits
    members = dict.fromkeys(intervals, 0)
    for name in splits.values():
        members[name] += 1
    for name, (start, stop) in intervals.items():
        if members[name]:
            continue
        candidates = (
            (max(start - positions[sample_id], positions[sample_id] - stop + 1), sample_id)
            for sample_id, donor in splits.items()
            if members[donor] > 1
        )
        _, moved = min(candidates)
        members[splits[moved]] -= 1
        members[name] += 1
        splits[moved] = name
    return splits
