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
from featurestore.training.fine_tune_settings import FineTuneSettings
from featurestore.training.settings import DenseSettings, LogisticSettings
from featurestore.training.sklearn_settings import (
    ANY_CLASSIFIER,
    GradientBoostingSettings,
    KnnSettings,
    LinearSvmSettings,
    NearestCentroidSettings,
    RandomForestSettings,
    SgdSettings,
    SklearnSettings,
)

_NAMED = "featurestore.training.sklearn_heads"


_ANY = "featurestore.training.sklearn_any"


@dataclasses.dataclass(frozen=True)
class _Entry:
    settings: Callable[..., HeadSettings]
    module: str
    constructor: str


HEADS: Mapping[str, _Entry] = MappingProxyType(
    {
        "dense": _Entry(DenseSettings, "featurestore.training.dense", "DenseHead"),
        "logistic": _Entry(LogisticSettings, "featurestore.training.logistic", "LogisticHead"),
        "linear-svm": _Entry(LinearSvmSettings, _NAMED, "LinearSvmHead"),
        "knn": _Entry(KnnSettings, _NAMED, "KnnHead"),
        "random-forest": _Entry(RandomForestSettings, _NAMED, "RandomForestHead"),
        "gradient-boosting": _Entry(GradientBoostingSettings, _NAMED, "GradientBoostingHead"),
        "nearest-centroid": _Entry(NearestCentroidSettings, _NAMED, "NearestCentroidHead"),
        "sgd": _Entry(SgdSettings, "featurestore.training.incremental", "SgdHead"),
    }
)

# Of runs, not of `--head`: it cannot be fitted without a run to start from.
_FINE_TUNED = _Entry(FineTuneSettings, "featurestore.training.tail", "FineTunedHead")


def create_head(settings: HeadSettings) -> Head:
    """Return an unfitted head, importing its library."""
    entry = _entry(settings.head)
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


def has_epochs(name: str) -> bool:
    """Return whether a head's fit goes on in epochs, which can be watched.

    Raises
    ------
    InvalidInput
        No head has that name.
    """
    return "epochs" in setting_names(name)


def build_settings(name: str, fields: Mapping[str, object]) -> HeadSettings:
    """Return a head's settings, those not in `fields` at their defaults.

    Of a head named ``sklearn.module.Class`` the field is ``parameters``, a mapping of JSON values.

    Raises
    ------
    InvalidInput
        No head has that name, a field is not one of its own, or a value is out of range.
    """
    if name == FineTuneSettings.head:
        raise InvalidInput(
            f"head {name} starts from a run and is not chosen by name",
            next_step="fs train DATASET --path fine-tune --from RUN --unfreeze LAYER",
        )
    settings = _with_fields(name, fields)
    if isinstance(settings, SklearnSettings):
        importlib.import_module(_ANY).check_parameters(settings.estimator, settings.parameters)
    return settings


def _with_fields(name: str, fields: Mapping[str, object]) -> HeadSettings:
    foreign = sorted(set(fields) - set(setting_names(name)))
    if foreign:
        raise InvalidInput(
            f"head {name} has no setting {', '.join(foreign)}: "
            f"it has {', '.join(setting_names(name))}"
        )
    if name.startswith(ANY_CLASSIFIER):
        fields = {"estimator": name} | dict(fields)
        if fields["estimator"] != name:
            raise InvalidInput(f"head {name}, estimator: found {fields['estimator']}")
    return _entry(name).settings(**fields)


def stored_settings(name: str, fields: Mapping[str, object]) -> HeadSettings:
    """Return the settings that a run recorded.

    Raises
    ------
    IntegrityError
        They are not the settings of a known head.
    """
    try:
        # Whether this scikit-learn has a class is asked when its model is loaded: a run of another
        # version can still be listed.
        return _with_fields(name, fields)
    except (InvalidInput, TypeError, OverflowError) as error:
        raise IntegrityError(f"stored settings of head {name!r}: {error}") from error


def _entry(name: str) -> _Entry:
    if name.startswith(ANY_CLASSIFIER):
        return _Entry(SklearnSettings, _ANY, "AnySklearnHead")
    if name == FineTuneSettings.head:
        return _FINE_TUNED
    try:
        return HEADS[name]
    except KeyError:
        near = difflib.get_close_matches(name, HEADS, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise InvalidInput(
            f"unknown head {name!r}: {guess}expected one of {', '.join(HEADS)}, or a classifier of "
            "scikit-learn such as sklearn.tree.DecisionTreeClassifier"
        ) from None
