"""What decides a fine-tuning: what is asked for, and what its head must know to be built again.

Both load no library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from featurestore.backbones.table import get_spec
from featurestore.errors import InvalidInput
from featurestore.recipe import Pooling, Precision
from featurestore.training.settings import CLASS_WEIGHTS, OPTIMIZERS, is_positive, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuneRequest:
    """How layers of a backbone are trained on, from the head of a run.

    Parameters
    ----------
    unfreeze
        Layers to train: names, starts of names up to an underscore (``block5``), or patterns
        (``block7*``).
    epochs
        The reference trains 100.
    learning_rate
        1e-5 and RMSprop are the reference's: weights that have learned are to move little.
    patience, class_weight
        As `DenseSettings` has them.
    statistics
        Let batch normalisations that are unfrozen take the mean and variance of each batch while
        training, and move their averages; the backbone's own dropout is then active too. False:
        they keep those of the pretrained weights, and learn their scale and offset alone. A batch
        of 20 is a poor estimate, and moved statistics undo what the frozen part was trained with.
    features
        Fingerprint of a feature set that is trained on if it is one of the last frozen layer; it
        is how one of several with views is chosen. None: the newest that will do.
    every_view
        Train on all stored views of the set that is found, instead of `TrainOptions.views`.
    tell
        Told in words, before the training, from what it trains and how to make it faster.
    """

    unfreeze: tuple[str, ...]
    epochs: int = 30
    batch_size: int = 20
    optimizer: str = "rmsprop"
    learning_rate: float = 1e-5
    patience: int | None = None
    class_weight: str = "none"
    statistics: bool = False
    features: str | None = None
    every_view: bool = False
    tell: Callable[[str], None] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuneSettings:
    """The tail of a backbone with a dense head on it: everything but weights and the head's scale.

    Parameters
    ----------
    backbone, size, layer, pooling, precision
        As the recipe of the starting run has them: the tail ends at `layer` and is pooled so.
    cut
        Where the tail begins; its input are features of this layer.
    unfreeze, statistics, epochs, batch_size, optimizer, learning_rate, patience, class_weight
        As `FineTuneRequest`.
    units, dropout, scaled
        Of the dense head that it started from.
    """

    head: ClassVar[str] = "fine-tuned"
    uses_seed: ClassVar[bool] = True

    backbone: str
    size: tuple[int, int]
    layer: str
    pooling: Pooling
    precision: Precision
    cut: str
    unfreeze: tuple[str, ...]
    statistics: bool
    units: int
    dropout: float
    scaled: bool
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    patience: int | None
    class_weight: str

    def __post_init__(self) -> None:
        # JSON knows no tuples.
        object.__setattr__(self, "size", _checked(self, "size", int))
        object.__setattr__(self, "unfreeze", _checked(self, "unfreeze", str))
        get_spec(self.backbone)
        require(self, "size", "two numbers of at least 1", _is_size(self.size))
        require(self, "unfreeze", "at least one name", len(self.unfreeze) > 0)
        for field in ("layer", "cut"):
            require(self, field, "a layer's name", isinstance(getattr(self, field), str))
        for field in ("statistics", "scaled"):
            require(self, field, "true or false", isinstance(getattr(self, field), bool))
        for field in ("units", "epochs", "batch_size"):
            require(self, field, "at least 1", getattr(self, field) >= 1)
        require(self, "dropout", "at least 0 and less than 1", 0 <= self.dropout < 1)
        require(self, "learning_rate", "above 0", is_positive(self.learning_rate))
        require(self, "patience", "at least 1", self.patience is None or self.patience >= 1)
        known = {
            "optimizer": OPTIMIZERS,
            "class_weight": CLASS_WEIGHTS,
            "pooling": ("none", "avg", "max"),
            "precision": ("float32", "bfloat16", "float16"),
        }
        for field, values in known.items():
            holds = getattr(self, field) in values
            require(self, field, f"one of {', '.join(values)}", holds)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""
        lists = {"size": list(self.size), "unfreeze": list(self.unfreeze)}
        return dataclasses.asdict(self) | lists


def _checked(settings: FineTuneSettings, field: str, kind: type) -> tuple[object, ...]:
    value = getattr(settings, field)
    if not isinstance(value, list | tuple) or not all(type(each) is kind for each in value):
        raise InvalidInput(
            f"head {settings.head}, {field}: expected a list of {kind.__name__}, found {value!r}"
        )
    return tuple(value)


def _is_size(size: tuple[int, ...]) -> bool:
    return len(size) == 2 and min(size) >= 1
