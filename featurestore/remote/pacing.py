"""How often, and how long, something that failed on its way is tried again."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable

from featurestore.errors import FeatureStoreError

_PROGRESS_BYTES = 1 << 16  # less is no progress: else a byte a try would go on for ever


class Unreachable(FeatureStoreError):  # noqa: N818 -- named by what the reader does
    """Nothing answers, or never a whole answer: check the address, or come again."""

    exit_code = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pacing:
    """When to try again.

    Parameters
    ----------
    patience_s
        Longest time without progress.
    first_s, longest_s
        Pauses double from the first to the longest; each is drawn from its upper half, so that
        clients that failed together do not come again together.
    hasty_s
        What takes the place of `patience_s` before the service has answered at all: then the
        address is more likely wrong than the service starting anew.
    slowest_s
        Longest time for 64 KiB of an answer: one byte a minute is within every timeout.
    """

    patience_s: float = 60.0
    first_s: float = 0.25
    longest_s: float = 8.0
    hasty_s: float = 1.0
    slowest_s: float = 60.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


class Patience:
    """What is left of it, for one request."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self._moved = 0
        self._failures = 0
        self._since = pacing.clock()

    def moved(self, count: int) -> None:
        """Note that bytes have come."""
        self._moved += count
        if self._moved >= _PROGRESS_BYTES:
            self._moved, self._failures, self._since = 0, 0, self._pacing.clock()

    def came(self, count: int) -> None:
        """Note that bytes of one answer have come, which `self` was made for.

        Raises
        ------
        TimeoutError
            They come too slowly.
        """
        self.moved(count)
        if self._pacing.clock() - self._since > self._pacing.slowest_s:
            raise TimeoutError(
                f"its answer came slower than {_PROGRESS_BYTES} bytes in "
                f"{self._pacing.slowest_s:g} s"
            )

    def pause(
        self,
        error: FeatureStoreError,
        *,
        retry_after_s: float | None = None,
        most: int | None = None,
        hasty: bool = False,
    ) -> None:
        """Wait before the next try.

        Parameters
        ----------
        retry_after_s
            What the service asks for.
        most
            Number of tries after the first.

        Raises
        ------
        FeatureStoreError
            `error`: there is no patience left for another try.
        """
        pacing = self._pacing
        longest = min(pacing.first_s * 2 ** min(self._failures, 16), pacing.longest_s)
        pause_s = longest * (0.5 + pacing.jitter() / 2)
        if retry_after_s is not None:
            pause_s = max(pause_s, retry_after_s)
        self._failures += 1
        left = (pacing.hasty_s if hasty else pacing.patience_s) - (pacing.clock() - self._since)
        if pause_s > left or (most is not None and self._failures > most):
            raise error
        pacing.sleep(pause_s)
