"""Rounds that take turns, and what is said of them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import TypeVar

Cell = TypeVar("Cell")
Numbers = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long to measure: `seconds` a cell over all rounds. A trial measures nothing well."""

    seconds: float
    rounds: int
    trial: bool = False

    @property
    def cell_s(self) -> float:
        return self.seconds / self.rounds

    @property
    def warm_s(self) -> float:
        return min(1.0, self.cell_s)


def in_turns(
    cells: Mapping[str, Cell], rounds: int, measure: Callable[[Cell], Mapping[str, float]]
) -> dict[str, Numbers]:
    """Measure each cell once a round; each round begins with another, as machines drift."""
    found: dict[str, Numbers] = {name: {} for name in cells}
    names = list(cells)
    for round_ in range(rounds):
        first = round_ * len(names) // rounds
        for name in names[first:] + names[:first]:
            for what, number in measure(cells[name]).items():
                found[name].setdefault(what, []).append(number)
    return found


def median(cell: Numbers, what: str) -> float:
    return statistics.median(cell[what])


def ratio(ours: Numbers, theirs: Numbers, what: str) -> tuple[float, float, float]:
    """Return the ratio of the medians, and the least and the largest of one round."""
    each = [a / b for a, b in zip(ours[what], theirs[what], strict=True)]
    return median(ours, what) / median(theirs, what), min(each), max(each)


def share_of_cores(cell: Numbers) -> str:
    return (
        f"server {median(cell, 'server_share'):.2f}, "
        f"generator {median(cell, 'generator_share'):.2f} cores"
    )


def judged(found: float, target: float, *, trial: bool) -> str:
    """Return what became of a target; a trial is too short to say."""
    if trial:
        return "not judged in a trial"
    return "met" if found >= target else "MISS"
