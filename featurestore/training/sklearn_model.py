"""What the heads with one scikit-learn estimator share: rows in, memory, probabilities, file."""

from __future__ import annotations

import abc
import dataclasses
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from featurestore.errors import InvalidInput
from featurestore.training.contract import FitOptions, HeadSettings, NotConverged, Rows, check_rows
from featurestore.training.skops_models import SUFFIX, library_versions, load_model, save_model
from featurestore.training.views import ViewRows

# At a time: 512 rows of 8,192 columns are 32 MB in float64.
BLOCK_ROWS = 512
# What scikit-learn raises for parameters and rows that it cannot take. Not all of it is on purpose:
# lists that are empty, or names where objects belong, reach its code unchecked.
_REFUSALS = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    TypeError,
    ValueError,
)
Settings = TypeVar("Settings", bound=HeadSettings)


@dataclasses.dataclass(frozen=True, eq=False)
class FlatRows:
    """Training rows as scikit-learn takes them: the images, then each of their views.

    Parameters
    ----------
    X
        (versions * images, D): version v of image i is row ``v * images + i``; version 0 is the
        image itself.
    y
        (versions * images,) labels.
    versions
        1 where there are no views.
    """

    X: np.ndarray
    y: np.ndarray
    versions: int = 1

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.X) // self.versions

    @property
    def image_labels(self) -> np.ndarray:
        """(images,) labels."""
        return self.y[: self.images]

    def of_images(self, values: np.ndarray) -> np.ndarray:
        """Return for every row what (images,) says of its image."""
        return np.tile(values, self.versions) if self.versions > 1 else values

    def weights(self, of_images: np.ndarray | None = None) -> np.ndarray | None:
        """Return what each row counts, so that an image counts (images,) however many rows it has.

        None of the images is 1 of each; None of the rows, that all count 1.
        """
        if of_images is None:
            return None if self.versions == 1 else np.full(len(self.X), 1 / self.versions)
        return self.of_images(of_images) / self.versions


class EstimatorHead(abc.ABC, Generic[Settings]):
    """The part of a head that does not depend on its fit: one estimator, kept as `model_`."""

    suffix: ClassVar[str] = SUFFIX
    dtype: ClassVar[type[np.floating[Any]]] = np.float64

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abc.abstractmethod
    def model_class(self) -> Any:
        """Return the class of `model_`."""

    def _adopt(
        self,
        model: Any,
        feature_shape: tuple[int, ...],
        *,
        history: Mapping[str, list[float]] = MappingProxyType({}),
        notes: tuple[str, ...] = (),
    ) -> None:
        self.model_ = model
        self.feature_shape_ = feature_shape
        self.n_classes_ = len(model.classes_)
        self.history_ = dict(history)
        self.chosen_: dict[str, object] = {}
        self.notes_ = notes

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return (N, n_classes) float32, computed block by block."""
        if not hasattr(self, "model_"):
            raise InvalidInput(
                f"head {self.settings.head} is not fitted", next_step="call fit or load first"
            )
        return predict_blocks(self.model_, X, self.feature_shape_, self.dtype)

    def save(self, path: Path) -> None:
        """Write a `.skops` file with `model_`."""
        save_model(self.model_, path)

    def load(self, path: Path, *, feature_shape: tuple[int, ...], n_classes: int) -> Self:
        """Read what `save` wrote, running no code from it.

        Raises
        ------
        IntegrityError
            As `load_model`.
        """
        model = load_model(
            path,
            estimator=self.model_class(),
            n_features=math.prod(feature_shape),
            n_classes=n_classes,
            check=lambda found: self.check_loaded(found, path),
        )
        self._adopt(model, feature_shape)
        return self

    def check_loaded(self, model: Any, path: Path) -> None:
        """Refuse, with an IntegrityError, a model of the right class that `fit` does not make."""

    def versions(self) -> dict[str, str]:
        """Return the versions of scikit-learn and skops."""
        return library_versions()


class SklearnHead(EstimatorHead[Settings]):
    """A head whose estimator is fitted at once, on all rows flattened.

    `validation` is not used: these heads have no epochs, and nothing to choose by it.
    """

    @abc.abstractmethod
    def needed_bytes(self, rows: int, columns: int, *, n_classes: int) -> int:
        """Return an upper bound of what a fit holds at once, rows included."""

    @abc.abstractmethod
    def fit_model(self, rows: FlatRows, *, options: FitOptions) -> tuple[Any, tuple[str, ...]]:
        """Return an estimator fitted to the rows, and what a reader must be told.

        An image counts as much with views as without, and the settings mean the same. The rows are
        the fit's own, to scale in place.
        """

    def fit(self, train: Rows, validation: Rows | None, *, options: FitOptions) -> Self:
        """Fit to all of `train`, of `ViewRows` to the images and to every view of them.

        Warns `NotConverged`, and notes it, where that was so.

        Raises
        ------
        InvalidInput
            The rows need more memory than allowed, or scikit-learn refuses them or the settings.
        """
        columns = math.prod(train.feature_shape)
        check_memory(
            self.settings.head,
            train,
            needed=self.needed_bytes(
                len(train) * _versions(train), columns, n_classes=options.n_classes
            ),
            allowed=options.memory_bytes,
        )
        model, notes = self.fit_model(load_flat(train, self.dtype), options=options)
        self._adopt(model, train.feature_shape, notes=notes)
        for note in notes:
            if "did not converge" in note:
                warnings.warn(note, NotConverged, stacklevel=2)
        return self


def check_memory(head: str, train: Rows, *, needed: int, allowed: int) -> None:
    """Refuse a fit that needs more memory than it is allowed.

    Raises
    ------
    InvalidInput
        `needed` is above `allowed`.
    """
    if needed > allowed:
        views = _versions(train) - 1
        raise InvalidInput(
            f"head {head}: {len(train)} training rows "
            f"{f'with {views} views each, ' if views else ''}"
            f"of {math.prod(train.feature_shape)} values "
            f"need {needed / 2**30:.2f} GiB of memory, {allowed / 2**30:.2f} GiB allowed",
            next_step=f"--memory {math.ceil(needed / 2**20)}MiB, "
            f"{'fewer --views, ' if views else ''}or a head that streams: "
            "--head sgd or --head dense",
        )


def load_flat(rows: Rows, dtype: type[np.floating[Any]]) -> FlatRows:
    """Return every row, never holding the stored features whole beside them."""
    count, versions = len(rows), _versions(rows)
    X = np.empty((count * versions, math.prod(rows.feature_shape)), dtype)
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        X[start:stop] = rows.read(start, stop).reshape(stop - start, -1)
        if isinstance(rows, ViewRows):
            for view in range(rows.views):
                at = (view + 1) * count
                read = rows.read_view(view, start, stop)
                X[at + start : at + stop] = read.reshape(stop - start, -1)
    return FlatRows(X, np.tile(rows.labels, versions) if versions > 1 else rows.labels, versions)


def _versions(rows: Rows) -> int:
    return 1 + rows.views if isinstance(rows, ViewRows) else 1


def predict_blocks(
    model: Any, X: np.ndarray, feature_shape: tuple[int, ...], dtype: type[np.floating[Any]]
) -> np.ndarray:
    """Return the probabilities of (N, *feature_shape) rows as (N, n_classes) float32.

    Raises
    ------
    InvalidInput
        The rows have another shape, scikit-learn cannot answer, or its answer for one is not a
        number.
    """
    check_rows(X, feature_shape)
    probabilities = np.empty((len(X), len(model.classes_)), np.float32)
    for start in range(0, len(X), BLOCK_ROWS):
        block = X[start : start + BLOCK_ROWS]
        flat = block.reshape(len(block), -1).astype(dtype)
        try:
            probabilities[start : start + BLOCK_ROWS] = model.predict_proba(flat)
        except _REFUSALS as error:
            raise InvalidInput(
                f"{type(model).__name__}: scikit-learn cannot give probabilities for rows "
                f"{start} to {start + len(block) - 1}: {str(error).strip()}",
                next_step="use other parameters, or another head",
            ) from error
    wrong = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(wrong):
        raise InvalidInput(
            f"{type(model).__name__}: the probabilities of {len(wrong)} of {len(X)} rows are not "
            f"numbers; the first is row {wrong[0]}",
            next_step="use other parameters, or another head",
        )
    return probabilities


def fit_estimator(
    head: str, model: Any, X: np.ndarray, y: np.ndarray, *, sample_weight: np.ndarray | None = None
) -> tuple[str, ...]:
    """Fit an estimator in place, and return what it warned of, each once.

    Warnings of what a later scikit-learn will do are passed on: they are no property of the fit.

    Raises
    ------
    InvalidInput
        scikit-learn refuses the parameters or the rows.
    """
    weights = {} if sample_weight is None else {"sample_weight": sample_weight}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(X, y, **weights)
        except _REFUSALS as error:
            raise InvalidInput(
                f"head {head}: scikit-learn refuses the fit: {str(error).strip()}",
                next_step="use other parameters, or another head",
            ) from error
    notes: dict[str, None] = {}
    for warning in caught:
        text = str(warning.message).strip().partition("\n")[0]
        if issubclass(warning.category, ConvergenceWarning):
            notes[f"head {head} did not converge: {text}"] = None
        elif issubclass(warning.category, UserWarning | RuntimeWarning):
            notes[f"head {head}: {text}"] = None
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return tuple(notes)


def random_state(seed: int) -> int:
    """Return the seed as scikit-learn takes it, in [0, 2^32)."""
    return seed % 2**32
