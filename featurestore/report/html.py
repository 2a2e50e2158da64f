"""A comparison as one HTML file that needs nothing else: no network, no script, no other file.

Its parts are a page of the service too, which shows photographs by their addresses instead.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from pathlib import Path

from featurestore.compare.results import Comparison, Contender
from featurestore.errors import Conflict
from featurestore.report import view
from featurestore.report.comparison_plot import comparison_picture
from featurestore.report.confusion_plot import confusion_picture
from featurestore.report.curves_plot import curves_picture
from featurestore.report.figures import Picture, inline_svg
from featurestore.report.files import write_whole
from featurestore.report.gallery import Exhibit, Gallery, choose_exhibits
from featurestore.report.outcomes import Outcome, outcomes_of_comparison, roc_curves
from featurestore.report.photographs import Photograph, Photographs
from featurestore.report.reliability_plot import reliability_picture
from featurestore.report.roc_plot import roc_picture
from featurestore.report.templating import Markup, PackageLoader, page_environment
from featurestore.training.runs import Run

# A phone is about 3.8 inches of CSS pixels wide: these stay readable when scaled down to it.
_WIDTH_INCHES, _COMPARISON_INCHES = 4.4, 5.8
_WIDEST_INCHES = 6.5  # a picture above it keeps its size and scrolls
_TINY_PIXELS = 80  # images below it are shown enlarged


@dataclasses.dataclass(frozen=True)
class ShownPhotograph:
    """What stands in a page for a sample's image: a source for ``<img>``, or why there is none."""

    source: str
    width: int = 0
    height: int = 0
    missing: str = ""


ShowsPhotographs = Callable[[int, str], ShownPhotograph]
"""Given the row within the split that is compared on, and the sample id of that row."""
_NO_PHOTOGRAPH = ShownPhotograph("", missing="images were not asked for")


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A picture of a page, as its SVG element; a wide one keeps its size and scrolls."""

    caption: str
    svg: Markup
    wide: bool


@dataclasses.dataclass(frozen=True)
class _Head:
    label: str
    sentence: str
    notes: tuple[str, ...]
    pictures: tuple[Drawing, ...]


@dataclasses.dataclass(frozen=True)
class _Answer:
    contender: str
    answer: str
    probability: str
    right: bool


@dataclasses.dataclass(frozen=True)
class _Card:
    sample_id: str
    true_class: str
    keys: tuple[str, ...]
    answers: tuple[_Answer, ...]
    source: str
    width: int
    height: int
    tiny: bool
    missing: str


@dataclasses.dataclass(frozen=True)
class _Filter:
    key: str
    label: str
    count: int


def write_report(
    comparison: Comparison, path: Path, *, photographs: Photographs | None = None
) -> None:
    """Write the report of a comparison: whole and durable when this returns.

    Equal comparisons with equal images give equal bytes.

    Parameters
    ----------
    photographs
        Where the images of the gallery are; without it they are named only.

    Raises
    ------
    Conflict
        `photographs` are of other images.
    InvalidInput
        The file cannot be written.
    IntegrityError
        The feature set of `photographs` is missing or damaged.
    """
    if photographs is not None:
        _check_same_images(comparison, photographs)

    def show(_: int, sample_id: str) -> ShownPhotograph:
        if photographs is None:
            return _NO_PHOTOGRAPH
        return _embedded(photographs.find(comparison.split, sample_id))

    template = page_environment(PackageLoader("featurestore.report")).get_template("report.html.j2")
    page = template.render(view=comparison_view(comparison, show=show))
    write_whole(path, page.encode())


def _check_same_images(comparison: Comparison, photographs: Photographs) -> None:
    """Refuse photographs of other rows; the recipe of their features does not matter."""
    expected = comparison.features.manifest_fingerprint
    record = photographs.record
    if record.manifest_fingerprint != expected:
        raise Conflict(
            f"report on {comparison.feature_set}: expected images of manifest {expected[:12]}, "
            f"found those of {record.manifest_fingerprint[:12]} ({record.name})",
            next_step="take the record of a feature set of the images that were compared on",
        )


def comparison_view(comparison: Comparison, *, show: ShowsPhotographs) -> dict[str, object]:
    """Return what ``comparison.html.j2`` shows of a comparison; its pictures are drawn here."""
    outcomes = outcomes_of_comparison(comparison)
    gallery = choose_exhibits(outcomes)
    cards = _cards(comparison, gallery, show)
    return {
        "title": view.title(comparison),
        "facts": view.facts(comparison),
        "findings": view.findings(comparison),
        "notes": comparison.notes,
        "chance": view.chance(comparison),
        "columns": view.COLUMNS,
        "contenders": [view.contender_row(each) for each in comparison.contenders],
        "table_note": view.table_note(comparison),
        "paths": view.paths(comparison),
        "comparison": _svg(
            comparison_picture(comparison, width_inches=_COMPARISON_INCHES), "comparison"
        ),
        "pair_columns": view.PAIR_COLUMNS,
        "pairs": [view.pair_row(pair) for pair in comparison.pairs],
        "pair_note": view.pair_note(comparison),
        "together": _ranking_and_calibration(outcomes, "all") if len(outcomes) > 1 else (),
        "heads": [
            _head(contender, outcome, f"head{number}")
            for number, (contender, outcome) in enumerate(
                zip(comparison.contenders, outcomes, strict=True)
            )
        ],
        "gallery_note": view.gallery_note(gallery, contenders=len(outcomes)),
        "exhibits": cards,
        "filters": _filters(comparison, cards),
        "provenance": view.provenance(comparison),
        "runs": view.run_rows(comparison),
    }


def _embedded(photograph: Photograph) -> ShownPhotograph:
    if photograph.jpeg is None:
        return ShownPhotograph("", missing=photograph.missing or "")
    source = f"data:image/jpeg;base64,{base64.b64encode(photograph.jpeg).decode()}"
    return ShownPhotograph(source, photograph.width, photograph.height)


def _svg(picture: Picture, prefix: str) -> Markup:
    return Markup(inline_svg(picture, prefix=prefix))


def _drawing(caption: str, picture: Picture, prefix: str) -> Drawing:
    return Drawing(caption, _svg(picture, prefix), picture.size[0] > _WIDEST_INCHES)


def _ranking_and_calibration(outcomes: list[Outcome], prefix: str) -> tuple[Drawing, ...]:
    drawings = []
    if all(map(roc_curves, outcomes)):  # rows of one class have no ROC curve
        roc = roc_picture(outcomes, width_inches=_WIDTH_INCHES)
        drawings.append(_drawing("ROC", roc, f"{prefix}-roc"))
    reliability = reliability_picture(outcomes, width_inches=_WIDTH_INCHES)
    drawings.append(_drawing("Reliability", reliability, f"{prefix}-reliability"))
    return tuple(drawings)


def _head(contender: Contender, outcome: Outcome, prefix: str) -> _Head:
    drawings = head_drawings(contender.runs[0], outcome, prefix=prefix)
    return _Head(contender.label, contender.sentence, view.head_notes(contender), drawings)


def head_drawings(run: Run, outcome: Outcome, *, prefix: str) -> tuple[Drawing, ...]:
    """Return what is drawn of one run: confusion, ROC, reliability, curves where it has epochs.

    Parameters
    ----------
    prefix
        Unique within the page: ids in the elements begin with it.
    """
    drawings = [
        _drawing("Confusion matrix", confusion_picture([outcome]), f"{prefix}-confusion"),
        *_ranking_and_calibration([outcome], prefix),
    ]
    if run.history:
        curves = curves_picture([run], width_inches=_COMPARISON_INCHES)
        drawings.append(_drawing(f"Training, seed {run.seed}", curves, f"{prefix}-curves"))
    return tuple(drawings)


def _cards(comparison: Comparison, gallery: Gallery, show: ShowsPhotographs) -> tuple[_Card, ...]:
    kinds = (("all-wrong", gallery.all_wrong), ("disagree", gallery.disagreed))
    return tuple(_card(comparison, exhibit, kind, show) for kind, part in kinds for exhibit in part)


def _card(comparison: Comparison, exhibit: Exhibit, kind: str, show: ShowsPhotographs) -> _Card:
    sample_id = str(comparison.sample_ids[exhibit.row])
    photograph = show(exhibit.row, sample_id)
    wrong = (f"wrong-{n}" for n, answer in enumerate(exhibit.answers) if not answer.right)
    return _Card(
        sample_id=sample_id,
        true_class=comparison.class_names[exhibit.label],
        keys=("all", kind, *wrong),
        answers=tuple(
            _Answer(
                answer.contender,
                comparison.class_names[answer.answer],
                view.probability_text(answer.probability),
                answer.right,
            )
            for answer in exhibit.answers
        ),
        source=photograph.source,
        width=photograph.width,
        height=photograph.height,
        tiny=max(photograph.width, photograph.height) < _TINY_PIXELS,
        missing=photograph.missing,
    )


def _filters(comparison: Comparison, cards: tuple[_Card, ...]) -> list[_Filter]:
    labels = {"all": "all", "all-wrong": "all wrong", "disagree": "heads disagree"}
    labels |= {
        f"wrong-{number}": f"{contender.label} wrong"
        for number, contender in enumerate(comparison.contenders)
    }
    if len(comparison.contenders) == 1:
        labels = {"all": "all"}
    return [
        _Filter(key, label, sum(key in card.keys for card in cards))
        for key, label in labels.items()
    ]
