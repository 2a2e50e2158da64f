"""`fs audit`: what may be wrong with a dataset, read off its features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from featurestore.audit.findings import Audit, Balance, Identical, NearDuplicates, Reason, Sample
from featurestore.audit.near import Progress
from featurestore.audit.run import DEFAULT_THRESHOLD, AuditOptions
from featurestore.audit.run import audit as audit_set
from featurestore.compare.sentences import count_text
from featurestore.features import open_features
from featurestore_cli.options import cache_option, json_option, memory_option
from featurestore_cli.output import print_json, print_line, print_table, say
from featurestore_cli.progress import progress_line

_LEAKS = 1
_NAMED = 8
_CLASSES = 12  # more classes than this are summed up, not listed


@click.command()
@click.argument("name")
@click.option(
    "--near",
    "threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=DEFAULT_THRESHOLD,
    show_default=True,
    metavar="COSINE",
    help="Least cosine of two rows of features that makes them near duplicates.",
)
@click.option("--no-near", is_flag=True, help="Look for identical bytes only; read no features.")
@memory_option(
    default="1GiB",
    help="Most that features may take in memory; less takes longer.",
)
@click.option(
    "--show",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    metavar="N",
    help="Name at most N groups and N pairs; all are counted.",
)
@cache_option
@json_option
def audit(
    name: str,
    cache: Path,
    *,
    threshold: float,
    no_near: bool,
    memory_bytes: int,
    show: int,
    as_json: bool,
) -> int:
    """Look for leaks between the splits of feature set NAME, and for what else skews results.

    Identical images, near duplicates (every pair of rows is compared), images under two labels,
    class imbalance, quarantine. The exit code is 1 when an image, or a near duplicate of it, lies
    in two splits. Near duplicates are candidates: look at them, and choose --near for your images.
    """
    with open_features(name, cache=cache) as features, _progress() as progress:
        found = audit_set(
            features,
            AuditOptions(
                threshold=None if no_near else threshold,
                memory_bytes=memory_bytes,
                show=show,
                progress=progress,
            ),
        )
    if as_json:
        print_json(_fields(found))
    else:
        _print(found)
    if not found.leaks:
        return 0
    _say_how_to_mend(found)
    return _LEAKS


@contextmanager
def _progress() -> Iterator[Progress | None]:
    with progress_line() as show:
        yield (
            None
            if show is None
            else lambda done, total: show(f"compared {done / total:.0%} of {total:,} pairs")
        )


def _fields(found: Audit) -> dict[str, object]:
    fields = dataclasses.asdict(found) | {"leaks": found.leaks}
    for group, printed in zip(found.identical.groups, fields["identical"]["groups"], strict=True):
        printed |= {"leaks": group.leaks, "disagrees": group.disagrees}
    if found.near is not None:
        for pair, printed in zip(found.near.pairs, fields["near"]["pairs"], strict=True):
            printed |= {"leaks": pair.leaks}
    for split, printed in zip(found.balance.splits, fields["balance"]["splits"], strict=True):
        printed |= {
            "rows": split.rows,
            "largest_share": split.largest_share,
            "imbalance": split.imbalance,
            "missing": list(split.missing),
        }
    return fields


def _print(found: Audit) -> None:
    print_line(found.feature_set)
    rows = ", ".join(f"{split} {count:,}" for split, count in found.rows.items())
    print_line(f"  rows         {rows}")
    print_line(f"  fingerprint  {found.fingerprint[:16]}")
    _print_identical(found.identical)
    if found.near is not None:
        _print_near(found.near)
    _print_balance(found.balance)
    _print_quarantine(found.quarantine)


def _print_identical(found: Identical) -> None:
    print_line(
        f"identical images: {count_text(found.across, 'group')} across splits, "
        f"{found.within:,} within one; {found.disagreeing:,} under several labels"
    )
    if found.groups:
        print_table(
            ["", "sha256", "images"],
            [
                [
                    _mark(group.leaks, group.disagrees),
                    group.sha256[:12],
                    ", ".join(map(_sample_text, group.samples[:_NAMED]))
                    + _more(len(group.samples) - _NAMED),
                ]
                for group in found.groups
            ],
        )
    _print_rest(found.across + found.within - len(found.groups))


def _print_near(found: NearDuplicates) -> None:
    print_line(
        f"near duplicates, cosine {found.threshold:g} or more: "
        f"{count_text(found.across, 'pair')} across splits, {found.within:,} within one; "
        f"{found.disagreeing:,} under two labels"
    )
    if found.pairs:
        print_table(
            ["", "cosine", "first", "second"],
            [
                [
                    _mark(pair.leaks, pair.first.label != pair.second.label),
                    f"{pair.similarity:.4f}",
                    _sample_text(pair.first),
                    _sample_text(pair.second),
                ]
                for pair in found.pairs
            ],
            right=["cosine"],
        )
    _print_rest(found.across + found.within - len(found.pairs))
    below = (
        ""
        if found.next_similarity is None
        else f"; the next has cosine {found.next_similarity:.4f}"
    )
    print_line(f"  all {found.looked_at:,} pairs were compared{below}")
    if found.zero_rows:
        print_line(f"  {count_text(found.zero_rows, 'row')} of zeros: features without a direction")


def _print_balance(found: Balance) -> None:
    print_line("classes:")
    names = list(found.splits[0].counts)
    listed = names if len(names) <= _CLASSES else []
    print_table(
        ["split", "rows", *listed, "largest share", "largest : smallest", "missing"],
        [
            [
                split.split,
                f"{split.rows:,}",
                *(f"{split.counts[name]:,}" for name in listed),
                f"{split.largest_share:.1%}",
                "-" if split.imbalance is None else f"{split.imbalance:.2f}",
                ", ".join(split.missing[:_NAMED]) + _more(len(split.missing) - _NAMED) or "none",
            ]
            for split in found.splits
        ],
        right=["rows", *listed, "largest share", "largest : smallest"],
    )
    if found.p_value is not None and found.least_expected is not None:
        rough = ", rough: few rows of some class" if found.least_expected < 5 else ""
        print_line(
            f"  class shares of splits differ by {100 * found.largest_difference:.1f} points "
            f"at most (chi-square p = {found.p_value:.2g}{rough})"
        )


def _print_quarantine(reasons: tuple[Reason, ...]) -> None:
    total = sum(reason.count for reason in reasons)
    print_line(f"quarantine: {f'{total:,}' if total else 'none'}")
    if reasons:
        print_table(
            ["images", "split", "class", "reason"],
            [[r.count, r.split or "-", r.label or "-", r.reason] for r in reasons],
            right=["images"],
        )


def _say_how_to_mend(found: Audit) -> None:
    identical = found.identical.across
    near = found.near.across if found.near is not None else 0
    kinds = [
        *([f"{count_text(identical, 'group')} of identical images"] if identical else []),
        *([f"{count_text(near, 'near-duplicate pair')}"] if near else []),
    ]
    say(f"leak: {' and '.join(kinds)} across splits")
    ids = [sample_id for column in found.remove.values() for sample_id in column]
    look = "look at the pairs (a cosine is no proof), then " if near else ""
    say(
        f"  next: {look}remove {count_text(len(ids), 'image')} so that each stays in its last "
        f"split only, and embed again (no network runs): {', '.join(ids[:_NAMED])}"
        f"{_more(len(ids) - _NAMED, of=' (--json lists all)')}"
    )


def _mark(leaks: bool, disagrees: bool) -> str:
    return " ".join(text for text, holds in (("leak", leaks), ("labels", disagrees)) if holds)


def _sample_text(sample: Sample) -> str:
    return f"{sample.sample_id} ({sample.split}, {sample.label})"


def _more(count: int, *, of: str = "") -> str:
    return f" and {count:,} more{of}" if count > 0 else ""


def _print_rest(count: int) -> None:
    if count > 0:
        print_line(f"  and {count:,} more (--show N)")
