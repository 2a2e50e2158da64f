"""`.skops` files: one fitted scikit-learn classifier each, without pickle, read with suspicion.

skops makes objects of whatever types a file names, once the caller trusts the names. It trusts
scikit-learn's estimators by itself. The few other types that fitted classifiers hold are listed
here by name, each looked at. "Anything of NumPy or scikit-learn" would be too much: a file could
name functions, modules that act when they are imported, or ``numpy.lib._datasource.DataSource``,
which removes a directory of the file's choice when it is collected.

A trusted type may still hold hostile numbers. Where compiled code would follow them without
looking, `model_numbers` looks first. KDTree and BallTree are not listed: their indices cannot be
checked from outside.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import skops
import skops.io

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.training.contract import UNREADABLE
from featurestore.training.model_numbers import check_numbers

SUFFIX = ".skops"
_TRAIN_AGAIN = "train the head again"
_ALSO_TRUSTED = frozenset(
    {
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.model_selection._split.StratifiedKFold",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        # Older versions of skops do not trust these by themselves.
        "sklearn._loss.link.HalfLogitLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.ExponentialLoss",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
    }
)


def save_model(model: Any, path: Path) -> None:
    """Write one fitted estimator, deflated: features and trees shrink to a fraction.

    Raises
    ------
    InvalidInput
        The model holds types that `load_model` would not read again.
    """
    skops.io.dump(model, path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    unknown = set(skops.io.get_untrusted_types(file=path)) - _ALSO_TRUSTED
    if unknown:
        raise InvalidInput(
            f"{type(model).__name__}: its fitted model holds {', '.join(sorted(unknown))}, which a "
            "model file cannot safely bring back",
            next_step="choose other parameters (of neighbours: algorithm brute), or another head",
        )


def load_model(
    path: Path,
    *,
    estimator: type,
    n_features: int,
    n_classes: int,
    check: Callable[[Any], None] = lambda model: None,
) -> Any:
    """Return the fitted estimator of that very class, for rows and classes of these numbers.

    No code of the file runs, and no module is imported at its wish. What comes back has passed
    `check`, which raises an IntegrityError of its own, and has given probabilities for one row.

    Raises
    ------
    IntegrityError
        The file cannot be read, names types that are not trusted, or holds another estimator, one
        of another size, or numbers that do not fit together.
    """
    try:
        unknown = sorted(skops.io.get_untrusted_types(file=path))
        strange = [name for name in unknown if name not in _ALSO_TRUSTED]
        if strange:
            raise IntegrityError(
                f"{path} holds types that are not trusted: {', '.join(strange)}",
                next_step=_TRAIN_AGAIN,
            )
        model = skops.io.load(path, trusted=unknown)
    except UNREADABLE as error:
        raise IntegrityError(
            f"{path} is not a model that skops can read: {_first_line(error)}",
            next_step=_TRAIN_AGAIN,
        ) from error
    _check_kind(model, path, estimator=estimator, n_features=n_features, n_classes=n_classes)
    try:
        check_numbers(model)
        check(model)
        probabilities = model.predict_proba(np.zeros((1, n_features)))
        if probabilities.shape != (1, n_classes):
            raise ValueError(f"its probabilities are of shape {probabilities.shape}")
    except UNREADABLE as error:
        raise IntegrityError(
            f"{path}: the numbers of this {estimator.__name__} model do not fit together: "
            f"{_first_line(error)}",
            next_step=_TRAIN_AGAIN,
        ) from error
    return model


def library_versions() -> dict[str, str]:
    """Return the versions of scikit-learn and skops."""
    return {"scikit-learn": sklearn.__version__, "skops": skops.__version__}


def _check_kind(
    model: Any, path: Path, *, estimator: type, n_features: int, n_classes: int
) -> None:
    features = getattr(model, "n_features_in_", None)
    classes = getattr(model, "classes_", None)
    if (
        type(model) is estimator
        and features == n_features
        and isinstance(classes, np.ndarray)
        and np.array_equal(classes, np.arange(n_classes))
    ):
        return
    found = f"{len(classes)}" if isinstance(classes, np.ndarray) and classes.ndim else "no"
    raise IntegrityError(
        f"{path}: expected a fitted {estimator.__name__} model of {n_features} features and "
        f"{n_classes} classes, found {type(model).__name__} of {features} features and "
        f"{found} classes",
        next_step=_TRAIN_AGAIN,
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
