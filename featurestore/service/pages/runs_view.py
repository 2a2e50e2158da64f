"""Runs as their pages show them: the list, and what one run's record says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from featurestore.catalogue import Record
from featurestore.report.text import bytes_text, microseconds_text, seconds_text
from featurestore.service.pages import addresses
from featurestore.training.methods import path_text, pixels_text
from featurestore.training.run_list import (
    NEWEST,
    is_on,
    model_bytes,
    settings_text,
    sorted_runs,
    told_settings,
)
from featurestore.training.runs import Run

MOST_LISTED = 1000
_NO_VALUE = "–"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunQuery:
    """What the list of runs is asked for, as in `fs runs`; `words` are all to be found in a run."""

    words: str = ""
    head: str = ""
    path: str = ""
    on: str = ""
    split: str = "validation"
    sort: str = NEWEST
    reverse: bool = False

    def address(self, **changes: str) -> str:
        """Return the address of the list that is asked for with changes; defaults are left out."""
        fields = {
            "q": self.words,
            "head": self.head,
            "path": self.path,
            "on": self.on,
            "split": "" if self.split == "validation" else self.split,
            "sort": "" if self.sort == NEWEST else self.sort,
            "reverse": "1" if self.reverse else "",
        }
        return f"/runs{addresses.query(**{**fields, **changes})}"


@dataclasses.dataclass(frozen=True)
class RunRow:
    """A run in the list."""

    id: str
    feature_set: str
    fingerprint: str
    path: str
    head: str
    settings: str
    seed: int
    validation: str
    test: str
    loss: str
    fit: str
    size: str
    created: str
    is_control: bool

    @property
    def searched(self) -> str:
        """What the filter box looks in, in small letters."""
        texts = (self.id, self.feature_set, self.fingerprint, self.path, self.head, self.settings)
        return f"{' '.join(texts)} {'control' if self.is_control else ''}".lower()


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the list; `address` sorts by it, `order` is that of ``aria-sort``."""

    name: str
    address: str | None
    order: str | None
    is_number: bool = False


def run_columns(query: RunQuery) -> tuple[Column, ...]:
    """Return the columns of the list, each with where it is sorted by: again, the other way."""

    def column(name: str, sort: str | None = None, *, number: bool = False) -> Column:
        if sort is None:
            return Column(name, None, None, number)
        chosen = query.sort == sort
        reverse = "1" if chosen and not query.reverse else ""
        order = None
        if chosen:
            best_is_large = sort in (NEWEST, "accuracy")
            order = "descending" if best_is_large != query.reverse else "ascending"
        address = query.address(sort="" if sort == NEWEST else sort, reverse=reverse)
        return Column(name, address, order, number)

    def accuracy(split: str) -> Column:
        # Only one split's numbers can be sorted by: the other is chosen in the form.
        return column(split, "accuracy" if query.split == split else None, number=True)

    return (
        column("run", NEWEST),
        accuracy("validation"),
        accuracy("test"),
        column(f"{query.split} loss", "log-loss", number=True),
        column("head", "head"),
        column("path"),
        column("settings"),
        column("seed", "seed", number=True),
        column("fit", "fit", number=True),
        column("model", "size", number=True),
        column("feature set", "feature-set"),
    )


def chosen_runs(found: Sequence[Run], query: RunQuery) -> list[Run]:
    """Return the runs that a query means, in its order; `found` comes newest first."""
    words = query.words.lower().split()
    chosen = [
        run
        for run in found
        if query.head in ("", run.head)
        and query.path in ("", run.path_taken)
        and is_on(run, query.on or None)
        and (not words or all(word in run_row(run, query.split).searched for word in words))
    ]
    return sorted_runs(chosen, query.sort, split=query.split, reverse=query.reverse)


def run_row(run: Run, split: str) -> RunRow:
    """Return a run's line in the list."""
    size = model_bytes(run)
    return RunRow(
        id=run.id,
        feature_set=run.features.name.partition("/")[0],
        fingerprint=run.features.fingerprint[:8],
        path=path_text(run),
        head=run.head,
        settings=settings_text(told_settings(run)),
        seed=run.seed,
        validation=_metric(run, "validation", "accuracy"),
        test=_metric(run, "test", "accuracy"),
        loss=_metric(run, split, "log_loss"),
        fit=seconds_text(run.seconds["fit"]),
        size="gone" if size is None else bytes_text(size),
        created=run.created,
        is_control=run.shuffled_labels,
    )


def _metric(run: Run, split: str, name: str) -> str:
    value = (run.metrics.get(split) or {}).get(name)
    return _NO_VALUE if value is None else f"{value:.4f}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of a run; `changed`: it is not at its default."""

    name: str
    value: str
    changed: bool


@dataclasses.dataclass(frozen=True)
class RunFile:
    """A file of a run; `size` says so where it is gone."""

    name: str
    size: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class RunView:
    """What a run's record says, for its page. `set_address` is None where the set is gone."""

    run: Run
    title: str
    set_address: str | None
    pixels: str
    facts: tuple[tuple[str, str], ...]
    settings: tuple[Setting, ...]
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    files: tuple[RunFile, ...]


def run_view(run: Run, records: Sequence[Record]) -> RunView:
    """Return what the page of a run says without reading its probabilities."""
    changed = run.changed_settings()
    groups: dict[str, Mapping[str, object]] = {
        "augmentation": run.augmentation or {},
        "numbers of weights": {name: f"{count:,}" for name, count in run.parameters.items()},
        "chosen by the fit": run.chosen,
        "versions": run.versions,
    }
    return RunView(
        run=run,
        title=f"{run.head}, {path_text(run)}",
        set_address=_set_address(run, records),
        pixels=pixels_text(run),
        facts=_facts(run),
        settings=tuple(
            Setting(name, _value_text(value), name in changed)
            for name, value in run.settings.to_dict().items()
        ),
        groups=tuple((title, _texts(fields)) for title, fields in groups.items() if fields),
        files=tuple(_file(run, name, digest) for name, digest in run.files.items()),
    )


def _set_address(run: Run, records: Sequence[Record]) -> str | None:
    same = [each for each in records if each.fingerprint == run.features.fingerprint]
    if not same:
        return None
    newest = max((each for each in records if each.name == same[0].name), key=lambda r: r.sequence)
    pinned = None if newest.fingerprint == same[0].fingerprint else same[0].fingerprint[:16]
    return addresses.set_page(same[0].name, fingerprint=pinned)


def _facts(run: Run) -> tuple[tuple[str, str], ...]:
    trained_on = run.features
    rows = ", ".join(f"{split} {rows:,}" for split, rows in trained_on.rows.items())
    predict = run.seconds.get("predict_per_row")
    names = trained_on.class_names
    return (
        ("images", rows),
        ("classes", f"{len(names):,}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"),
        ("seed", str(run.seed)),
        ("fit", seconds_text(run.seconds["fit"])),
        *([("one image, from features", microseconds_text(1e6 * predict))] if predict else []),
    )


def _file(run: Run, name: str, digest: str) -> RunFile:
    try:
        size = bytes_text((run.path / name).stat().st_size)
    except OSError:
        size = "gone"
    return RunFile(name, size, digest)


def _texts(fields: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple((name.replace("_", " "), _value_text(value)) for name, value in fields.items())


def _value_text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
