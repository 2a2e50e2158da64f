"""`fs compare`: heads on one feature set, and what can be told apart."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featurestore.catalogue import Catalogue, Record
from featurestore.compare.sentences import p_text, points_text
from featurestore.compare.statistics import LEVEL
from featurestore.errors import NotFound
from featurestore.training.contract import DEFAULT_MEMORY_BYTES
from featurestore.training.head_specs import parse_heads
from featurestore.training.methods import trained_weights
from featurestore.training.naming import runs_judged_on
from featurestore.training.runs import Run, find_run, read_runs
from featurestore.training.views import AskedViews, count_views
from featurestore_cli.options import BytesType, cache_option, json_option
from featurestore_cli.output import (
    bytes_text,
    print_json,
    print_line,
    print_table,
    say,
    seconds_text,
)
from featurestore_cli.path_options import ViewsType
from featurestore_cli.progress import progress_line

if TYPE_CHECKING:
    from featurestore.compare.complete import PlannedRun
    from featurestore.compare.results import (
        Comparison,
        Contender,
        Estimate,
        Interval,
        Pair,
        SeedVerdicts,
    )
    from featurestore.report.photographs import Photographs
    from featurestore.training.train import TrainOptions

_MEMORY = "4GiB"
_SEEDS = 3
_FEW_PAIRS = 6  # of four contenders


@click.command()
@click.argument("names", metavar="RUN... | FEATURE_SET", nargs=-1, required=True)
@click.option(
    "--heads",
    metavar="HEADS",
    help="Compare these heads on FEATURE_SET: by comma, settings by colon, "
    "as in dense,logistic:tune=true,sklearn.tree.DecisionTreeClassifier:max_depth=3.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    show_default=str(_SEEDS),
    help="With --heads: runs of each head, with seeds 0, 1, …; one where no seed matters.",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=BytesType(),
    show_default=_MEMORY,
    help="With --heads: most that rows may take in memory while fitting.",
)
@click.option(
    "--views",
    type=ViewsType(),
    metavar="K|all",
    help="With --heads: train on K stored views of each image (fs embed --views).",
)
@click.option("--dry-run", is_flag=True, help="With --heads: list the runs; train none.")
@click.option(
    "--all-pairs",
    is_flag=True,
    help=f"Print pairs that are not told apart too; default: only of up to {_FEW_PAIRS} pairs.",
)
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Images to compare on.",
)
@click.option(
    "--resamples",
    type=click.IntRange(100),
    default=5000,
    show_default=True,
    help="Of the images, for the intervals.",
)
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML report there."
)
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR",
    help="With --report: where the images lie, if no longer where they were embedded from.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the comparison there, .png or .svg.",
)
@cache_option
@json_option
def compare(
    names: tuple[str, ...],
    cache: Path,
    *,
    heads: str | None,
    seeds: int | None,
    memory_bytes: int | None,
    views: AskedViews | None,
    dry_run: bool,
    all_pairs: bool,
    split: str,
    resamples: int,
    report: Path | None,
    images: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Compare RUNs, all runs on FEATURE_SET, or with --heads these, trained where missing.

    Runs of every path stand side by side: heads on cached features, with or without views, heads
    trained end to end, and fine-tuned networks. FEATURE_SET may be the name of a dataset. Runs that
    differ in their seed only are one contender. Intervals are 95 %, by a bootstrap over images that
    is paired; pairs are told apart by an exact McNemar test of their first runs, with Holm's
    correction. Runs are refused whose features or images differ; a fine-tuning is judged by the
    features of the run it started from.
    """
    for_heads = {"--seeds": seeds, "--memory": memory_bytes, "--views": views, "--dry-run": dry_run}
    _check_options(names, heads, for_heads)
    if images is not None and report is None:
        raise click.UsageError("--images: it is for --report FILE, which is not given")
    # A wrong ending or a missing library shows before heads are trained.
    if plot is not None:
        from featurestore.report.comparison_plot import draw_comparison
        from featurestore.report.files import check_picture_path

        check_picture_path(plot)
    if report is not None:
        from featurestore.report.html import write_report
    from featurestore.compare.comparison import compare as compare_runs

    if heads is None:
        runs = [run for name in names for run in _find_runs(name, cache=cache)]
    else:
        record = Catalogue(cache).find(names[0], with_views=views is not None)
        seen = None
        if views is not None:
            seen = count_views(record.name, record.recipe, views, record=record)
        plan = _plan(record, heads, cache=cache, seeds=seeds or _SEEDS, views=seen)
        if dry_run:
            _print_plan(plan, as_json=as_json)
            return
        from featurestore.training.train import TrainOptions

        options = TrainOptions(memory_bytes=memory_bytes or DEFAULT_MEMORY_BYTES, views=seen)
        runs = _complete(record, plan, cache=cache, options=options)
    with progress_line() as line:
        comparison = compare_runs(
            runs,
            split=split,
            resamples=resamples,
            progress=None
            if line is None
            else lambda done, total: line(f"resampling images: run {done + 1} of {total}"),
        )
    notes = _notes(comparison)
    for note in notes:
        say(f"note: {note}")
    if as_json:
        print_json(_fields(comparison) | {"notes": notes})
    else:
        _print(comparison, all_pairs=all_pairs)
    if plot is not None:
        draw_comparison(comparison, plot)
        say(f"wrote {plot}")
    if report is not None:
        write_report(comparison, report, photographs=_photographs(comparison, cache, images))
        say(f"wrote {report}")


def _check_options(names: Sequence[str], heads: str | None, for_heads: dict[str, object]) -> None:
    if heads is not None:
        if len(names) > 1:
            raise click.UsageError(
                f"--heads: expected one feature set, found {len(names)} names: {', '.join(names)}"
            )
        return
    given = [flag for flag, value in for_heads.items() if value]
    if given:
        raise click.UsageError(f"{', '.join(given)}: for --heads HEADS, which is not given")


def _find_runs(name: str, *, cache: Path) -> list[Run]:
    """Return the run of that id, or else all runs on the feature set of that name."""
    try:
        return [find_run(name, cache=cache)]
    except NotFound as error:
        try:
            runs = runs_judged_on(name, cache=cache)
        except NotFound:
            raise error from None
    say(f"comparing all runs on {name}: {len(runs)}")
    return runs


def _plan(
    record: Record, heads: str, *, cache: Path, seeds: int, views: int | None
) -> tuple[PlannedRun, ...]:
    from featurestore.compare.complete import plan_runs

    settings = parse_heads(heads)
    found = read_runs(cache).runs  # one that cannot be read cannot be reused
    return plan_runs(record.fingerprint, settings, seeds=range(seeds), runs=found, views=views)


def _print_plan(plan: Sequence[PlannedRun], *, as_json: bool) -> None:
    rows = [
        {
            "head": planned.settings.head,
            "settings": planned.settings.to_dict(),
            "seed": planned.seed,
            "run": None if planned.run is None else planned.run.id,
        }
        for planned in plan
    ]
    if as_json:
        print_json({"dry_run": True, "runs": rows})
        return
    for planned in plan:
        what = "would be trained" if planned.run is None else f"is there: {planned.run.id}"
        print_line(f"{planned.label} {what}")


def _complete(
    record: Record, plan: Sequence[PlannedRun], *, cache: Path, options: TrainOptions
) -> list[Run]:
    from featurestore.compare.complete import complete_runs
    from featurestore.features import open_record
    from featurestore.training.contract import NotConverged

    with open_record(record) as features, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # said from the run's notes
        return complete_runs(features, plan, cache=cache, say=say, options=options)


def _photographs(comparison: Comparison, cache: Path, images: Path | None) -> Photographs | None:
    from featurestore.report.photographs import Photographs

    record = next(
        (
            record
            for record in Catalogue(cache).records()
            if record.manifest_fingerprint == comparison.features.manifest_fingerprint
        ),
        None,
    )
    if record is None:
        say(
            "note: the report shows no images: no feature set of those of "
            f"{comparison.feature_set} is in cache {cache}"
        )
        return None
    return Photographs(record, images)


def _notes(comparison: Comparison) -> list[str]:
    """Return the comparison's notes, then those of its runs, each once behind its contenders."""
    labels: dict[str, dict[str, None]] = {}
    for contender in comparison.contenders:
        for note in (note for run in contender.runs for note in run.notes):
            labels.setdefault(note, {})[contender.label] = None
    of_runs = [f"{', '.join(of)}: {note}" for note, of in labels.items()]
    return [*comparison.notes, *of_runs]


def _print(comparison: Comparison, *, all_pairs: bool) -> None:
    images = f"{len(comparison.labels):,} {comparison.split} images"
    print_line(f"{comparison.feature_set}: {images}, {len(comparison.class_names)} classes")
    print_line("")
    numbers = ["accuracy (95 %)", "± seeds", "balanced", "F1", "AUC", "log loss", "ECE"]
    costs = ["fit", "µs/image", "model"]
    print_table(
        ["head", *numbers, *costs],
        [_row(contender) for contender in comparison.contenders],
        right=[*numbers, *costs],
    )
    pairs = comparison.pairs
    if not all_pairs and len(pairs) > _FEW_PAIRS:
        pairs = tuple(pair for pair in pairs if pair.winner is not None)
    if pairs:
        print_line("")
        _print_pairs(pairs)
    remarkable = [
        contender.sentence
        for contender in comparison.contenders
        if not comparison.pairs or not contender.is_expected(LEVEL)
    ]
    sentences = [*(pair.sentence for pair in pairs), *remarkable]
    if left_out := len(comparison.pairs) - len(pairs):
        others = f"the other {left_out}" if pairs else f"the {left_out}"
        sentences.append(f"{others} pairs are not told apart; --all-pairs prints them")
    print_line("")
    for sentence in sentences:
        print_line(sentence)


def _row(contender: Contender) -> list[str]:
    metrics = contender.metrics
    spread = contender.seed_spread
    deviation = None if spread is None else spread["accuracy"]
    return [
        contender.label,
        _with_interval(metrics["accuracy"]),
        "-" if deviation is None else f"{deviation:.4f} of {len(contender.runs)}",
        *(
            _number(metrics[name].value)
            for name in (
                "balanced_accuracy",
                "macro_f1",
                "roc_auc",
                "log_loss",
                "expected_calibration_error",
            )
        ),
        seconds_text(contender.fit_seconds),
        "-" if contender.predict_us is None else f"{contender.predict_us:,.0f}",
        bytes_text(int(contender.model_bytes)),
    ]


def _print_pairs(pairs: Sequence[Pair]) -> None:
    numbers = ["points", "95 %", "1st only", "2nd only", "p", "corrected p"]
    print_table(
        ["first", "second", *numbers],
        [
            [
                pair.first,
                pair.second,
                points_text(pair.difference.value or 0.0),
                _points_interval(pair.difference.interval),
                pair.test.only_first,
                pair.test.only_second,
                _p(pair.test.p_value),
                _p(pair.adjusted_p),
            ]
            for pair in pairs
        ],
        right=numbers,
    )


def _with_interval(estimate: Estimate) -> str:
    if estimate.interval is None:
        return _number(estimate.value)
    return f"{_number(estimate.value)} ({estimate.interval.low:.3f}–{estimate.interval.high:.3f})"


def _points_interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{points_text(interval.low)} to {points_text(interval.high)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _p(value: float) -> str:
    return p_text(value).removeprefix("p ").removeprefix("= ")


def _fields(comparison: Comparison) -> dict[str, object]:
    return {
        "feature_set": comparison.feature_set,
        "fingerprint": comparison.fingerprint,
        "split": comparison.split,
        "images": len(comparison.labels),
        "class_names": list(comparison.class_names),
        "resamples": comparison.resamples,
        "seed": comparison.seed,
        "contenders": [_contender_fields(contender) for contender in comparison.contenders],
        "pairs": [_pair_fields(pair) for pair in comparison.pairs],
    }


def _contender_fields(contender: Contender) -> dict[str, object]:
    first = contender.runs[0]
    return {
        "label": contender.label,
        "head": first.head,
        "settings": first.settings.to_dict(),
        "shuffled_labels": first.shuffled_labels,
        "path_taken": first.path_taken,
        "augmentation": first.augmentation,
        "trained_weights": trained_weights(first),
        "runs": [
            {"run": run.id, "seed": run.seed, "started_from": run.started_from}
            for run in contender.runs
        ],
        "metrics": {name: _estimate_fields(each) for name, each in contender.metrics.items()},
        "seed_spread": None if contender.seed_spread is None else dict(contender.seed_spread),
        "fit_seconds": contender.fit_seconds,
        "predict_us": contender.predict_us,
        "model_bytes": contender.model_bytes,
        "majority_share": contender.majority_share,
        "chance_share": contender.chance_share,
        "chance_p": contender.chance_p,
        "majority_p": contender.majority_p,
        "sentence": contender.sentence,
    }


def _pair_fields(pair: Pair) -> dict[str, object]:
    return {
        "first": pair.first,
        "second": pair.second,
        "difference": _estimate_fields(pair.difference),
        "only_first": pair.test.only_first,
        "only_second": pair.test.only_second,
        "p_value": pair.test.p_value,
        "adjusted_p": pair.adjusted_p,
        "by_seed": None if pair.by_seed is None else _verdict_fields(pair.by_seed),
        "winner": pair.winner,
        "images_needed": pair.images_needed,
        "sentence": pair.sentence,
    }


def _verdict_fields(found: SeedVerdicts) -> dict[str, object]:
    return {
        "first": found.first,
        "second": found.second,
        "neither": found.neither,
        "p_range": _interval_fields(found.p_range),
    }


def _estimate_fields(estimate: Estimate) -> dict[str, object]:
    return {"value": estimate.value, "interval": _interval_fields(estimate.interval)}


def _interval_fields(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
