"""A comparison as the texts of a page, before any of it becomes HTML."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from featurestore.compare.results import Comparison, Contender, Estimate, Interval, Pair
from featurestore.compare.sentences import count_text, p_text
from featurestore.compare.statistics import FEWEST_APART, LEVEL, POWER
from featurestore.report.gallery import Gallery
from featurestore.report.text import (
    bytes_text,
    microseconds_text,
    percent_text,
    points_text,
    seconds_text,
)
from featurestore.training.methods import pixels_text, weights_text
from featurestore.training.run_record import CACHED, FINE_TUNE

_METRIC_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "roc_auc": "ROC AUC",
    "log_loss": "log loss",
    "expected_calibration_error": "calibration error",
}
COLUMNS = ("head", *_METRIC_NAMES.values(), "fit", "one image", "model")
PAIR_COLUMNS = (
    "first − second",
    "difference",
    "only first right",
    "only second right",
    "p",
    "p, corrected",
    "images needed",
)
_NO_VALUE = "–"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number of a table, with its uncertainty in small print."""

    text: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class TableRow:
    """A row of a table: its name, and a cell for each further column."""

    label: str
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Finding:
    """A pair's sentence, and whether one of the pair is better: see `Pair.winner`."""

    sentence: str
    told_apart: bool


Facts = tuple[tuple[str, str], ...]


def title(comparison: Comparison) -> str:
    """Return the page's heading."""
    tuned = sum(each.runs[0].path_taken == FINE_TUNE for each in comparison.contenders)
    heads = len(comparison.contenders) - tuned
    counts = [
        *([count_text(heads, "head")] if heads else []),
        *([count_text(tuned, "fine-tuned network")] if tuned else []),
    ]
    return f"{' and '.join(counts)} on {comparison.feature_set}"


def facts(comparison: Comparison) -> Facts:
    """Return what was compared on what."""
    trained_on = comparison.features
    names = comparison.class_names
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20:,} more" if names[20:] else "")
    recipe = trained_on.recipe
    size = recipe.get("size")
    pixels = " × ".join(map(str, size)) if isinstance(size, Sequence) else "?"
    return (
        ("compared on", f"{comparison.split}, {count_text(len(comparison.labels), 'image')}"),
        ("trained on", count_text(trained_on.rows.get("train", 0), "image")),
        ("classes", f"{len(names):,}: {listed}"),
        ("fingerprint", comparison.fingerprint[:16]),
        (
            "recipe",
            f"{recipe.get('backbone')} to {recipe.get('layer')}, {pixels} pixels, "
            f"{recipe.get('precision')}, stored as {recipe.get('dtype')}",
        ),
    )


def findings(comparison: Comparison) -> tuple[Finding, ...]:
    """Return the pairs' sentences, those of pairs that are told apart first."""
    found = [Finding(pair.sentence, pair.winner is not None) for pair in comparison.pairs]
    return tuple(sorted(found, key=lambda finding: not finding.told_apart))


def chance(comparison: Comparison) -> tuple[str, ...]:
    """Return what is said of contenders that do not beat chance and the majority, and controls."""
    return tuple(
        contender.sentence
        for contender in comparison.contenders
        if not contender.is_expected(LEVEL)
    )


def contender_row(contender: Contender) -> TableRow:
    """Return a contender's numbers under `COLUMNS`."""
    cells = [_metric_cell(contender, name) for name in _METRIC_NAMES]
    predict_us = contender.predict_us
    cells += [
        Cell(seconds_text(contender.fit_seconds)),
        Cell(_NO_VALUE if predict_us is None else microseconds_text(predict_us)),
        Cell(bytes_text(contender.model_bytes)),
    ]
    return TableRow(contender.label, tuple(cells))


def table_note(comparison: Comparison) -> str:
    """Return what the small print of the contenders' table means."""
    note = (
        "Small print: the 95 % interval, by the paired bootstrap over images "
        f"({comparison.resamples:,} resamples): what other images of the same kind might have "
        "given. The calibration error has none: no interval of it is reliable."
    )
    if any(contender.seed_spread for contender in comparison.contenders):
        note += (
            " ± is something else: the standard deviation over seeds, of fits on the same images. "
            "A head's numbers are means over its seeds."
        )
    return (
        f"{note} Times and sizes are medians: fit, of the training without an embedding before it; "
        "one image, from the features that are read to the probabilities."
    )


def paths(comparison: Comparison) -> Facts:
    """Return what each contender did with the pixels; nothing where all did the same and no more.

    Heads on cached features without views need no words: that is what a feature set is for.
    """
    firsts = [contender.runs[0] for contender in comparison.contenders]
    if all(run.path_taken == CACHED and run.augmentation is None for run in firsts):
        return ()
    return tuple(
        (contender.label, pixels_text(contender.runs[0])) for contender in comparison.contenders
    )


def pair_row(pair: Pair) -> TableRow:
    """Return a pair's numbers under `PAIR_COLUMNS`."""
    difference, interval = pair.difference.value, pair.difference.interval
    seeds = None if pair.by_seed is None else pair.by_seed.p_range
    return TableRow(
        f"{pair.first} − {pair.second}",
        (
            Cell(
                _NO_VALUE if difference is None else f"{points_text(difference)} points",
                ""
                if interval is None
                else f"{points_text(interval.low)} to {points_text(interval.high)}",
            ),
            Cell(f"{pair.test.only_first:,}"),
            Cell(f"{pair.test.only_second:,}"),
            Cell(
                _p(pair.test.p_value),
                "" if seeds is None else _range_text(_p(seeds.low), _p(seeds.high)),
            ),
            Cell(_p(pair.adjusted_p)),
            Cell(_NO_VALUE if pair.images_needed is None else f"{pair.images_needed:,}"),
        ),
    )


def pair_note(comparison: Comparison) -> str:
    """Return how the pairs were tested."""
    note = (
        "Exact McNemar tests of each head's first run on the same images; corrected by Holm's "
        f"method over {count_text(len(comparison.pairs), 'pair')}. Images needed: about how many "
        f"would tell the pair apart with {100 * POWER:.0f} % power, if the difference is as large "
        f"as observed; none is given where fewer than {FEWEST_APART} images set it apart."
    )
    if any(pair.by_seed for pair in comparison.pairs):
        note += " Small print under p: the range over all pairs of their runs."
    return note


def gallery_note(gallery: Gallery, *, contenders: int) -> str:
    """Return how many images there are of each kind, and which of them are shown."""
    first_run = "Answers are those of each head's first run."
    wrong = f"All heads get {count_text(gallery.all_wrong_count, 'image')} wrong"
    if contenders == 1:
        wrong = f"The head gets {count_text(gallery.all_wrong_count, 'image')} wrong"
    wrong += _shown_part(gallery.all_wrong_count, len(gallery.all_wrong))
    order = " First come those whose label the heads find least probable."
    if contenders == 1:
        return f"{wrong}.{order if gallery.all_wrong else ''} {first_run}"
    apart = f"On {count_text(gallery.disagreed_count, 'image')} some are right and some wrong"
    apart += _shown_part(gallery.disagreed_count, len(gallery.disagreed))
    if gallery.disagreed:
        order += " Then those on which they differ most in the probability of the label."
    both = gallery.all_wrong or gallery.disagreed
    return f"{wrong}. {apart}.{order if both else ''} {first_run}"


def head_notes(contender: Contender) -> tuple[str, ...]:
    """Return what a reader must be told of a contender's runs, each once."""
    notes = {note: None for run in contender.runs for note in run.notes}
    chosen = {_mapping_text(run.chosen): None for run in contender.runs if run.chosen}
    weights = weights_text(contender.runs[0])
    return (
        *([] if weights is None else [f"weights trained: {weights}"]),
        *(f"chosen by the fit: {text}" for text in chosen),
        *notes,
    )


def provenance(comparison: Comparison) -> Facts:
    """Return identities and settings that repeat the comparison."""
    trained_on = comparison.features
    return (
        ("fingerprint", comparison.fingerprint),
        ("manifest fingerprint", trained_on.manifest_fingerprint),
        ("recipe fingerprint", trained_on.recipe_fingerprint),
        ("recipe", _mapping_text(trained_on.recipe)),
        ("bootstrap", f"{comparison.resamples:,} resamples, seed {comparison.seed}"),
    )


@dataclasses.dataclass(frozen=True)
class RunRow:
    """One run in the table at the end."""

    id: str
    label: str
    path: str
    features: str
    seed: int
    created: str
    settings: str
    versions: str


def run_rows(comparison: Comparison) -> tuple[RunRow, ...]:
    """Return every run of a comparison, contender by contender."""
    return tuple(
        RunRow(
            run.id,
            contender.label,
            run.path_taken + (f" from {run.started_from}" if run.started_from else ""),
            f"{run.features.name} {run.features.fingerprint[:8]}",
            run.seed,
            run.created,
            _mapping_text(run.settings.to_dict()),
            ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        )
        for contender in comparison.contenders
        for run in contender.runs
    )


def probability_text(probability: float) -> str:
    """Return a probability in percent; one that rounding would make certain is told as near it."""
    if 0.9995 <= probability < 1:
        return "> 99.9 %"
    return percent_text(probability)


def _metric_cell(contender: Contender, name: str) -> Cell:
    estimate = contender.metrics[name]
    if estimate.value is None:
        return Cell(_NO_VALUE)
    spread = contender.seed_spread[name] if contender.seed_spread is not None else None
    text = f"{estimate.value:.3f}"
    return Cell(text if spread is None else f"{text} ± {spread:.3f}", _interval_text(estimate))


def _interval_text(estimate: Estimate) -> str:
    interval: Interval | None = estimate.interval
    return "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def _p(value: float) -> str:
    return p_text(value).removeprefix("p ").removeprefix("= ")


def _range_text(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _shown_part(count: int, drawn: int) -> str:
    return f" ({drawn} shown, {count - drawn:,} not)" if drawn < count else ""


def _mapping_text(mapping: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in mapping.items()
    )
