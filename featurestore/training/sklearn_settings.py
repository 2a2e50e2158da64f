"""What decides each head of scikit-learn: frozen dataclasses that load no library."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import ClassVar

from featurestore.errors import InvalidInput
from featurestore.training.contract import HeadSettings
from featurestore.training.settings import CLASS_WEIGHTS, is_positive, require

NEIGHBOR_WEIGHTS = ("uniform", "distance")
NEIGHBOR_METRICS = ("euclidean", "cosine")
ANY_CLASSIFIER = "sklearn."
_PUBLIC_CLASS = re.compile(r"sklearn(\.[a-z][a-z0-9_]*)+\.[A-Z][A-Za-z0-9]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearSvmSettings:
    """Linear support vector machine, squared hinge loss, L2, with Platt's probabilities.

    Parameters
    ----------
    c
        Weight of the data against the penalty, for features divided by the root of their total
        variance, as `LogisticSettings.c`. 3 has the best validation accuracy of 1, 3 and 10 on the
        reference's photographs; the three differ by 0.002.
    folds
        Parts of the cross-validation on the training split that the probabilities are fitted to.
    class_weight
        As `DenseSettings.class_weight`, in the fit and in its calibration.
    max_iter
        Most passes of the solver. A fit that needs more is not converged, and says so.
    """

    head: ClassVar[str] = "linear-svm"
    uses_seed: ClassVar[bool] = True  # it draws the folds

    c: float = 3.0
    folds: int = 5
    class_weight: str = "none"
    max_iter: int = 5000

    def __post_init__(self) -> None:
        require(self, "c", "above 0", is_positive(self.c))
        require(self, "folds", "at least 2", self.folds >= 2)
        require(self, "max_iter", "at least 1", self.max_iter >= 1)
        _require_one_of(self, "class_weight", CLASS_WEIGHTS)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnnSettings:
    """The share of each class among the nearest training rows.

    Parameters
    ----------
    neighbors
        How many rows vote.
    weights
        "uniform": each vote counts once; "distance": by one over its distance.
    metric
        "cosine" or "euclidean". Measured on the reference's photographs with 5 neighbours, test
        accuracy: 0.952 by cosine, 0.849 by Euclidean distance.
    """

    head: ClassVar[str] = "knn"
    uses_seed: ClassVar[bool] = False

    neighbors: int = 5
    weights: str = "uniform"
    metric: str = "cosine"

    def __post_init__(self) -> None:
        require(self, "neighbors", "at least 1", self.neighbors >= 1)
        _require_one_of(self, "weights", NEIGHBOR_WEIGHTS)
        _require_one_of(self, "metric", NEIGHBOR_METRICS)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomForestSettings:
    """Trees on bootstrap samples of the rows, each split among a random root of the columns.

    Parameters
    ----------
    trees
        More cost time and never accuracy; from 100 to 500 it moved by less than 0.005.
    max_depth
        Most splits from root to leaf; None: until leaves are of one class.
    class_weight
        As `DenseSettings.class_weight`.
    """

    head: ClassVar[str] = "random-forest"
    uses_seed: ClassVar[bool] = True

    trees: int = 300
    max_depth: int | None = None
    class_weight: str = "none"

    def __post_init__(self) -> None:
        require(self, "trees", "at least 1", self.trees >= 1)
        require(self, "max_depth", "at least 1", self.max_depth is None or self.max_depth >= 1)
        _require_one_of(self, "class_weight", CLASS_WEIGHTS)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientBoostingSettings:
    """Histogram gradient boosting, without early stopping.

    The defaults are for thousands of columns. On 2,000 x 8,192 VGG16 features they take 14 s of one
    core and reach 0.957 of the test split; 31 leaves, scikit-learn's default, take 20 s and 63 bins
    23 s, for 0.950 and 0.954. On a busy machine OpenMP's threads wait for each other by spinning:
    46 s on two shared cores, 16 s with ``OMP_WAIT_POLICY=passive``.

    Parameters
    ----------
    trees
        Steps of boosting; with more than two classes each has a tree a class.
    learning_rate
        What each tree counts.
    max_leaves
        Most leaves of one tree.
    max_depth
        Most splits from root to leaf; None: any.
    max_bins
        Values that a column is rounded to, 2 to 255. Time and memory grow with it.
    max_features
        Share of the columns that each split chooses from, in (0, 1].
    class_weight
        As `DenseSettings.class_weight`.
    """

    head: ClassVar[str] = "gradient-boosting"
    uses_seed: ClassVar[bool] = True

    trees: int = 100
    learning_rate: float = 0.1
    max_leaves: int = 8
    max_depth: int | None = None
    max_bins: int = 31
    max_features: float = 0.1
    class_weight: str = "none"

    def __post_init__(self) -> None:
        require(self, "trees", "at least 1", self.trees >= 1)
        require(self, "learning_rate", "above 0", is_positive(self.learning_rate))
        require(self, "max_leaves", "at least 2", self.max_leaves >= 2)
        require(self, "max_depth", "at least 1", self.max_depth is None or self.max_depth >= 1)
        require(self, "max_bins", "2 to 255", 2 <= self.max_bins <= 255)
        require(self, "max_features", "above 0 and at most 1", 0 < self.max_features <= 1)
        _require_one_of(self, "class_weight", CLASS_WEIGHTS)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestCentroidSettings:
    """The class whose mean row is nearest, columns divided by their deviation within classes.

    Its probabilities take columns for independent, so with thousands of them nearly all are 0 or 1.
    """

    head: ClassVar[str] = "nearest-centroid"
    uses_seed: ClassVar[bool] = False

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SgdSettings:
    """Logistic regression by stochastic gradient descent, each class against the rest.

    Parameters
    ----------
    c
        As `LogisticSettings.c`: scikit-learn's `alpha` is ``1 / (c * rows)``.
    epochs
        Passes over the training split.
    learning_rate
        First step size, for centred features divided by the root of their total variance; it falls
        linearly to zero. The loss of a row at the mean distance bears constant steps below 8.
    class_weight
        As `DenseSettings.class_weight`. The step is then divided by the largest weight.
    """

    head: ClassVar[str] = "sgd"
    uses_seed: ClassVar[bool] = True

    c: float = 100.0
    epochs: int = 20
    learning_rate: float = 4.0
    class_weight: str = "none"

    def __post_init__(self) -> None:
        require(self, "c", "above 0", is_positive(self.c))
        require(self, "epochs", "at least 1", self.epochs >= 1)
        require(self, "learning_rate", "above 0", is_positive(self.learning_rate))
        _require_one_of(self, "class_weight", CLASS_WEIGHTS)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SklearnSettings:
    """Any classifier of scikit-learn, on the features as they are, in float64.

    Whether the class exists and has these parameters is asked of scikit-learn, not here.

    Parameters
    ----------
    estimator
        Public dotted path, such as ``sklearn.tree.DecisionTreeClassifier``.
    parameters
        Of its constructor, JSON values. `random_state` is set from the seed where the class has it
        and it is not named here, or is null.
    """

    estimator: str
    parameters: Mapping[str, object] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.estimator, str) or not _PUBLIC_CLASS.fullmatch(self.estimator):
            raise InvalidInput(
                f"head {self.estimator!r}: expected a public class of scikit-learn, such as "
                "sklearn.tree.DecisionTreeClassifier"
            )
        try:
            parameters = json.loads(json.dumps(self.parameters, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"head {self.estimator}, parameters: expected JSON values, found {error}"
            ) from error
        if not isinstance(parameters, dict):
            raise InvalidInput(
                f"head {self.estimator}, parameters: expected a JSON object such as "
                f'{{"max_depth": 3}}, found {json.dumps(parameters)}'
            )
        object.__setattr__(self, "parameters", parameters)  # a copy that nobody else holds

    @property
    def head(self) -> str:
        """The class's path."""
        return self.estimator

    @property
    def uses_seed(self) -> bool:
        """Whether fits with different seeds may differ.

        Raises
        ------
        InvalidInput
            This version of scikit-learn has no such class.
        """
        from featurestore.training.sklearn_any import takes_seed

        return takes_seed(self)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return {"estimator": self.estimator, "parameters": copy.deepcopy(dict(self.parameters))}


def _require_one_of(settings: HeadSettings, field: str, known: tuple[str, ...]) -> None:
    require(settings, field, f"one of {', '.join(known)}", getattr(settings, field) in known)
