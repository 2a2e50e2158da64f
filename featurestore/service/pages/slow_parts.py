"""Parts of pages that take seconds: each is made once, in one thread, and kept up to a bound."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from featurestore.service.contract import Busy

_KEPT_CHARACTERS = 48 * 2**20  # a comparison of six heads has about 1 million
_MOST_WAITING = 8
_AGAIN_S = 5


@dataclasses.dataclass(frozen=True)
class Part:
    """A title, and what stands below it as HTML whose values are escaped already.

    A part that is not `lasting` tells of damage, which may be mended: it is not kept.
    """

    title: str
    html: str
    lasting: bool = True


class SlowParts:
    """Makes parts one after the other: Matplotlib's settings belong to the whole process.

    All who ask for one part meanwhile get the same; what nobody waits for any more is finished and
    kept. To be used in one event loop.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pages")
        self._making: dict[str, asyncio.Future[Part]] = {}
        self._kept: OrderedDict[str, Part] = OrderedDict()
        self._characters = 0

    async def get(self, key: str, make: Callable[[], Part]) -> Part:
        """Return the part of a key, which says everything that the part depends on.

        Raises
        ------
        Busy
            Too many others wait to be made.
        FeatureStoreError
            As `make`: nothing is kept then.
        """
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        making = self._making.get(key)
        if making is None:
            if len(self._making) >= _MOST_WAITING:
                raise Busy(
                    "too many pages are being drawn",
                    next_step="come again in a few seconds",
                    retry_after_s=_AGAIN_S,
                )
            making = asyncio.get_running_loop().run_in_executor(self._thread, make)
            self._making[key] = making
            making.add_done_callback(lambda made: self._keep(key, made))
        return await asyncio.shield(making)

    def close(self) -> None:
        """Finish the part that is being made; the others are not begun."""
        self._thread.shutdown(cancel_futures=True)

    def _keep(self, key: str, made: asyncio.Future[Part]) -> None:
        del self._making[key]
        if made.cancelled() or made.exception() is not None:
            return
        part = made.result()
        if not part.lasting:
            return
        self._kept[key] = part
        self._characters += len(part.html)
        while self._characters > _KEPT_CHARACTERS:
            _, oldest = self._kept.popitem(last=False)
            self._characters -= len(oldest.html)
