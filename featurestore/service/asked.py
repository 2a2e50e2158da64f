"""What the names in queries mean, remembered for a moment."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from featurestore.catalogue import Record
from featurestore.recipe import Recipe
from featurestore.service.live_catalogue import FRESH_S

_NAMES = 256

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class AskedRecipe:
    """A recipe that images can be embedded under, with what each answer says of it."""

    recipe: Recipe
    feature_shape: tuple[int, ...]
    about: Mapping[str, object]

    @classmethod
    def of(cls, record: Record) -> AskedRecipe:
        """Return the recipe of a feature set, without views."""
        recipe = record.recipe.clean
        about = {
            "recipe": {"name": recipe.name, "fingerprint": recipe.fingerprint},
            "feature_shape": list(record.feature_shape),
            "dtype": recipe.dtype,
        }
        return cls(recipe, record.feature_shape, about)


class Asked(Generic[T]):
    """Finds what names mean in a thread, as that may read a disk, and knows it for `FRESH_S`.

    For one event loop. With a thread for each request, the median hit over 32 connections took
    16.8 ms, without 11.5.

    Parameters
    ----------
    find
        What it raises is raised to whoever asks, and not remembered.
    """

    def __init__(
        self, find: Callable[[str], T], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._find, self._clock = find, clock
        self._found: dict[str, tuple[float, T]] = {}

    async def find(self, wanted: str) -> T:
        """Return what `wanted` means, or meant a moment ago."""
        now = self._clock()
        known = self._found.get(wanted)
        if known is not None and now - known[0] < FRESH_S:
            return known[1]
        found = await asyncio.to_thread(self._find, wanted)
        if len(self._found) >= _NAMES:
            self._found.clear()
        self._found[wanted] = (now, found)
        return found
