"""The heads by name, and the one place that imports their libraries."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

from featurestore.backbones.quiet import quiet_startup
from featurestore.errors import IntegrityError, InvalidInput
from featurestore.training.contract import Head, HeadSettings
from featurestore.training.settings import DenseSettings, LogisticSettings


@dataclasses.dataclass(frozen=True)
class _Entry:
    settings: Callable[..., HeadSettings]
    module: str
    constructor: str


HEADS: Mapping[str, _Entry] = MappingProxyType(
    {
        "dense": _Entry(DenseSettings, "featurestore.training.dense", "DenseHead"),
        "logistic": _Entry(LogisticSettings, "featurestore.training.logistic", "LogisticHead"),
    }
)


def create_head(settings: HeadSettings) -> Head:
    """Return an unfitted head, importing its library."""
    entry = HEADS[settings.head]
    with quiet_startup():  # the dense head loads TensorFlow
        module = importlib.import_module(entry.module)
    return cast(Head, getattr(module, entry.constructor)(settings))


def setting_names(name: str) -> tuple[str, ...]:
    """Return the fields of a head's settings.

    Raises
    ------
    InvalidInput
        No head has that name.
    """
    return tuple(field.name for field in dataclasses.fields(_entry(name).settings))  # type: ignore[arg-type] # dataclasses


def build_settings(name: str, fields: Mapping[str, object]) -> HeadSettings:
    """Return a head's settings, those not in `fields` at their defaults.

    Raises
    ------
    InvalidInput
        No head has that name, a field is not one of its own, or a value is out of range.
    """
    foreign = sorted(set(fields) - set(setting_names(name)))
    if foreign:
        raise InvalidInput(
            f"head {name} has no setting {', '.join(foreign)}: "
            f"it has {', '.join(setting_names(name))}"
        )
    return _entry(name).settings(**fields)


def stored_settings(name: str, fields: Mapping[str, object]) -> HeadSettings:
    """Return the settings that a run recorded.

    Raises
    ------
    IntegrityError
        They are not the settings of a known head.
    """
    try:
        return build_settings(name, fields)
    except (InvalidInput, TypeError) as error:
        raise IntegrityError(f"stored settings of head {name!r}: {error}") from error


def _entry(name: str) -> _Entry:
    try:
        return HEADS[name]
    except KeyError:
        near = difflib.get_close_matches(name, HEADS, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise InvalidInput(
            f"unknown head {name!r}: {guess}expected one of {', '.join(HEADS)}"
        ) from None
