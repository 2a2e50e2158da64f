"""What decides each head: frozen dataclasses that load no library."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from featurestore.errors import InvalidInput
from featurestore.training.contract import HeadSettings

OPTIMIZERS = ("rmsprop", "adam", "adamw", "nadam", "sgd")
CLASS_WEIGHTS = ("none", "balanced")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseSettings:
    """Flatten, one hidden layer, one output layer, trained by gradient steps.

    The defaults are those of Chollet, *Deep Learning with Python* (2018), section 5.3, without
    its dropout.

    Parameters
    ----------
    units
        Width of the hidden layer.
    dropout
        Share of hidden units left out at random in each training step, in [0, 1).
    epochs
        Most passes over the training split.
    batch_size
        Rows of one step; the last step of a pool, of which an epoch has one unless the split is
        large, takes what is left.
    optimizer
        One of `OPTIMIZERS`, with Keras's defaults apart from the learning rate.
    learning_rate
        The optimizer's step size. 2e-5 is RMSprop's of the reference; plain SGD needs far larger.
    patience
        Stop early: once so many epochs in a row have not brought a lower validation loss. The head
        then has the weights of the epoch with the lowest. None: train for every epoch and keep the
        last weights.
    class_weight
        "balanced": a row of class k counts n / (K * n_k) times in the loss, for n rows of K classes
        and n_k of class k, so that every class counts as much. "none": every row counts once.
        Source: King and Zeng (2001), as scikit-learn's `compute_class_weight`.
    scaled
        Divide features by the root of their mean square over the training split, as a fixed first
        layer. False is the reference to the letter: its step size then means something else for
        every backbone and layer. Measured on the reference's photographs and weights, test
        accuracy: 0.963 scaled, 0.936 not (Keras's own `fit` on the same features: 0.937).
    """

    head: ClassVar[str] = "dense"
    uses_seed: ClassVar[bool] = True

    units: int = 256
    dropout: float = 0.0
    epochs: int = 30
    batch_size: int = 20
    optimizer: str = "rmsprop"
    learning_rate: float = 2e-5
    patience: int | None = None
    class_weight: str = "none"
    scaled: bool = True

    def __post_init__(self) -> None:
        for field in ("units", "epochs", "batch_size"):
            require(self, field, "at least 1", getattr(self, field) >= 1)
        require(self, "dropout", "at least 0 and less than 1", 0 <= self.dropout < 1)
        require(self, "learning_rate", "above 0", is_positive(self.learning_rate))
        require(self, "patience", "at least 1", self.patience is None or self.patience >= 1)
        for field, known in (("optimizer", OPTIMIZERS), ("class_weight", CLASS_WEIGHTS)):
            require(self, field, f"one of {', '.join(known)}", getattr(self, field) in known)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


def stops_early(settings: object) -> bool:
    """Whether a head with these settings chooses its epoch by the validation rows."""
    return getattr(settings, "patience", None) is not None  # of dense and fine-tuned heads


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
    tune
        Choose `c` instead among ten values by cross-validation on the training split.
    folds
        Parts of that cross-validation, drawn by the seed with every class in proportion.
    standardise
        Give every column a mean of zero and a variance of one over the training split first;
        constant columns stay. Measured on the reference's photographs, tuned, log loss on the test
        split: 0.092 standardised, 0.087 not.
    class_weight
        As `DenseSettings.class_weight`; while tuning too, by all training rows.
    max_iter
        Most steps of the solver. A fit that needs more is not converged, and says so.
    """

    head: ClassVar[str] = "logistic"

    c: float = 100.0
    tune: bool = False
    folds: int = 5
    standardise: bool = False
    class_weight: str = "none"
    max_iter: int = 5000

    def __post_init__(self) -> None:
        require(self, "c", "above 0", is_positive(self.c))
        require(self, "folds", "at least 2", self.folds >= 2)
        require(self, "max_iter", "at least 1", self.max_iter >= 1)
        for field in ("tune", "standardise"):
            require(self, field, "true or false", isinstance(getattr(self, field), bool))
        known = ", ".join(CLASS_WEIGHTS)
        require(self, "class_weight", f"one of {known}", self.class_weight in CLASS_WEIGHTS)

    @property
    def uses_seed(self) -> bool:
        """Whether fits with different seeds may differ: only through the folds."""
        return self.tune

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


def is_positive(value: float) -> bool:
    """Return whether the value is above 0 and finite."""
    return value > 0 and math.isfinite(value)


def require(settings: HeadSettings, field: str, expected: str, holds: bool) -> None:
    """Refuse settings of which a field is not what its class promises.

    Raises
    ------
    InvalidInput
        The condition does not hold.
    """
    if not holds:
        raise InvalidInput(
            f"head {settings.head}, {field}: expected {expected}, found {getattr(settings, field)}"
        )
