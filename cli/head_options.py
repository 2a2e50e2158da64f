"""`--head` and the options that are the settings of heads."""

from __future__ import annotations

import dataclasses
import difflib
import json
from typing import Any

import click

from featurestore.training.end_to_end import end_to_end_settings
from featurestore.training.fine_tune_settings import FineTuneRequest
from featurestore.training.heads import HEADS, build_settings, setting_names
from featurestore.training.methods import END_TO_END, FINE_TUNE
from featurestore.training.settings import CLASS_WEIGHTS, OPTIMIZERS, DenseSettings
from featurestore.training.sklearn_settings import (
    ANY_CLASSIFIER,
    NEIGHBOR_METRICS,
    NEIGHBOR_WEIGHTS,
)
from featurestore_cli.options import Command

_FINE_TUNE = {
    field.name: field.default
    for field in dataclasses.fields(FineTuneRequest)
    if field.default is not dataclasses.MISSING
}


class HeadType(click.ParamType):
    """A head's name, or the path of a class of scikit-learn."""

    name = "head"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; whether scikit-learn has a class is found out later."""
        if value in HEADS or str(value).startswith(ANY_CLASSIFIER):
            return str(value)
        near = difflib.get_close_matches(str(value), HEADS, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        self.fail(
            f"unknown head {value!r}: {guess}expected one of {', '.join(HEADS)}, "
            "or sklearn.module.Class",
            param,
            ctx,
        )


class JsonType(click.ParamType):
    """A JSON value."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value that the text means."""
        try:
            return json.loads(value)
        except ValueError as error:
            self.fail(f"expected JSON such as '{{\"max_depth\": 3}}': {error}", param, ctx)


def _setting_option(name: str, field: str = "", *, type: click.ParamType, help: str) -> Any:
    """Return the option for one setting, which several heads may have; `field` is its name.

    Not given, it is left to the default of the head, or of the path; all are told in its help.
    """
    field = field or name.lstrip("-").replace("-", "_").lower()
    heads = {head: build_settings(head, {}) for head in HEADS if field in setting_names(head)}
    defaults = {head: _default_text(getattr(settings, field)) for head, settings in heads.items()}
    defaults |= _path_defaults(field)
    same = len(set(defaults.values())) == 1
    shown = next(iter(defaults.values())) if same else ", ".join(map(": ".join, defaults.items()))
    return click.option(
        name, field, type=type, help=f"{', '.join(defaults)}: {help}", show_default=shown
    )


def _path_defaults(field: str) -> dict[str, str]:
    """Return the defaults of the paths that need pixels, where they have the setting."""
    found = {}
    if field in setting_names(DenseSettings.head):
        found[END_TO_END] = _default_text(getattr(end_to_end_settings({}), field))
    if field in _FINE_TUNE:
        found[FINE_TUNE] = _default_text(_FINE_TUNE[field])
    return found


def _default_text(value: object) -> str:
    if value is None:
        return "no limit"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


_SETTINGS = (
    _setting_option("--units", type=click.IntRange(1), help="width of the hidden layer."),
    _setting_option("--dropout", type=click.FLOAT, help="share of hidden units left out."),
    _setting_option("--epochs", type=click.IntRange(1), help="passes over the rows."),
    _setting_option("--batch-size", type=click.IntRange(1), help="rows of one step."),
    _setting_option("--optimizer", type=click.Choice(OPTIMIZERS), help="rule of a step."),
    _setting_option("--learning-rate", type=click.FLOAT, help="step size."),
    click.option(
        "--early-stopping",
        "patience",
        type=click.IntRange(1),
        metavar="PATIENCE",
        help="dense, end-to-end, fine-tune: end once so many epochs have not lowered the "
        "validation loss; keep the best one.",
    ),
    _setting_option(
        "--class-weight",
        type=click.Choice(CLASS_WEIGHTS),
        help="balanced lets every class count as much, however many rows it has.",
    ),
    click.option(
        "--raw",
        "scaled",
        flag_value=False,
        default=None,
        help="dense, end-to-end: do not divide the features by their root mean square.",
    ),
    _setting_option(
        "--C",
        type=click.FLOAT,
        help="weight of the data against the penalty, for features of total variance 1.",
    ),
    click.option(
        "--tune",
        flag_value=True,
        default=None,
        help="logistic: choose C among ten values by cross-validation on the training split.",
    ),
    _setting_option("--folds", type=click.IntRange(2), help="parts of the cross-validation."),
    click.option(
        "--standardise",
        flag_value=True,
        default=None,
        help="logistic: give every column zero mean and unit variance first.",
    ),
    _setting_option("--neighbors", type=click.IntRange(1), help="training rows that vote."),
    _setting_option(
        "--neighbor-weights",
        "weights",
        type=click.Choice(NEIGHBOR_WEIGHTS),
        help="what a neighbour's vote counts.",
    ),
    _setting_option(
        "--metric", type=click.Choice(NEIGHBOR_METRICS), help="how far a neighbour is."
    ),
    _setting_option(
        "--trees", type=click.IntRange(1), help="number of trees, or steps of boosting."
    ),
    _setting_option("--max-depth", type=click.IntRange(1), help="most splits from root to leaf."),
    _setting_option("--max-leaves", type=click.IntRange(2), help="most leaves of a tree."),
    _setting_option(
        "--max-bins", type=click.IntRange(2, 255), help="values that a column is rounded to."
    ),
    _setting_option("--max-features", type=click.FLOAT, help="share of columns for each split."),
    click.option(
        "--params",
        "parameters",
        type=JsonType(),
        metavar="JSON",
        help="sklearn.module.Class: parameters of its constructor, such as '{\"max_depth\": 3}'.",
    ),
    _setting_option("--max-iter", type=click.IntRange(1), help="most iterations."),
)


def head_option(command: Command) -> Command:
    """Add `--head`, passed as `head: str`, None if absent."""
    return click.option(
        "--head",
        type=HeadType(),
        metavar="HEAD",
        help=f"Kind of classifier: {', '.join(HEADS)}, or any of scikit-learn's as "
        "sklearn.module.Class. Needed with cached features; dense elsewhere.",
    )(command)


def setting_options(command: Command) -> Command:
    """Add an option for every setting of every head, passed by its field's name, None if absent."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command
