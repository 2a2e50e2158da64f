"""The heads of scikit-learn that have a name of their own; `logistic` and `sgd` stand apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

from featurestore.errors import IntegrityError, InvalidInput
from featurestore.training.calibrated import calibrated, fit_calibrated
from featurestore.training.contract import FitOptions
from featurestore.training.sklearn_model import (
    BLOCK_ROWS,
    FlatRows,
    SklearnHead,
    fit_estimator,
    random_state,
)
from featurestore.training.sklearn_settings import (
    GradientBoostingSettings,
    KnnSettings,
    LinearSvmSettings,
    NearestCentroidSettings,
    RandomForestSettings,
)
from featurestore.training.spread import mean_and_variance

Fit = tuple[Any, tuple[str, ...]]

_LEAF_IMAGES = 20  # scikit-learn's default


class LinearSvmHead(SklearnHead[LinearSvmSettings]):
    """`LinearSVC` within `CalibratedClassifierCV`, for the features as they are.

    The features are scaled while fitting, and centred unless most values are zero: zeros cost the
    solver nothing, and where they prevail the mean row is short. Measured on 2,000 x 8,192 VGG16
    features, 84 % zeros, six fits: 3 to 5 s as they are, 9 to 21 s centred, 10 to 12 s on the root
    of the Gram matrix, at the same accuracies. Far from zero, uncentred fits do not converge.

    The intercept is penalised, as liblinear does. Of two classes the probability decides, not the
    sign of the score. Balanced weights count in the calibration too, which would undo them.
    """

    def needed_bytes(self, rows: int, columns: int, *, n_classes: int) -> int:
        """32 a value: rows, the rows of a fold, and liblinear's pairs of index and value."""
        return rows * columns * 32

    def model_class(self) -> Any:
        """`CalibratedClassifierCV`."""
        return CalibratedClassifierCV

    def fit_model(self, rows: FlatRows, *, options: FitOptions) -> Fit:
        """Fit on features of total variance 1, and give the coefficients that belong to X."""
        settings, X, y = self.settings, rows.X, rows.image_labels
        blocks = (X[start : start + BLOCK_ROWS] for start in range(0, len(X), BLOCK_ROWS))
        mean, variance = mean_and_variance(blocks, head=settings.head)
        scale = np.sqrt(variance)
        offset = mean if np.count_nonzero(X) > X.size / 2 else np.zeros_like(mean)
        X -= offset
        X /= scale
        svm = LinearSVC(
            C=settings.c,
            dual=True,
            max_iter=settings.max_iter,
            random_state=random_state(options.seed),
        )
        model, few = calibrated(svm, y, head=settings.head, folds=settings.folds, seed=options.seed)
        weights = compute_sample_weight("balanced", y) if settings.class_weight != "none" else None
        notes = fit_calibrated(settings.head, model, rows, of_images=weights)
        (fitted,) = model.calibrated_classifiers_
        inner = fitted.estimator
        inner.coef_ = inner.coef_ / scale
        inner.intercept_ = inner.intercept_ - inner.coef_ @ offset
        for unscaled in (model.estimator, inner):
            unscaled.set_params(C=settings.c / variance)
        return model, few + notes

    def check_loaded(self, model: Any, path: Path) -> None:
        """Refuse another estimator within."""
        check_calibrated(model, LinearSVC, path)


class KnnHead(SklearnHead[KnnSettings]):
    """`KNeighborsClassifier`, brute force, in float64.

    Float64, since in float32 the rounding of near ties depends on the rows beside a row.
    """

    def needed_bytes(self, rows: int, columns: int, *, n_classes: int) -> int:
        """16 a value, rows and their copy scaled to unit length, and a block's distances."""
        return rows * columns * 16 + 2 * 8 * BLOCK_ROWS * rows

    def model_class(self) -> Any:
        """`KNeighborsClassifier`."""
        return KNeighborsClassifier

    def fit_model(self, rows: FlatRows, *, options: FitOptions) -> Fit:
        """Keep the rows; of fewer rows than neighbours, all vote.

        With views as many rows vote as that number of images has.
        """
        settings = self.settings
        neighbors = min(settings.neighbors, rows.images)
        model = KNeighborsClassifier(
            neighbors * rows.versions,
            weights=settings.weights,
            metric=settings.metric,
            algorithm="brute",
        )
        notes = fit_estimator(settings.head, model, rows.X, rows.y)
        counts = np.bincount(rows.image_labels)
        if neighbors < settings.neighbors:
            notes += (
                f"head {settings.head}: {neighbors} neighbours instead of {settings.neighbors}: "
                f"there are {rows.images} training rows",
            )
        elif counts.min() < settings.neighbors:
            notes += (
                f"head {settings.head}: class number {counts.argmin()} has {counts.min()} training "
                f"rows, fewer than the {settings.neighbors} neighbours that vote",
            )
        return model, notes


class RandomForestHead(SklearnHead[RandomForestSettings]):
    """`RandomForestClassifier`, fitted on all cores.

    It predicts on one: threads add up trees in the order in which they end, and the last bits of
    a probability would change from call to call.
    """

    dtype = np.float32

    def needed_bytes(self, rows: int, columns: int, *, n_classes: int) -> int:
        """4 a value, and at most 2 nodes a row and tree of 64 bytes and 8 a class."""
        return rows * columns * 4 + self.settings.trees * rows * 2 * (64 + 8 * n_classes)

    def model_class(self) -> Any:
        """`RandomForestClassifier`."""
        return RandomForestClassifier

    def fit_model(self, rows: FlatRows, *, options: FitOptions) -> Fit:
        """Grow the trees; each has its own generator, so their order does not matter.

        With views each tree draws as many rows as there are, so that nearly every image is among
        them. As many as there are images lost more: measured on 240 photographs with 6 views, two
        seeds, test accuracy 0.942 and 0.932, without views 0.938.
        """
        settings = self.settings
        model = RandomForestClassifier(
            settings.trees,
            max_depth=settings.max_depth,
            class_weight=weight_option(settings.class_weight),
            n_jobs=-1,
            random_state=random_state(options.seed),
        )
        notes = fit_estimator(settings.head, model, rows.X, rows.y)
        model.set_params(n_jobs=None)
        return model, notes


class GradientBoostingHead(SklearnHead[GradientBoostingSettings]):
    """`HistGradientBoostingClassifier`, every tree of it kept."""

    def needed_bytes(self, rows: int, columns: int, *, n_classes: int) -> int:
        """10 a value, and for each leaf a histogram of every column, 24 bytes a bin."""
        settings = self.settings
        return rows * columns * 10 + columns * (settings.max_bins + 1) * settings.max_leaves * 24

    def model_class(self) -> Any:
        """`HistGradientBoostingClassifier`."""
        return HistGradientBoostingClassifier

    def fit_model(self, rows: FlatRows, *, options: FitOptions) -> Fit:
        """Boost for every tree of the settings. A leaf has 20 images or more, counted in rows."""
        settings = self.settings
        model = HistGradientBoostingClassifier(
            max_iter=settings.trees,
            learning_rate=settings.learning_rate,
            max_leaf_nodes=settings.max_leaves,
            max_depth=settings.max_depth,
            max_bins=settings.max_bins,
            max_features=settings.max_features,
            min_samples_leaf=_LEAF_IMAGES * rows.versions,
            class_weight=weight_option(settings.class_weight),
            categorical_features=None,
            early_stopping=False,
            random_state=random_state(options.seed),
        )
        notes = fit_estimator(settings.head, model, rows.X, rows.y, sample_weight=rows.weights())
        return model, notes


class NearestCentroidHead(SklearnHead[NearestCentroidSettings]):
    """`NearestCentroid`; its probabilities are those of Gaussians with one diagonal covariance."""

    _EXPECTED: ClassVar[str] = "zero standard deviation"  # columns that a ReLU never lets through

    def needed_bytes(self, rows: int, columns: int, *, n_classes: int) -> int:
        """32 a value: rows, their distances from the centroids, and squares of those."""
        return (rows + n_classes) * columns * 32

    def model_class(self) -> Any:
        """`NearestCentroid`."""
        return NearestCentroid

    def fit_model(self, rows: FlatRows, *, options: FitOptions) -> Fit:
        """Average the rows of each class."""
        if rows.images <= options.n_classes:
            raise InvalidInput(
                f"head {self.settings.head}: expected more training rows than classes, found "
                f"{rows.images} rows of {options.n_classes} classes",
                next_step="add images, or use --head knn",
            )
        model = NearestCentroid()
        notes = fit_estimator(self.settings.head, model, rows.X, rows.y)
        return model, tuple(note for note in notes if self._EXPECTED not in note)


def weight_option(class_weight: str) -> str | None:
    """Return the setting as scikit-learn's `class_weight`."""
    return None if class_weight == "none" else class_weight


def check_calibrated(model: Any, estimator: type, path: Path) -> None:
    """Refuse a `CalibratedClassifierCV` of any but one fitted estimator of this class.

    Raises
    ------
    IntegrityError
        It holds others.
    """
    found = [type(part.estimator) for part in model.calibrated_classifiers_]
    if found != [estimator]:
        raise IntegrityError(
            f"{path}: expected one calibrated {estimator.__name__} model, "
            f"found {', '.join(kind.__name__ for kind in found)}",
            next_step="train the head again",
        )
