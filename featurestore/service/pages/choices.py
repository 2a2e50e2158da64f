"""What might be compared: runs that were judged on the same images under the same recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from featurestore.service.pages import addresses
from featurestore.training.methods import method_key, method_labels
from featurestore.training.runs import Run

_MOST_OFFERED = 12


@dataclasses.dataclass(frozen=True)
class Comparable:
    """Runs of one feature set, and where the newest of each kind are compared."""

    feature_set: str
    runs: int
    labels: tuple[str, ...]
    address: str
    list_address: str


def comparable_groups(found: Sequence[Run]) -> list[Comparable]:
    """Return groups of two runs or more that may be compared; `found` comes newest first.

    Of runs that differ in nothing, the newest is offered; of a group, up to 12 runs.
    """
    groups: dict[str, list[Run]] = {}
    for run in found:
        groups.setdefault(run.features.comparable, []).append(run)
    return [_offered(runs) for runs in groups.values() if len(runs) > 1]


def _offered(runs: Sequence[Run]) -> Comparable:
    distinct: dict[tuple[str, int], Run] = {}
    for run in runs:
        distinct.setdefault((method_key(run), run.seed), run)
    offered = list(distinct.values())[:_MOST_OFFERED]
    # A fine-tuning was trained on features of another layer than those it is compared by.
    named = next((run for run in runs if run.features.fingerprint == run.features.comparable), None)
    name = (named or runs[0]).features.name
    given = "&".join(addresses.query(run=run.id).removeprefix("?") for run in offered)
    return Comparable(
        feature_set=name,
        runs=len(runs),
        labels=tuple(dict.fromkeys(method_labels(offered))),
        address=f"/compare?{given}",
        list_address=f"/runs{addresses.query(on=name.partition('/')[0] + '/')}",
    )
