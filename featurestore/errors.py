"""What can go wrong, grouped by what the reader would do about it.

Each class carries the exit code that `fs` ends with, so that a script can tell them apart.
"""

from __future__ import annotations


class FeatureStoreError(Exception):
    """Root of every error that featurestore raises on purpose.

    Parameters
    ----------
    message
        What failed, on which object, expected against found.
    next_step
        What to type or change next; printed on a line of its own.
    """

    exit_code = 70

    def __init__(self, message: str, *, next_step: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.next_step}" if self.next_step else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries; keyword-only arguments do not survive the default.
        return (_rebuild, (type(self), self.message, self.next_step))


def _rebuild(
    kind: type[FeatureStoreError], message: str, next_step: str | None
) -> FeatureStoreError:
    return kind(message, next_step=next_step)


class InvalidInput(FeatureStoreError):  # noqa: N818 -- named by what the reader does, as errors in this project are
    """The input must be changed: a bad option, dataset, weights file or image."""

    exit_code = 3


class UnstorableFeatures(InvalidInput):
    """Features that the stored type cannot hold; `rows` are their positions in the batch."""

    def __init__(
        self, message: str, *, next_step: str | None = None, rows: tuple[int, ...] = ()
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.rows = rows

    def of(self, image: str) -> InvalidInput:
        """Return the error of whoever knows which image the first of the rows is."""
        return InvalidInput(f"{image}: {self.message}", next_step=self.next_step)


class NotFound(FeatureStoreError):  # noqa: N818
    """A named thing does not exist: correct the name or create the thing."""

    exit_code = 4


class IntegrityError(FeatureStoreError):
    """Stored bytes are not what was committed: restore or recompute them."""

    exit_code = 5


class Conflict(FeatureStoreError):  # noqa: N818
    """Another writer, a newer format or different fingerprints stand in the way."""

    exit_code = 6


class MissingDependency(FeatureStoreError):  # noqa: N818
    """A package that this path needs is not installed."""

    exit_code = 7
