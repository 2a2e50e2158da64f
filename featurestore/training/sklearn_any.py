"""Any classifier of scikit-learn by its public path, and no other class."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sklearn.calibration import CalibratedClassifierCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils import all_estimators
from sklearn.utils.validation import has_fit_parameter

from featurestore.errors import InvalidInput
from featurestore.training.calibrated import FOLDS, calibrated, fit_calibrated
from featurestore.training.contract import FitOptions
from featurestore.training.sklearn_heads import Fit, check_calibrated
from featurestore.training.sklearn_model import (
    FlatRows,
    SklearnHead,
    fit_estimator,
    random_state,
)
from featurestore.training.sklearn_settings import SklearnSettings


class AnySklearnHead(SklearnHead[SklearnSettings]):
    """The class as its parameters make it; its own `n_jobs`, scaling and defaults.

    A class without probabilities but with a score is calibrated as the linear SVM is, with five
    folds drawn by the seed; so `model_` is then a `CalibratedClassifierCV`.
    """

    def needed_bytes(self, rows: int, columns: int, *, n_classes: int) -> int:
        """24 a value: rows and two copies; what the class itself needs is not known."""
        return rows * columns * 24

    def model_class(self) -> Any:
        """The class, or `CalibratedClassifierCV` around it."""
        return CalibratedClassifierCV if _needs_calibration(self._create(0)) else self._class()

    def fit_model(self, rows: FlatRows, *, options: FitOptions) -> Fit:
        """Fit on the features as they are, in float64.

        Each version of an image has its share of the image's weight, where the class takes weights.
        """
        head = self.settings.head
        model = self._create(options.seed)
        notes = _view_notes(head, model) if rows.versions > 1 else ()
        if _needs_calibration(model):
            model, few = calibrated(
                model, rows.image_labels, head=head, folds=FOLDS, seed=options.seed
            )
            notes += few + fit_calibrated(head, model, rows)
        else:
            weights = rows.weights() if has_fit_parameter(model, "sample_weight") else None
            notes += fit_estimator(head, model, rows.X, rows.y, sample_weight=weights)
        if isinstance(model, KNeighborsClassifier) and model.n_neighbors > len(rows.X):
            # Without a word some metrics would count rows that are not near.
            raise InvalidInput(
                f"head {head}: {model.n_neighbors} neighbours are more than the {len(rows.X)} "
                "training rows",
                next_step=f"--params '{{\"n_neighbors\": {len(rows.X)}}}', or fewer",
            )
        return model, notes

    def check_loaded(self, model: Any, path: Path) -> None:
        """Refuse another estimator within a calibrated one."""
        if _needs_calibration(self._create(0)):
            check_calibrated(model, self._class(), path)

    def _class(self) -> Any:
        return find_classifier(self.settings.estimator)

    def _create(self, seed: int) -> Any:
        created = self._class()
        parameters = dict(self.settings.parameters)
        check_parameters(self.settings.estimator, parameters)
        weights = parameters.get("class_weight")
        if isinstance(weights, Mapping):  # JSON has no numbers for keys
            parameters["class_weight"] = {_label(key): value for key, value in weights.items()}
        if _draws_seed(created, parameters):
            parameters["random_state"] = random_state(seed)
        return created(**parameters)


def _view_notes(head: str, model: Any) -> tuple[str, ...]:
    """Return what a reader must know of a class that was not made for versions of images."""
    notes = []
    if not has_fit_parameter(model, "sample_weight"):
        notes.append(
            f"head {head}: its fit takes no weights: every view counts as a row of its own"
        )
    parameters = model.get_params()
    if "cv" in parameters or parameters.get("early_stopping", False):
        notes.append(
            f"head {head}: it sets rows apart by itself, and views of one image may lie on both "
            "sides"
        )
    return tuple(notes)


def find_classifier(path: str) -> Any:
    """Return the classifier that scikit-learn offers under a public path.

    Nothing is imported at the path's wish: it is looked up among the classifiers that scikit-learn
    itself lists.

    Raises
    ------
    InvalidInput
        There is none; near misses are named.
    """
    known = _classifiers()
    if path in known:
        return known[path]
    name = path.rpartition(".")[2].lower()
    near = [other for other in known if other.rpartition(".")[2].lower() == name]
    near = near or difflib.get_close_matches(path, known, n=3)
    guess = f"did you mean {' or '.join(near)}?" if near else "expected sklearn.module.Class"
    raise InvalidInput(
        f"head {path}: scikit-learn has no classifier of that name: {guess}",
        next_step="see scikit-learn's documentation for its classifiers",
    )


def check_parameters(path: str, parameters: Mapping[str, object]) -> None:
    """Refuse parameters that a class does not have, and a class that needs an object.

    Their values are checked by scikit-learn, when it fits.

    Raises
    ------
    InvalidInput
        The class is unknown, has no such parameter, or cannot be made from JSON alone.
    """
    signature = inspect.signature(find_classifier(path).__init__).parameters
    known = {name: found for name, found in signature.items() if name != "self"}
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise InvalidInput(
                f"head {path} has no parameter {name}: {guess}it has {', '.join(known)}"
            )
    missing = [
        name
        for name, found in known.items()
        if found.default is inspect.Parameter.empty and name not in parameters
    ]
    if missing:
        raise InvalidInput(
            f"head {path} needs {', '.join(missing)}, which JSON cannot say",
            next_step="choose a class that can be made from numbers and names alone",
        )


def takes_seed(settings: SklearnSettings) -> bool:
    """Return whether fits with different seeds may differ.

    Raises
    ------
    InvalidInput
        This version of scikit-learn has no such class.
    """
    created = find_classifier(settings.estimator)
    if _draws_seed(created, settings.parameters):
        return True
    return _needs_calibration(created(**settings.parameters))


def _draws_seed(created: Any, parameters: Mapping[str, object]) -> bool:
    signature = inspect.signature(created.__init__).parameters
    return "random_state" in signature and parameters.get("random_state") is None


def _needs_calibration(model: Any) -> bool:
    return not hasattr(model, "predict_proba") and hasattr(model, "decision_function")


def _label(key: str) -> object:
    return int(key) if key.isdigit() else key


@functools.cache
def _classifiers() -> dict[str, Any]:
    """Return every classifier by the path that scikit-learn documents."""
    found = {}
    for name, created in all_estimators(type_filter="classifier"):
        public = []
        for part in created.__module__.split("."):
            if part.startswith("_"):
                break
            public.append(part)
        found[".".join([*public, name])] = created
    return found
