"""What takes long of a run and of a comparison: intervals by resampling, and pictures.

This module loads SciPy, scikit-learn and Matplotlib: import it in the thread that draws.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence

from featurestore.catalogue import Record
from featurestore.compare.comparison import compare
from featurestore.compare.results import Comparison, Contender
from featurestore.errors import FeatureStoreError, InvalidInput
from featurestore.report import view
from featurestore.report.html import Drawing, ShownPhotograph, comparison_view, head_drawings
from featurestore.report.outcomes import outcomes_of_runs
from featurestore.report.view import Cell
from featurestore.service.pages import addresses
from featurestore.service.pages.rendering import environment
from featurestore.service.pages.slow_parts import Part
from featurestore.training.evaluation import METRICS
from featurestore.training.runs import Run

_log = logging.getLogger("featurestore.service")

_SPLITS = ("test", "validation", "train")
_THUMBNAIL_SIDE = 160


@dataclasses.dataclass(frozen=True)
class SplitRow:
    """The metrics of one split, under the columns of a comparison's table."""

    split: str
    images: int
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A run's metrics and pictures; `problem` says why there are no intervals or pictures."""

    rows: tuple[SplitRow, ...]
    sentence: str = ""
    notes: tuple[str, ...] = ()
    drawn_split: str = ""
    drawings: tuple[Drawing, ...] = ()
    problem: str = ""


def measured_part(run: Run) -> Part:
    """Return the results of a run: what they are on each split, and what they look like."""
    measured = _measured(run)
    values = {"measured": measured, "columns": view.COLUMNS[1 : 1 + len(METRICS)]}
    html = environment().get_template("run_measured.html.j2").render(**values)
    return Part("", html, lasting=not measured.problem)


def _measured(run: Run) -> Measured:
    splits = [split for split in _SPLITS if run.metrics.get(split)]
    if not splits:
        return Measured(())
    plain = tuple(_recorded(run, split) for split in splits)
    try:
        resampled = {split: _resampled(run, split) for split in splits if split != "train"}
        outcome = outcomes_of_runs([run], splits[0])[0]
        drawings = head_drawings(run, outcome, prefix="run")
    except FeatureStoreError as error:  # damage: what the record says is shown all the same
        _log.warning("%s", error.message)
        # Where the runs lie on this machine is for its log alone.
        return Measured(plain, problem=error.message.replace(f"{run.path.parent}{os.sep}", ""))
    found = [each for each in resampled.values() if each is not None]
    return Measured(
        tuple(_split_row(row, resampled.get(row.split)) for row in plain),
        sentence=found[0].contenders[0].sentence if found else "",
        notes=tuple({note: None for each in found for note in each.notes}),
        drawn_split=splits[0],
        drawings=drawings,
    )


def _resampled(run: Run, split: str) -> Comparison | None:
    try:
        return compare([run], split=split)
    except InvalidInput:
        return None  # one image: nothing is to be resampled


def _recorded(run: Run, split: str) -> SplitRow:
    """Return what a run's record says of a split; older records have fewer metrics."""
    values = run.metrics.get(split) or {}
    numbers = (values.get(name) for name in METRICS)
    cells = tuple(Cell("–" if value is None else f"{value:.3f}") for value in numbers)
    return SplitRow(split, run.features.rows[split], cells)


def _split_row(row: SplitRow, found: Comparison | None) -> SplitRow:
    if found is None:
        return row
    contender: Contender = found.contenders[0]
    return dataclasses.replace(row, cells=view.contender_row(contender).cells[: len(METRICS)])


def comparison_part(runs: Sequence[Run], *, split: str, record: Record | None) -> Part:
    """Return a comparison as the report shows it; photographs are those of `record`'s rows.

    Raises
    ------
    Conflict, NotFound, InvalidInput, IntegrityError
        As `featurestore.compare.comparison.compare`.
    """
    found = compare(runs, split=split)

    def show(row: int, _: str) -> ShownPhotograph:
        if record is None:
            return ShownPhotograph("", missing="no feature set of these images is in the cache")
        return ShownPhotograph(
            addresses.row_image(record, split, row), _THUMBNAIL_SIDE, _THUMBNAIL_SIDE
        )

    shown = comparison_view(found, show=show)
    html = environment().get_template("comparison.html.j2").render(view=shown, linked=True)
    header = environment().get_template("compare_head.html.j2").render(view=shown)
    return Part(view.title(found), header + html)
