"""The heads by name: settings without their libraries, and the one place that imports those."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, cast

from featurestore.backbones.quiet import quiet_startup
from featurestore.errors import IntegrityError, InvalidInput
from featurestore.training.contract import Head, HeadSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseSettings:
    """Flatten, one hidden layer, one output layer, trained by RMSprop.

    The defaults are those of Chollet, *Deep Learning with Python* (2018), section 5.3, without
    its dropout.

    Parameters
    ----------
    units
        Width of the hidden layer.
    dropout
        Share of hidden units left out at random in each training step, in [0, 1).
    epochs
        Passes over the training split.
    batch_size
        Rows of one step; the last step of an epoch takes what is left.
    learning_rate
        RMSprop's step size.
    scaled
        Divide features by the root of their mean square over the training split, as a fixed first
        layer. False is the reference to the letter: its step size then means something else for
        every backbone and layer. Measured on the reference's photographs and weights, test
        accuracy: 0.963 scaled, 0.936 not (Keras's own `fit` on the same features: 0.937).
    """

    head: ClassVar[str] = "dense"

    units: int = 256
    dropout: float = 0.0
    epochs: int = 30
    batch_size: int = 20
    learning_rate: float = 2e-5
    scaled: bool = True

    def __post_init__(self) -> None:
        for field in ("units", "epochs", "batch_size"):
            _require(self, field, "at least 1", getattr(self, field) >= 1)
        _require(self, "dropout", "at least 0 and less than 1", 0 <= self.dropout < 1)
        _require(self, "learning_rate", "above 0", _is_positive(self.learning_rate))

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticSettings:
    """Multinomial logistic regression with an L2 penalty.

    Parameters
    ----------
    c
        Weight of the data against the penalty, for features divided by the root of their total
        variance (the mean squared distance of a row from the mean row). So it means the same for
        any scale, offset and number of columns. scikit-learn's `C` on the features as they are is
        ``c / total variance``: 6e-5 for VGG16's block5_pool at 150 pixels, where 1e-4 has been
        found good by hand.
    max_iter
        Most iterations of L-BFGS. A fit that needs more is not converged, and says so.
    """

    head: ClassVar[str] = "logistic"

    c: float = 100.0
    max_iter: int = 5000

    def __post_init__(self) -> None:
        _require(self, "c", "above 0", _is_positive(self.c))
        _require(self, "max_iter", "at least 1", self.max_iter >= 1)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class _Entry:
    settings: type[DenseSettings] | type[LogisticSettings]
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
    return tuple(field.name for field in dataclasses.fields(_entry(name).settings))


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
    return _entry(name).settings(**fields)  # type: ignore[arg-type] # checked by __post_init__


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


def _is_positive(value: float) -> bool:
    return value > 0 and math.isfinite(value)


def _require(settings: HeadSettings, field: str, expected: str, holds: bool) -> None:
    if not holds:
        raise InvalidInput(
            f"head {settings.head}, {field}: expected {expected}, found {getattr(settings, field)}"
        )
