"""Epochs of a fit by gradient steps: history, early stopping, checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from featurestore.errors import Conflict, InvalidInput
from featurestore.training.contract import Checkpoint, FitOptions, Rows
from featurestore.training.dense_steps import Scoring, Training


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """How long a fit goes on.

    Parameters
    ----------
    head
        Name for messages.
    patience
        As `DenseSettings.patience`.
    """

    head: str
    epochs: int
    learning_rate: float
    patience: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came of the epochs, as `Head` has it; the model holds the weights that are kept."""

    history: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)
    chosen: Mapping[str, object] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def run_epochs(
    training: Training,
    scoring: Scoring | None,
    *,
    plan: EpochPlan,
    shuffles: np.random.Generator,
    options: FitOptions,
) -> Fitted:
    """Train for the epochs of the plan, or until early stopping ends it.

    Parameters
    ----------
    scoring
        Of the validation rows; needed where the plan has patience.

    Raises
    ------
    InvalidInput
        A loss became infinite or not a number.
    """
    fit = _Fit(training, shuffles, plan)
    resumed = fit.restore(options)
    for epoch in range(fit.epoch + 1, plan.epochs + 1):
        if fit.ended:
            break
        results = {"train": training.epoch(shuffles, epoch=epoch)}
        if scoring is not None:
            results["validation"] = scoring()
        fit.record(results, options)
        if options.checkpoints is not None:
            options.checkpoints.save(fit.checkpoint())
    return fit.fitted(resumed)


def check_stopping(head: str, patience: int | None, validation: Rows | None) -> None:
    """Refuse early stopping without validation rows.

    Raises
    ------
    InvalidInput
        There is patience and there are no rows to judge by.
    """
    if patience is not None and validation is None:
        raise InvalidInput(
            f"head {head}: early stopping needs validation rows, found none",
            next_step="leave out --early-stopping, or embed a dataset with a validation split",
        )


class _Fit:
    """What a fit has come to after some epochs: all that a checkpoint holds.

    `epoch` is how many there were; `ended` says whether early stopping allows no more.
    """

    def __init__(self, training: Training, shuffles: np.random.Generator, plan: EpochPlan) -> None:
        self._training = training
        self._shuffles = shuffles
        self._plan = plan
        self._stopping = None if plan.patience is None else _Stopping(plan.patience)
        self._history: dict[str, list[float]] = {}
        self.epoch = 0

    @property
    def ended(self) -> bool:
        return self._stopping is not None and self._stopping.ends(self.epoch)

    def record(self, results: Mapping[str, tuple[float, float]], options: FitOptions) -> None:
        """Note what an epoch has brought, and tell the progress."""
        self.epoch += 1
        for split, (loss, accuracy) in results.items():
            if not np.isfinite(loss):
                raise InvalidInput(
                    f"head {self._plan.head}: the {split} loss is {loss} after epoch {self.epoch} "
                    f"at learning rate {self._plan.learning_rate}",
                    next_step="lower --learning-rate",
                )
            self._history.setdefault(f"{split}_loss", []).append(loss)
            self._history.setdefault(f"{split}_accuracy", []).append(accuracy)
        self._tell(self.epoch, options)
        if self._stopping is not None:
            self._stopping.note(self._training.model, self._history["validation_loss"])

    def checkpoint(self) -> Checkpoint:
        """Return everything that the epochs to come depend on."""
        arrays = {
            f"{kind} {number}": variable.numpy()
            for kind, variables in self._variables().items()
            for number, variable in enumerate(variables)
        }
        if self._stopping is not None:
            best = enumerate(self._stopping.weights)
            arrays |= {f"best {number}": weights for number, weights in best}
        return Checkpoint(
            epoch=self.epoch,
            arrays=arrays,
            state={
                "history": self._history,
                "shuffles": self._shuffles.bit_generator.state,
                "best_epoch": 0 if self._stopping is None else self._stopping.epoch,
            },
        )

    def restore(self, options: FitOptions) -> int:
        """Take up the latest checkpoint, if there is one; return after which epoch it was made.

        The progress is told of the epochs before, as if they had just passed.
        """
        found = None if options.checkpoints is None else options.checkpoints.latest()
        if found is None:
            return 0
        for kind, variables in self._variables().items():
            _assign(variables, _numbered(found, kind))
        state = cast(dict[str, Any], found.state)
        self._history = state["history"]
        self._shuffles.bit_generator.state = state["shuffles"]
        if self._stopping is not None:
            self._stopping.epoch = state["best_epoch"]
            self._stopping.weights = _numbered(found, "best")
        self.epoch = found.epoch
        for epoch in range(1, self.epoch + 1):
            self._tell(epoch, options)
        return self.epoch

    def fitted(self, resumed: int) -> Fitted:
        """Return the outcome; with early stopping the model gets the weights of the best epoch."""
        notes: tuple[str, ...] = ()
        chosen: dict[str, object] = {}
        if self._stopping is not None:
            self._training.model.set_weights(self._stopping.weights)
            chosen = {"epoch": self._stopping.epoch}
            notes = self._stopping.notes(self.epoch, self._plan.epochs)
        if resumed:
            notes += (
                f"went on after epoch {resumed} of {self._plan.epochs}, where an earlier process "
                "was stopped: the seconds count its epochs, and not what it lost of the next",
            )
        return Fitted(history=self._history, chosen=chosen, notes=notes)

    def _variables(self) -> dict[str, Sequence[Any]]:
        # Those of the model are its weights and the state of its random generators.
        return {
            "model": self._training.model.variables,
            "optimizer": self._training.optimizer.variables,
        }

    def _tell(self, epoch: int, options: FitOptions) -> None:
        if options.progress is not None:
            numbers = {name: curve[epoch - 1] for name, curve in self._history.items()}
            options.progress(epoch, self._plan.epochs, numbers)


def _numbered(checkpoint: Checkpoint, kind: str) -> list[np.ndarray]:
    count = sum(name.partition(" ")[0] == kind for name in checkpoint.arrays)
    return [checkpoint.arrays[f"{kind} {number}"] for number in range(count)]


def _assign(variables: Sequence[Any], arrays: Sequence[np.ndarray]) -> None:
    expected = [tuple(variable.shape) for variable in variables]
    if expected != [array.shape for array in arrays]:
        raise Conflict(
            f"checkpoint: expected arrays of {expected[:8]}, "
            f"found {[array.shape for array in arrays[:8]]}",
            next_step="begin anew with --restart",
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


class _Stopping:
    """Early stopping as Keras's `EarlyStopping` with `restore_best_weights`."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.epoch = 0
        self.weights: list[np.ndarray] = []

    def note(self, model: Any, losses: list[float]) -> None:
        """Keep the weights of an epoch whose loss is the lowest."""
        if not self.epoch or losses[-1] < losses[self.epoch - 1]:
            self.epoch, self.weights = len(losses), model.get_weights()

    def ends(self, epochs: int) -> bool:
        """Whether the lowest loss is too long ago."""
        return epochs - self.epoch >= self._patience

    def notes(self, ended: int, epochs: int) -> tuple[str, ...]:
        """Return a note where the weights are not those of the last epoch asked for."""
        if self.epoch == epochs:
            return ()
        if ended - self.epoch >= self._patience:
            since = f"no lower validation loss in the {ended - self.epoch} epochs since"
            return (f"stopped after epoch {ended} of {epochs}; kept epoch {self.epoch}: {since}",)
        return (f"kept epoch {self.epoch} of {epochs}, of the lowest validation loss",)
