"""Epochs of a fit by gradient steps: history, early stopping, checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from featurestore.errors import InvalidInput
from featurestore.training.contract import FitOptions, Rows
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
    stopping = None if plan.patience is None else _Stopping(plan.patience)
    history: dict[str, list[float]] = {}
    for epoch in range(1, plan.epochs + 1):
        results = {"train": training.epoch(shuffles, epoch=epoch)}
        if scoring is not None:
            results["validation"] = scoring()
        _record(history, results, epoch, plan)
        if options.progress is not None:
            numbers = {name: curve[-1] for name, curve in history.items()}
            options.progress(epoch, plan.epochs, numbers)
        if stopping is not None and stopping.ends(training, history["validation_loss"]):
            break
    if stopping is None:
        return Fitted(history=history)
    training.model.set_weights(stopping.weights)
    return Fitted(
        history=history,
        chosen={"epoch": stopping.epoch},
        notes=stopping.notes(len(history["train_loss"]), plan.epochs),
    )


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


def _record(
    history: dict[str, list[float]],
    results: Mapping[str, tuple[float, float]],
    epoch: int,
    plan: EpochPlan,
) -> None:
    for split, (loss, accuracy) in results.items():
        if not np.isfinite(loss):
            raise InvalidInput(
                f"head {plan.head}: the {split} loss is {loss} after epoch {epoch} "
                f"at learning rate {plan.learning_rate}",
                next_step="lower --learning-rate",
            )
        history.setdefault(f"{split}_loss", []).append(loss)
        history.setdefault(f"{split}_accuracy", []).append(accuracy)


class _Stopping:
    """Early stopping as Keras's `EarlyStopping` with `restore_best_weights`."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.epoch = 0
        self.weights: list[np.ndarray] = []

    def ends(self, training: Training, losses: list[float]) -> bool:
        """Note the weights of an epoch whose loss is the lowest; say whether to stop."""
        if not self.epoch or losses[-1] < losses[self.epoch - 1]:
            self.epoch, self.weights = len(losses), training.model.get_weights()
        return len(losses) - self.epoch >= self._patience

    def notes(self, ended: int, epochs: int) -> tuple[str, ...]:
        """Return a note where the weights are not those of the last epoch asked for."""
        if self.epoch == epochs:
            return ()
        if ended - self.epoch >= self._patience:
            since = f"no lower validation loss in the {ended - self.epoch} epochs since"
            return (f"stopped after epoch {ended} of {epochs}; kept epoch {self.epoch}: {since}",)
        return (f"kept epoch {self.epoch} of {epochs}, of the lowest validation loss",)
