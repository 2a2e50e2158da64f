"""What every head promises, and what it may ask of the rows it is given."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from featurestore.errors import InvalidInput
from featurestore.recipe import Recipe

if TYPE_CHECKING:
    from featurestore.training.pools import Pool

# (epochs done, epochs in all, that epoch's numbers under the names of `Head.history_`)
Progress = Callable[[int, int, Mapping[str, float]], None]

DEFAULT_MEMORY_BYTES = 4 * 2**30

UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What a file that is no model makes zipfile, JSON, h5py, skops, scikit-learn and Keras raise."""


class NotConverged(UserWarning):
    """A head stopped before its optimum; its numbers are of the point where it stopped."""


class Rows(Protocol):
    """One split as a head sees it: `featurestore.features.Split`, or arrays in a test."""

    def __len__(self) -> int: ...

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row: (H, W, C) or (D,)."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, each in [0, n_classes)."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, *feature_shape), float16 or float32 as stored."""

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Every row: features as `read` gives them, and the labels."""


class SampleRows(Rows, Protocol):
    """Rows that say which samples they are."""

    @property
    def sample_ids(self) -> np.ndarray:
        """(N,) strings."""


@runtime_checkable
class EpochRows(Protocol):
    """Training rows of which every epoch sees another version: `SampleRows` with `pieces`.

    `read` and `load` give the rows as they are, without augmentation.
    """

    def pieces(
        self, pools: Iterator[Pool], *, epoch: int, piece_rows: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield this epoch's version of every row of the pools, in the order of `Pool.rows`.

        Features come as `read` gives them, with labels (N,). No piece has rows of two pools; of a
        pool every piece but the last has `piece_rows` rows. What a row shows in an epoch depends on
        its image, the ranges, their seed and `epoch` alone.

        Parameters
        ----------
        epoch
            From 1.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything that a fit in epochs needs to go on after `epoch` of them.

    Parameters
    ----------
    arrays
        Weights, the optimizer's state, and the like.
    state
        JSON values: history, generators.
    """

    epoch: int
    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, object]


class Checkpoints(Protocol):
    """Where one fit keeps its last checkpoint."""

    def latest(self) -> Checkpoint | None:
        """Return the last one that is whole; None where there is none."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the last one; it is durable when this returns."""


class Features(Protocol):
    """What training needs of a feature set: `featurestore.features.FeatureSet` has it."""

    @property
    def name(self) -> str:
        """``dataset/recipe-name``."""

    @property
    def fingerprint(self) -> str:
        """Identity of the manifest under the recipe."""

    @property
    def manifest_fingerprint(self) -> str:
        """Identity of the ordered rows."""

    @property
    def recipe(self) -> Recipe:
        """Everything that decided the features' values."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; one may have no rows."""

    def __getitem__(self, split: str, /) -> SampleRows: ...


class HeadSettings(Protocol):
    """What decides a head, apart from its seed: a frozen dataclass of JSON values."""

    @property
    def head(self) -> str:
        """Name of the head, as `--head` takes it."""

    @property
    def uses_seed(self) -> bool:
        """Whether fits with different seeds may differ."""

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON-ready values."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What a fit is told beside its rows and its settings.

    Parameters
    ----------
    n_classes
        Labels lie in [0, n_classes).
    memory_bytes
        Most bytes that rows and what is made of them may take while fitting. A head that can stream
        reads what does not fit block by block, with the same result; another refuses. Of a
        ``sklearn.module.Class`` only rows and their copies are counted: what it makes of them is
        not known.
    progress
        Told after each epoch, by heads that have epochs.
    checkpoints
        A head with epochs goes on from the latest and saves one after each epoch; it ends as an
        undisturbed fit does. None: neither.
    """

    n_classes: int
    seed: int = 0
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    progress: Progress | None = None
    checkpoints: Checkpoints | None = None


class Head(Protocol):
    """A classifier on features.

    The constructor only stores its settings. What is learned ends in ``_``, and is there after
    `fit` or `load`. One object belongs to one thread.

    Attributes
    ----------
    suffix
        Ending of the model file, with its dot.
    n_classes_
        Number of columns of `predict_proba`.
    feature_shape_
        Shape of one row as the head was fitted to it.
    history_
        One number per epoch under each of ``train_loss``, ``train_accuracy``, ``validation_loss``
        and ``validation_accuracy``; empty for a head without epochs, and after `load`.
    chosen_
        What the fit chose by itself, as JSON-ready values: a tuned ``c``, the epoch that early
        stopping kept. Empty where nothing was left to it, and after `load`.
    notes_
        What a reader of the results must be told, such as that the fit did not converge.
    """

    suffix: ClassVar[str]
    n_classes_: int
    feature_shape_: tuple[int, ...]
    history_: Mapping[str, list[float]]
    chosen_: Mapping[str, object]
    notes_: tuple[str, ...]

    @property
    def settings(self) -> HeadSettings:
        """What the constructor was given."""

    def fit(self, train: Rows, validation: Rows | None, *, options: FitOptions) -> Self:
        """Fit to `train`, starting afresh: the same seed gives the same head on the same machine.

        Every class has at least one row in `train`. `validation` is for the history, and for
        choices that the settings ask for. No global random state is read or changed.

        Raises
        ------
        InvalidInput
            The fit cannot be done on these features with these settings in this memory.
        """

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return (N, n_classes) float32 in [0, 1]: columns in class order, rows sum to one.

        A head with a single sigmoid output gives both columns. A row's values do not depend on the
        rows beside it beyond rounding.

        Raises
        ------
        InvalidInput
            The head is not fitted, or a row's shape is not `feature_shape_`.
        """

    def save(self, path: Path) -> None:
        """Write the model to a file that does not exist yet. It is not synced."""

    def load(self, path: Path, *, feature_shape: tuple[int, ...], n_classes: int) -> Self:
        """Read what `save` wrote for rows and classes of these numbers, running no code from it.

        Raises
        ------
        IntegrityError
            The file is damaged, or holds anything but this head's kind of model of that size.
        """

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that decide this head's numbers."""


def check_rows(X: np.ndarray, feature_shape: tuple[int, ...]) -> None:
    """Refuse features that a head was not fitted to.

    Raises
    ------
    InvalidInput
        The shape of one row differs.
    """
    if X.shape[1:] != feature_shape:
        raise InvalidInput(
            f"features: expected rows of {feature_shape}, found {X.shape[1:]}",
            next_step="use features of the recipe that the head was trained on",
        )
