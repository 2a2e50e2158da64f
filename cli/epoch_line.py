"""One line of progress for a training in epochs, and what is said when it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from featurestore_cli.output import say


class EpochLine:
    """Shows the last epoch's numbers, and how many images of the next have been seen.

    `show` is None off a terminal: then only `resumed` and `damaged` say anything.
    """

    def __init__(self, show: Callable[[str], None] | None) -> None:
        self._show = show
        self._done = 0
        self._epochs = 0
        self._rows = 0
        self._last = ""

    def expect(self, epochs: int, rows: int) -> None:
        """Say beforehand how many epochs there are, and training images in each."""
        self._epochs, self._rows = epochs, rows

    def epoch(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """Show what an epoch has brought."""
        self._done, self._epochs = done, total
        self._last = f"epoch {done} of {total}{_numbers_text(numbers)}"
        self._tell(self._last)

    def images(self, done: int) -> None:
        """Show how far a pass over images is."""
        if self._done < self._epochs:
            text = f"epoch {self._done + 1} of {self._epochs}: {done} of {self._rows} images"
        else:
            text = f"evaluating: {done} images"
        self._tell(text + (f"; {self._last}" if self._last else ""))

    def resumed(self, epoch: int) -> None:
        """Say that a training goes on."""
        self._tell("")
        say(f"going on after epoch {epoch} of {self._epochs}")

    def damaged(self, checkpoint: Path) -> None:
        """Say that a checkpoint is of no use."""
        self._tell("")
        say(f"checkpoint {checkpoint.name} is damaged: looking for one before it")

    def _tell(self, text: str) -> None:
        if self._show is not None:
            self._show(text)


def _numbers_text(numbers: Mapping[str, float]) -> str:
    text = ""
    if "train_loss" in numbers:
        text = f": loss {numbers['train_loss']:.4f}, accuracy {numbers['train_accuracy']:.4f}"
    if "validation_loss" in numbers:
        loss, accuracy = numbers["validation_loss"], numbers["validation_accuracy"]
        text += f"; validation {loss:.4f}, {accuracy:.4f}"
    return text
