"""Choosing the penalty of a logistic regression by cross-validation on the training rows."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.class_weight import compute_sample_weight

from featurestore.training.folds import possible_folds
from featurestore.training.logistic_solver import Problem, Shared, Solution, solve
from featurestore.training.settings import LogisticSettings
from featurestore.training.sklearn_model import FlatRows, random_state

# Half decades around the default. Best of them, measured: 30 or 100, by the folds, on 2,000
# photographs (VGG16 block5_pool); 300 on 50 of them and 1,000 on 100; 30 on their features averaged
# over positions, and on 1,200 digits of 64 pixels; the edge, 0.3, where labels are shuffled.
C_GRID = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)

# Bound on the relative distance of each fit's coefficients from its optimum. On the photographs
# it moves a mean log loss by less than 1e-5, where neighbours at the best c differ by 3e-3.
TUNING_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen `c`, and what each value of the grid scored.

    Parameters
    ----------
    folds
        Parts that were really used.
    log_loss, accuracy
        One number for each value of the grid: the mean over folds of the held-out rows' mean.
    notes
        What a reader of the results must be told.
    """

    c: float
    folds: int
    grid: tuple[float, ...]
    log_loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the choice without its notes, as JSON-ready values."""
        return {
            "c": self.c,
            "folds": self.folds,
            "grid": list(self.grid),
            "log_loss": list(self.log_loss),
            "accuracy": list(self.accuracy),
        }


def choose_c(shared: Shared, rows: FlatRows, *, settings: LogisticSettings, seed: int) -> Choice:
    """Return the value of `C_GRID` with the lowest mean cross-validated log loss.

    A fold holds out images with all of their views, and is judged on the images themselves; the
    folds are those without views. By log loss, since accuracy moves in steps of one row and ties
    over much of the grid, and since the head is asked for probabilities. Of equal losses the
    smallest `c`, the stronger penalty, wins. Columns were centred and scaled over all rows, those
    held out too; nothing else is known of them while they are held out.

    Raises
    ------
    InvalidInput
        A class has one row only.
    """
    labels = rows.image_labels
    used, notes = possible_folds(
        labels, asked=settings.folds, head=settings.head, instead="give --C instead of --tune"
    )
    held_out = draw_folds(labels, folds=used, seed=seed)
    weights = row_weights(rows, settings.class_weight)
    fold_weights = [np.where(rows.of_images(held), 0.0, weights) for held in held_out]
    problems = [Problem(c, within) for c in C_GRID for within in fold_weights]
    solutions = solve(
        shared, rows.y, problems, tolerance=TUNING_TOLERANCE, max_iter=settings.max_iter
    )
    scores, unfinished = [], 0
    for k, solution in enumerate(solutions):
        scores.append(_score(solution, labels, held_out[k % used]))
        unfinished += solution.distance > TUNING_TOLERANCE
    losses, accuracies = np.reshape(scores, (len(C_GRID), used, 2)).mean(axis=1).T
    best = int(losses.argmin())
    if unfinished:
        notes += (
            f"head logistic did not converge in {unfinished} of {len(problems)} fits of the "
            f"cross-validation: {settings.max_iter} iterations",
        )
    return Choice(
        c=C_GRID[best],
        folds=used,
        grid=C_GRID,
        log_loss=tuple(map(float, losses)),
        accuracy=tuple(map(float, accuracies)),
        notes=(*notes, *_edge_notes(best)),
    )


def draw_folds(y: np.ndarray, *, folds: int, seed: int) -> list[np.ndarray]:
    """Return the rows that each fold holds out, (N,) bool, every class in proportion."""
    state = random_state(seed)
    parts = StratifiedKFold(folds, shuffle=True, random_state=state).split(y[:, None], y)
    return [np.isin(np.arange(len(y)), held_out) for _, held_out in parts]


def row_weights(rows: FlatRows, class_weight: str) -> np.ndarray:
    """Return (N,) weights of rows in the loss: an image's by its class, shared by its versions."""
    of_images = compute_sample_weight(
        "balanced" if class_weight == "balanced" else None, rows.image_labels
    )
    weights: np.ndarray = rows.of_images(of_images) / rows.versions
    return weights


def _score(solution: Solution, y: np.ndarray, held_out: np.ndarray) -> tuple[float, float]:
    """Return mean log loss and accuracy on the held-out images; of equal logits the first wins.

    `held_out` is (images,), and those are the first rows.
    """
    logits, labels = solution.logits[: len(held_out)][held_out], y[held_out]
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    given = log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return float(-given.mean()), float(np.mean(logits.argmax(axis=1) == labels))


def _edge_notes(best: int) -> tuple[str, ...]:
    if 0 < best < len(C_GRID) - 1:
        return ()
    edge, beyond = ("smallest", "smaller") if best == 0 else ("largest", "larger")
    return (
        f"head logistic: the tuned C, {C_GRID[best]:g}, is the {edge} of the values tried; "
        f"a {beyond} one may do better (--C)",
    )
