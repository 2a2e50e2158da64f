"""`--path`, and which of the options of `fs train` belong to which path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from featurestore.augmentation import Augmentation, parse_augmentation
from featurestore.errors import InvalidInput
from featurestore.training.heads import HEADS, setting_names
from featurestore.training.run_record import PATHS
from featurestore_cli.options import Command
from featurestore_cli.recipe_options import EMBED_OPTIONS

_STREAMED = ("augment", "images", "restart", "backbone_weights", "workers")
_STEPS = ("epochs", "batch_size", "optimizer", "learning_rate", "patience", "class_weight")
_OF_PATH: Mapping[str, tuple[str, ...]] = {
    "cached": ("views",),
    "end-to-end": _STREAMED,
    "fine-tune": (*_STREAMED, *_STEPS, "start", "unfreeze", "statistics", "views"),
}
"""Options by the names they are passed under, but for the settings of heads."""


class AugmentationType(click.ParamType):
    """Ranges that images are varied by; passed as a tuple of one, since ``none`` means None."""

    name = "spec"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Augmentation | None]:
        """Return the ranges."""
        try:
            return (parse_augmentation(str(value)),)
        except InvalidInput as error:
            self.fail(error.message, param, ctx)


class ViewsType(click.ParamType):
    """A number of views, or ``all``."""

    name = "views"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number, or ``all``."""
        text = str(value)
        if text != "all" and not (text.isdecimal() and int(text) > 0):
            self.fail(f"expected a number of views, or all; found {text!r}", param, ctx)
        return text if text == "all" else int(text)


_OPTIONS = (
    click.option(
        "--path",
        "path_taken",
        type=click.Choice(PATHS),
        default="cached",
        show_default=True,
        help="cached: a head on stored features. end-to-end: a dense head on images that are "
        "varied anew in every epoch. fine-tune: layers of the backbone too, from a run's head.",
    ),
    click.option(
        "--views",
        type=ViewsType(),
        metavar="K|all",
        help="cached, fine-tune: train on K stored views of each image (fs embed --views).",
    ),
    click.option(
        "--augment",
        type=AugmentationType(),
        metavar="SPEC",
        help="end-to-end, fine-tune: default, reference, none, or fields such as "
        "rotation=20,flip=false.  [default: end-to-end default, fine-tune none]",
    ),
    click.option("--from", "start", metavar="RUN", help="fine-tune: the run to start from."),
    click.option(
        "--unfreeze",
        multiple=True,
        metavar="LAYERS",
        help="fine-tune: layers to train: a name, the start of names (block5) or a pattern "
        "(block7*); by comma or several times.",
    ),
    click.option(
        "--batch-statistics",
        "statistics",
        flag_value=True,
        default=None,
        help="fine-tune: batch normalisations that are unfrozen learn their statistics too.",
    ),
    click.option(
        "--images",
        type=click.Path(path_type=Path),
        metavar="DATASET",
        help="end-to-end, fine-tune: where the images lie now, if not where they were embedded.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Threads that decode and augment; default: one a core.",
    ),
    click.option(
        "--restart",
        flag_value=True,
        default=None,
        help="end-to-end, fine-tune: begin anew, whatever an earlier process has left.",
    ),
)


def path_options(command: Command) -> Command:
    """Add `--path`, passed as `path_taken`, and what only some paths have, None if absent."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def foreign_options(
    given: Sequence[str], *, path: str, of_head: Sequence[str], of_dataset: Sequence[str]
) -> list[str]:
    """Return those of the options that mean nothing on a path.

    Parameters
    ----------
    of_head
        The settings of the head that is trained.
    of_dataset
        What says how a dataset is embedded, where one is to be.
    """
    of_path = _OF_PATH[path] if path == "fine-tune" else (*_OF_PATH[path], *of_head)
    return [option for option in given if option not in (*of_path, *of_dataset)]


class GroupedCommand(click.Command):
    """A command whose help lists its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each under the heading that its name is listed with."""
        grouped: dict[str, list[tuple[str, str]]] = {title: [] for title in _HEADINGS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                grouped[_heading(str(parameter.name))].append(record)
        for title, records in grouped.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


_PATHS = "Paths"
_DATASET = "A folder or manifest file that is embedded first"
_HEADS = "Heads (an option is refused with a head that does not have it)"
_EVERY = "Every training"
_HEADINGS = (_PATHS, _EVERY, _DATASET, _HEADS)


def _heading(option: str) -> str:
    of_paths = {"path_taken", *(option for options in _OF_PATH.values() for option in options)}
    if option in of_paths.difference(_STEPS, EMBED_OPTIONS):
        return _PATHS
    if option in EMBED_OPTIONS:
        return _DATASET
    of_heads = {"head", "parameters", *(name for head in HEADS for name in setting_names(head))}
    return _HEADS if option in of_heads else _EVERY
